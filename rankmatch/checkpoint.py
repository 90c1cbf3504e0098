"""The full training state: written beside its place and renamed, verified by its hash, and pruned."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rankmatch.hashing import sha256_of

STATE, MANIFEST = "state.pt", "manifest.json"


def save(run_dir: Path, step: int, state: dict[str, Any], num_kept: int) -> Path:
    """Write `run_dir/checkpoints/step_<step>` and remove all but the `num_kept` newest.

    `state` holds tensors, numbers, text, lists and dicts only, so that it can be read without running code.
    """
    folder = run_dir / "checkpoints"
    target = folder / f"step_{step}"
    if is_intact(target):
        return target
    shutil.rmtree(target, ignore_errors=True)  # a damaged one of an earlier process
    for leftover in folder.glob(".step_*"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover)
    draft = folder / f".step_{step}.{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        _write(draft / STATE, state)
        manifest = {"schema": 1, "step": step, "sha256": sha256_of(draft / STATE)}
        (draft / MANIFEST).write_text(json.dumps(manifest))
        draft.rename(target)
    except (OSError, RuntimeError):  # torch's writer turns some full disks into a RuntimeError
        shutil.rmtree(draft, ignore_errors=True)  # a full disk is not to stay full for this
        raise
    _prune(folder, step, num_kept)
    return target


def save_model(path: Path, parameters: dict[str, Any]) -> None:
    """Write a network alone, for evaluation and prediction, in place of an earlier one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(draft, {"model": parameters})
        draft.replace(path)
    except (OSError, RuntimeError):
        draft.unlink(missing_ok=True)
        raise


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint's state on the CPU; tensors and plain values only, no pickled code."""
    state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    return state


def newest(run_dir: Path) -> Path | None:
    """Find the newest intact checkpoint of a run; a damaged one is passed over with a warning."""
    for path in _newest_first(run_dir / "checkpoints"):
        if is_intact(path):
            return path
        warnings.warn(f"checkpoint {path} is damaged and passed over", stacklevel=2)
    return None


def adopt(path: Path, run_dir: Path) -> Path:
    """Link a checkpoint of another run folder into this one, where nobody but its own run prunes it; return its place.

    Raises:
        FileNotFoundError: It was pruned meanwhile.
    """
    target = run_dir / "checkpoints" / path.name
    draft = target.with_name(f".{path.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        for name in (STATE, MANIFEST):
            (draft / name).hardlink_to(path / name)
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft)
        raise
    return target


def step_of(path: Path) -> int:
    """Tell how many steps a checkpoint `step_<k>` has behind it."""
    return int(path.name.removeprefix("step_"))


def is_intact(path: Path) -> bool:
    """Compare a checkpoint with the hash that was written beside it."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        return bool(manifest["sha256"] == sha256_of(path / STATE))
    except (OSError, ValueError, KeyError):
        return False


def _prune(folder: Path, step: int, num_kept: int) -> None:
    """Keep the newest up to `step`; later ones belong to a course that was given up."""
    found = list(_newest_first(folder))
    kept = [path for path in found if step_of(path) <= step][:num_kept]
    for path in found:
        if path not in kept:
            shutil.rmtree(path)


def _newest_first(folder: Path) -> Iterator[Path]:
    found = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return iter(sorted(found, key=step_of, reverse=True))


def _write(path: Path, content: dict[str, Any]) -> None:
    with path.open("wb") as file:  # an open file, so that a full disk is an OSError
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
