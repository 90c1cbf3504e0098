"""Notice the first step that leaves a loss or a weight which is not finite, without waiting for the device."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from rankmatch.durable import replacing, sync_folder
from rankmatch.run_files import BAD_STEP

SCHEMA = 1
_NONE = -1


class NonFiniteLossError(ArithmeticError):
    """A loss, or a weight after the step, became NaN or infinite."""


class StepToLeaveOutError(NonFiniteLossError):
    """The same, in a run that may return to its last checkpoint once, and leave the step out."""


@dataclass(frozen=True, slots=True)
class BadStep:
    """The first step that was not finite."""

    step: int
    losses: dict[str, float]
    """Its losses, by the names of rows, means over the workers."""
    workers: list[int]
    """Those whose own loss is not finite; empty: the losses are, and only the weights after the step are not."""

    def in_words(self, num_steps: int) -> str:
        """Describe it."""
        if isfinite(loss := self.losses["loss"]):
            return f"weights are not finite after step {self.step} of {num_steps}, though its loss is {loss:.3g}"
        terms = [name for name, value in self.losses.items() if name != "loss" and not isfinite(value)]
        of_terms = f" (not finite: {', '.join(terms)})" if terms else ""
        return f"the loss is {loss} at step {self.step} of {num_steps}{of_terms}"


class FiniteWatch:
    """Keeps on the device which step was the first whose total loss, or weights after it, are not finite."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._weights = [*network.parameters(), *(one for one in network.buffers() if one.is_floating_point())]
        self._step = torch.full((), _NONE, dtype=torch.int64, device=device)
        self._names: list[str] = []
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def note(self, step: int, losses: Mapping[str, Tensor], bad_workers: Float[Tensor, " workers"]) -> None:
        """Look at a step after the update, the same on all workers; nothing waits for the device.

        Args:
            step: Its number.
            losses: Sum and count of each over all workers, by the names of rows.
            bad_workers: 1 at each worker whose own loss is not finite, else 0.
        """
        is_bad = ~(losses["loss"][0].isfinite() & _are_finite(self._weights))
        is_first = is_bad & (self._step == _NONE)
        new = [torch.stack([total / count for total, count in losses.values()]), bad_workers]
        before = self._kept or new
        self._names = list(losses)
        self._kept = [torch.where(is_first, now, then) for now, then in zip(new, before, strict=True)]
        self._step = torch.where(is_first, step, self._step)

    def found(self) -> BadStep | None:
        """Return the first bad step so far; waits for the device."""
        step = int(self._step)
        if step == _NONE:
            return None
        values, flags = (part.tolist() for part in self._kept)
        workers = [worker for worker, flag in enumerate(flags) if flag]
        return BadStep(step, dict(zip(self._names, values, strict=True)), workers)


def _are_finite(weights: Sequence[Tensor]) -> Tensor:
    """Return whether all are: NaN and infinity pass through extremes.

    Each device has its way: a few kernels for all on a GPU; on a CPU, vectorised, a fifteenth of the time of that norm.
    """
    if weights[0].device.type == "cpu":
        return torch.stack([extreme for one in weights for extreme in torch.aminmax(one)]).isfinite().all()
    return get_total_norm(weights, inf).isfinite()


def write(
    run_dir: Path,
    bad: BadStep,
    *,
    place: Mapping[str, int],
    leave_out: bool,
    images: Sequence[Mapping[str, Any]],
) -> Path:
    """Write what it takes to look at a bad step again; every worker writes the same.

    Args:
        run_dir: Folder of the run.
        bad: The step.
        place: `seed`, `epoch` and whatever else names the step; with the positions of images it keys all of its draws.
        leave_out: Whether the run returns to its last checkpoint and leaves it out.
        images: For each worker the images that it saw.
    """
    losses = {name: value if isfinite(value) else str(value) for name, value in bad.losses.items()}
    workers = [{"worker": number, "is_finite": number not in bad.workers, **seen} for number, seen in enumerate(images)]
    content = {
        "schema": SCHEMA, "step": bad.step, **place, "leave_out": leave_out, "losses": losses, "workers": workers,
    }  # fmt: skip
    path = run_dir / BAD_STEP
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_folder(run_dir)
    return path
