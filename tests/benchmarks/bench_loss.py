"""Agents and rank loss on the grid of crop 801: 51x51, 256 channels, 128 agents, batch 8, forward and backward."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.harness import Row, Settings, compare, peak_mb
from rankmatch.losses import rank_consistency

CHANNELS, EXACT, AUTHORS = 256, 0.0, 1e-10
Step = Callable[[], tuple[float, Tensor]]


def rows(settings: Settings) -> Iterator[Row]:
    """Measure the exact form, with 4 and with 8 ranked agents, and the authors' form, beside the reference with 4."""
    size = "tiny" if settings.tiny else "full"
    loss, gradient = theirs(size, EXACT)()
    for name, top_k, epsilon in (
        ("rank_loss", 4, EXACT),
        ("rank_loss_k8", 8, EXACT),
        ("rank_loss_authors", 4, AUTHORS),
    ):
        run, against = ours(size, top_k, epsilon), theirs(size, epsilon)
        row = compare(name, run, against, settings.repeats)
        if name == "rank_loss":
            value, found = run()
            off = max(abs(value / loss - 1), float((found - gradient).norm() / gradient.norm()))
            row = replace(row, peak_mb=peak_mb("bench_loss", "prepare", size), note=f"differ by {off:.1e}")
        yield row


def prepare(size: str) -> Step:
    """Prepare a loss for `peak_mb`."""
    return ours(size, 4, EXACT)


def ours(size: str, top_k: int, epsilon: float) -> Step:
    """Make the loss as the trainer takes it."""
    teacher, student, first, num_agents = _inputs(size, torch.channels_last)

    def step() -> tuple[float, Tensor]:
        student.grad = None
        loss = rank_consistency(teacher, student, num_agents=num_agents, top_k=top_k, first=first, epsilon=epsilon)
        return _backward(loss, student)

    return step


def theirs(size: str, epsilon: float) -> Step:
    """Make the textbook loss with 4 ranked agents."""
    teacher, student, first, num_agents = _inputs(size, torch.contiguous_format)

    def step() -> tuple[float, Tensor]:
        student.grad = None
        return _backward(reference.rank_loss(teacher, student, first, num_agents, 4, epsilon), student)

    return step


def _backward(loss: Tensor, student: Tensor) -> tuple[float, Tensor]:
    loss.backward()
    assert student.grad is not None
    return loss.item(), student.grad


def _inputs(size: str, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, int]:
    """Draw features as rectified as the network's, and as large as keeps the correlations from saturating."""
    grid, batch, num_agents = (9, 2, 16) if size == "tiny" else (51, 8, 128)
    draws = torch.Generator().manual_seed(0)
    teacher = 0.2 * torch.randn(batch, CHANNELS, grid, grid, generator=draws).relu()
    student = (teacher + 0.05 * torch.randn(teacher.shape, generator=draws)).relu()
    pair = (features.contiguous(memory_format=layout) for features in (teacher, student))
    teacher, student = pair
    return teacher, student.requires_grad_(), torch.arange(batch), num_agents
