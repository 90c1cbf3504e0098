"""Checkpoints: the training state and the best weights so far in one folder, written atomically, verified and pruned.

The best weights are part of the checkpoint, so that no kill can leave those of an epoch that the state does not know.
`best.pt` beside the checkpoints is a second name of the newest one's.
"""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rankmatch.durable import link_or_copy, replacing, sync_folder
from rankmatch.hashing import sha256_of
from rankmatch.run_files import (
    BEST,
    CHECKPOINTS,
    MANIFEST,
    STATE,
    checkpoint_name,
    is_checkpoint,
    order_of,
    step_of,
)


@dataclass(frozen=True, slots=True)
class Best:
    """The epoch of the best weights; stored in their file and in the checkpoint's manifest."""

    epoch: int
    """Counted from 1."""
    step: int
    """Number of steps done at its end."""
    miou: float
    sha256: str = ""
    """Hash of the file."""


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
        num_kept: How many checkpoints stay, including this one.
        best: The best weights so far; None: there are none yet.
        weights: The parameters of a new best epoch; None: `run_dir/best.pt` already holds the best ones.
        is_evaluated: False at the end of an epoch that has not been evaluated yet. The name then says so, because
            another checkpoint follows at the same step.
    """
    folder = run_dir / CHECKPOINTS
    target = folder / checkpoint_name(step, is_evaluated=is_evaluated)
    if is_intact(target):
        _sync_name(target)  # whoever wrote it may have been killed before it could
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
    """Return the description of a checkpoint's best weights; None if it has none or an earlier version wrote it."""
    best = json.loads((path / MANIFEST).read_text()).get("best")
    return Best(**best) if best else None


def show_best(weights: Path | None, run_dir: Path) -> None:
    """Make a file of best weights the run folder's `best.pt`; None removes it, because no epoch counts yet."""
    if weights is None:
        (run_dir / BEST).unlink(missing_ok=True)
        return
    with replacing(run_dir / BEST) as draft:
        link_or_copy(weights, draft)
    sync_folder(run_dir)


def newest(run_dir: Path) -> Path | None:
    """Find the newest intact checkpoint of a run; skip damaged ones with a warning."""
    return first_intact(newest_first(run_dir))


def first_intact(paths: Sequence[Path]) -> Path | None:
    """Return the first intact checkpoint; skip damaged ones with a warning.

    Raises:
        OSError: One cannot be read now, mostly because a file server is away. It does not count as damaged.
    """
    for path in paths:
        if not (damage := damage_of(path)):
            return path
        if path.exists():  # not pruned meanwhile
            warnings.warn(f"checkpoint {path} is damaged and was skipped: {damage}", stacklevel=2)
    return None


def newest_first(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, intact or not."""
    try:
        names = os.listdir(run_dir / CHECKPOINTS)  # noqa: PTH208 (a glob takes one that cannot be read for an empty one)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(filter(is_checkpoint, (run_dir / CHECKPOINTS / name for name in names)), key=order_of, reverse=True)


def adopt(path: Path, run_dir: Path, best: Path | None = None) -> Path:
    """Link a checkpoint of another run folder into this one, so that only this run can prune it; return its new path.

    Args:
        path: The checkpoint.
        run_dir: The folder that will own it.
        best: The best weights, for a checkpoint of an earlier version, which does not contain them.

    Raises:
        FileNotFoundError: It was pruned in the meantime.
    """
    target = run_dir / CHECKPOINTS / path.name
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
    """Remove all but the newest checkpoints; those after the step `up_to` belong to an abandoned continuation."""
    found = newest_first(run_dir)
    kept = [path for path in found if up_to is None or step_of(path) <= up_to][:num_kept]
    for path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)  # what stays is pruned the next time


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint can be resumed from; see `damage_of`."""
    return not damage_of(path)


def damage_of(path: Path) -> str:
    """Return why a checkpoint cannot be resumed from; empty: it matches its manifest, and loading it runs no code.

    Raises:
        OSError: It cannot be read now; only what is missing or differs is damaged.
    """
    try:
        hashes = _hashes_in(path / MANIFEST)
        changed = [name for name, known in hashes.items() if sha256_of(path / name) != known]
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    if changed:
        return f"{changed[0]} is not what was written, by its hash in {MANIFEST}"
    return next(filter(None, (_fault_of_content(path / name) for name in hashes)), "")


def _hashes_in(manifest: Path) -> dict[str, str]:
    content = json.loads(manifest.read_text())
    best = content.get("best")
    return {STATE: content["sha256"], **({BEST: best["sha256"]} if best else {})}


def _fault_of_content(path: Path) -> str:
    """Return why a file cannot be loaded, though by its hash it is what was written; empty if it can."""
    try:
        _load_values(path)
    except (OSError, MemoryError):
        raise
    except pickle.UnpicklingError:
        return f"{path.name} holds more than tensors and plain values, which could run code"
    except Exception as error:  # noqa: BLE001 (torch raises almost anything for a file that it did not write)
        if "allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        return f"{path.name} cannot be read as tensors and plain values"
    return ""


def _load_values(path: Path) -> None:
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # a file system without memory maps, or a format that torch maps no file of
        torch.load(path, map_location="cpu", weights_only=True)


def _put_best(place: Path, known: Path, best: Best, weights: dict[str, Any] | None) -> Best:
    """Write new best weights, or link the known ones; return their description, with the hash."""
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
    """Rename a complete folder into place, so that neither a kill nor a power cut leaves half of it there."""
    sync_folder(draft)
    draft.rename(target)
    _sync_name(target)


def _sync_name(target: Path) -> None:
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
