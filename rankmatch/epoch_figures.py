"""The figures of steps and epochs: sums over all workers, which a checkpoint keeps, and their quotients as a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from rankmatch.diagnostics import RATIOS, Ratio
from rankmatch.distributed import sum_over_workers, world
from rankmatch.methods import Method

Row = dict[str, float | None]


@dataclass(slots=True)
class StepFigures:
    """The figures of a step over all workers."""

    pairs: dict[str, Tensor]
    """[sum, count] by name, the total loss first; each worker's losses count once."""
    class_counts: dict[str, Tensor]
    """Points of each class by what was counted."""
    bad_workers: Float[Tensor, " workers"]
    """1 at each worker whose own loss is not finite, else 0."""


def summed(
    losses: Mapping[str, Tensor], ratios: Mapping[str, Ratio], class_counts: Mapping[str, Tensor]
) -> StepFigures:
    """Add up a step's figures over workers, in one exchange; `losses` has the total, `loss`, first."""
    once = torch.ones_like(losses["loss"])
    pairs = {name: (loss, once) for name, loss in losses.items()} | dict(ratios)
    bad = once.new_zeros(world().size, dtype=torch.float64)
    bad[world().rank] = ~losses["loss"].isfinite()
    parts = [part.double() for pair in pairs.values() for part in pair]
    rest = [*class_counts.values(), bad]
    flat = sum_over_workers(torch.cat([torch.stack(parts), *(part.double() for part in rest)]))
    first, *others = torch.split(flat, [len(parts), *map(len, rest)])
    return StepFigures(
        pairs=dict(zip(pairs, first.view(-1, 2).unbind(), strict=True)),
        class_counts=dict(zip(class_counts, others, strict=False)),
        bad_workers=others[-1],
    )


@dataclass(slots=True)
class EpochFigures:
    """The sums over an epoch's steps so far and all workers."""

    totals: dict[str, Tensor] = field(default_factory=dict)
    """[sum, count] of every figure."""
    class_counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: StepFigures) -> None:
        """Count a step."""
        for sums, figures in ((self.totals, step.pairs), (self.class_counts, step.class_counts)):
            for name, figure in figures.items():
                sums[name] = sums.get(name, torch.zeros_like(figure)) + figure


def quotients(pairs: Mapping[str, Tensor]) -> Row:
    """Return sum / count under the names of rows; None where nothing counted, as where no pixel is confident."""
    if not pairs:
        return {}
    values = (part / count if count else None for part, count in torch.stack(list(pairs.values())).tolist())
    return dict(zip(map(row_name, pairs), values, strict=True))


def without_steps(method: Method) -> Row:
    """Return the row of an epoch all of whose steps were left out: the losses of the method, without values."""
    return dict.fromkeys(map(row_name, ("loss", *(name for term in method.terms for name in term.names))))


def row_name(term: str) -> str:
    """Name a loss term `loss_<term>` in rows; the total and the ratios keep their names."""
    return term if term in ("loss", *RATIOS) else f"loss_{term}"
