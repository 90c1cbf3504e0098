"""Check that a checkpoint belongs to the run that resumes from it, and find the best weights that come with it."""

import warnings
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rankmatch import NUMERICS, checkpoint
from rankmatch.checkpoint import Best
from rankmatch.config import NumericsConfig
from rankmatch.run_files import BEST

_MEND = "remove it if it came from another run: the one before it is then resumed from"


def check_same_run(path: Path, state: dict[str, Any], numerics: NumericsConfig, num_steps: int) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        ValueError: It was trained with other settings, by other numerics, or for another number of steps.
    """
    _check_same_settings(path, state["numerics"], numerics)
    steps = state["result"]["num_steps"]
    if (state["version"], steps) != (NUMERICS, num_steps):
        raise ValueError(
            f"checkpoint {path} belongs to a run of {steps} steps by numerics {state['version']}; "
            f"this one has {num_steps} by numerics {NUMERICS}: the lists or the code changed"
        )


def best_with(path: Path, best_epoch: int, best_miou: float, steps_per_epoch: int) -> tuple[Best | None, Path | None]:
    """Return the best weights of a checkpoint and their path; None before the first epoch.

    An earlier version kept them beside the checkpoints; if they are missing there, a warning says so.
    """
    best = checkpoint.best_in(path)
    if best is not None:
        return best, path / BEST
    if not best_epoch:
        return None, None
    for place in (path / BEST, path.parents[1] / BEST):
        if place.exists():
            return Best(best_epoch, best_epoch * steps_per_epoch, best_miou), place
    warnings.warn(
        f"{path} comes without the weights of its best epoch, {best_epoch}; the run has none unless a later epoch is "
        "better",
        stacklevel=2,
    )
    return None, None


def _check_same_settings(path: Path, saved: dict[str, Any], present: Any, prefix: str = "") -> None:  # noqa: ANN401
    """Refuse a checkpoint with other settings; a field that it lacks was added later and had its neutral value."""
    if unknown := sorted(saved.keys() - {part.name for part in fields(present)}):
        raise ValueError(
            f"checkpoint {path} was trained with {prefix}{unknown[0]}, which this version does not know; {_MEND}"
        )
    for part in fields(present):
        now = getattr(present, part.name)
        before = saved.get(part.name, {} if is_dataclass(now) else part.metadata.get("neutral", now))
        if is_dataclass(now):
            _check_same_settings(path, before, now, f"{prefix}{part.name}.")
        elif before != now:
            raise ValueError(
                f"checkpoint {path} was trained with {prefix}{part.name}={before!r}; this run has {now!r}; {_MEND}"
            )
