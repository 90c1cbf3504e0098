"""The training state with the best weights so far: one folder, written beside its place and renamed, verified, pruned.

The best weights are part of the checkpoint, so that no kill can leave those of an epoch that the state does not know.
`best.pt` beside the checkpoints is a second name of the newest one's.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rankmatch.durable import link_or_copy, sync_folder
from rankmatch.hashing import sha256_of

FOLDER = "checkpoints"
STATE, BEST, MANIFEST = "state.pt", "best.pt", "manifest.json"
_NAME = re.compile(r"step_(\d+)(_before_evaluation)?")


@dataclass(frozen=True, slots=True)
class Best:
    """Of which epoch the best weights are; this stands in their file and in the checkpoint's manifest."""

    epoch: int
    """From 1."""
    step: int
    """Number of steps done by then."""
    miou: float
    sha256: str = ""
    """Of the file."""


def save(
    run_dir: Path,
    step: int,
    state: dict[str, Any],
    num_kept: int,
    *,
    best: Best | None = None,
    weights: dict[str, Any] | None = None,
    is_evaluated: bool = True,
) -> Path:
    """Write `run_dir/checkpoints/step_<step>` and remove all but the `num_kept` newest.

    Args:
        run_dir: Folder of the run.
        step: Number of steps done.
        state: Tensors, numbers, text, lists and dicts only, so that it can be read without running code.
        num_kept: How many checkpoints stay, this one included.
        best: What the best weights so far are; None: there are none yet.
        weights: The parameters of a new best epoch; None: `run_dir/best.pt` still holds the best ones.
        is_evaluated: False at the end of an epoch that is still to be evaluated: this one's name says so, so that the
            one that follows it at the same step is another.
    """
    folder = run_dir / FOLDER
    target = folder / (f"step_{step}" if is_evaluated else f"step_{step}_before_evaluation")
    if is_intact(target):
        return target
    shutil.rmtree(target, ignore_errors=True)  # a damaged one of an earlier process
    for leftover in folder.glob(".step_*"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover)
    draft = _make_draft(folder, target.name)
    try:
        _write(draft / STATE, state)
        manifest: dict[str, Any] = {"schema": 1, "step": step, "sha256": sha256_of(draft / STATE)}
        if best is not None:
            manifest["best"] = asdict(_put_best(draft / BEST, run_dir / BEST, best, weights))
        _write_text(draft / MANIFEST, json.dumps(manifest))
        _move_into_place(draft, target)
    except (OSError, RuntimeError):  # torch's writer turns some full disks into a RuntimeError
        shutil.rmtree(draft, ignore_errors=True)  # a full disk is not to stay full for this
        raise
    if weights is not None:
        show_best(target / BEST, run_dir)
    prune(run_dir, num_kept, up_to=step)
    return target


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint's state on the CPU; tensors and plain values only, no pickled code."""
    state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    return state


def best_in(path: Path) -> Best | None:
    """Tell what the best weights in a checkpoint are; None where it has none, or an earlier version wrote it."""
    best = json.loads((path / MANIFEST).read_text()).get("best")
    return Best(**best) if best else None


def show_best(weights: Path | None, run_dir: Path) -> None:
    """Make a file of best weights that of a run folder; None: no epoch counts yet, and the folder has none either."""
    if weights is None:
        (run_dir / BEST).unlink(missing_ok=True)
        return
    draft = run_dir / f".{BEST}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    link_or_copy(weights, draft)
    draft.replace(run_dir / BEST)
    draft.unlink(missing_ok=True)  # renaming one name of a file over another of its names leaves both
    sync_folder(run_dir)


def newest(run_dir: Path) -> Path | None:
    """Find the newest intact checkpoint of a run; a damaged one is passed over with a warning."""
    return first_intact(newest_first(run_dir))


def first_intact(paths: Sequence[Path]) -> Path | None:
    """Return the first checkpoint that is intact; a damaged one is passed over with a warning.

    Raises:
        OSError: One cannot be read now, a file server that is away mostly: that does not make it a damaged one.
    """
    for path in paths:
        if is_intact(path):
            return path
        if path.exists():  # not pruned meanwhile
            warnings.warn(f"checkpoint {path} is damaged and passed over", stacklevel=2)
    return None


def newest_first(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, intact or not."""
    try:
        names = os.listdir(run_dir / FOLDER)  # noqa: PTH208 (a glob takes a folder that cannot be read for an empty one)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((run_dir / FOLDER / name for name in names if _NAME.fullmatch(name)), key=order_of, reverse=True)


def order_of(path: Path) -> tuple[int, bool]:
    """Return what checkpoints are ordered by: the evaluation at the end of an epoch is the last of its step."""
    return step_of(path), is_evaluated(path)


def adopt(path: Path, run_dir: Path, best: Path | None = None) -> Path:
    """Link a checkpoint of another run folder into this one, where nobody but its own run prunes it; return its place.

    Args:
        path: The checkpoint.
        run_dir: The folder that it shall belong to.
        best: The best weights, for a checkpoint of an earlier version, which does not hold them itself.

    Raises:
        FileNotFoundError: It was pruned meanwhile.
    """
    target = run_dir / FOLDER / path.name
    draft = _make_draft(target.parent, path.name)
    try:
        for name in (STATE, MANIFEST):
            link_or_copy(path / name, draft / name)
        held = path / BEST if (path / BEST).exists() else best
        if held is not None:
            link_or_copy(held, draft / BEST)
        _move_into_place(draft, target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return target


def prune(run_dir: Path, num_kept: int, *, up_to: int | None = None) -> None:
    """Remove all checkpoints but the newest; those after the step `up_to` belong to a course that was given up."""
    found = newest_first(run_dir)
    kept = [path for path in found if up_to is None or step_of(path) <= up_to][:num_kept]
    for path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)  # what stays is pruned the next time


def step_of(path: Path) -> int:
    """Tell how many steps a checkpoint `step_<k>` has behind it."""
    name = _NAME.fullmatch(path.name)
    assert name is not None, "checkpoints are found by their names"
    return int(name[1])


def is_evaluated(path: Path) -> bool:
    """Tell whether a checkpoint at the end of an epoch has its evaluation behind it."""
    return not path.name.endswith("_before_evaluation")


def is_intact(path: Path) -> bool:
    """Compare a checkpoint with the hashes that were written beside it.

    Raises:
        OSError: It cannot be read now; only what is missing or differs is damaged.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        hashes = {STATE: manifest["sha256"]}
        if best := manifest.get("best"):
            hashes[BEST] = best["sha256"]
        return all(sha256_of(path / name) == known for name, known in hashes.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _put_best(place: Path, known: Path, best: Best, weights: dict[str, Any] | None) -> Best:
    """Write new best weights with what they are, or link those that are known; return what they are, with the hash."""
    if weights is None:
        link_or_copy(known, place)
        return best if best.sha256 else Best(best.epoch, best.step, best.miou, sha256_of(place))
    _write(place, {"model": weights, "epoch": best.epoch, "step": best.step, "miou": best.miou})
    return Best(best.epoch, best.step, best.miou, sha256_of(place))


def _make_draft(folder: Path, name: str) -> Path:
    draft = folder / f".{name}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)  # of a process that had the same number
    draft.mkdir(parents=True)
    return draft


def _move_into_place(draft: Path, target: Path) -> None:
    """Rename a complete folder, so that neither a kill nor a power cut leaves half of it under its name."""
    sync_folder(draft)
    draft.rename(target)
    sync_folder(target.parent)
    sync_folder(target.parent.parent)  # `checkpoints` itself may be new


def _write(path: Path, content: dict[str, Any]) -> None:
    with path.open("wb") as file:  # an open file, so that a full disk is an OSError
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
