"""Warn, with figures, of an epoch that trained in vain: missing classes, collapsed pseudo-labels, a dead rank term."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rankmatch.config import IGNORE_INDEX, NumericsConfig
from rankmatch.diagnostics import LABELS, PSEUDO_LABELS, warn_of_rank_term
from rankmatch.drawn import class_name

Row = Mapping[str, float | None]
Fault = tuple[str, str]
"""What kind of fault it is, and a sentence."""

SHARE, MIN_EPOCHS = 1 / 3, 3
"""Little is said in the first third of a run, and of runs of fewer epochs, which are trials."""
COLLAPSED, OF_LABELS = 0.01, 0.1
"""Pseudo-labels have collapsed if all classes but one have less than the first as their share, and less than the second
times their share of the labeled pixels."""
ALL_ZERO = 0.99
UNMOVED = 1e-4
"""Relative change of the last layer's weights over an epoch below which the learning rate does nothing."""
MAX_NAMED = 5


@dataclass(slots=True)
class EpochWarnings:
    """Says each thing once in a process."""

    numerics: NumericsConfig
    class_names: Sequence[str]
    said: set[str] = field(default_factory=set)

    def tell(self, epoch: int, row: Row, counts: Mapping[str, Tensor], moved: float) -> None:
        """Warn of what is wrong.

        Args:
            epoch: Counted from 1.
            row: Its figures.
            counts: Points of each class by what was counted.
            moved: By how much the last layer changed in it, relative to its size; NaN: not known.
        """
        warn_of_rank_term(row, self.numerics.method.weight_rank, epoch)
        for kind, text in self._faults(epoch, row, counts, moved):
            if kind not in self.said:
                warnings.warn(f"epoch {epoch}: {text}", stacklevel=3)
            self.said.add(kind)

    def _faults(self, epoch: int, row: Row, counts: Mapping[str, Tensor], moved: float) -> Iterator[Fault]:
        num_epochs = self.numerics.trainer.epochs
        if epoch <= max(1, num_epochs / 2):  # later the schedule itself makes the steps small
            yield from self._learning_rate(moved)
        if num_epochs < MIN_EPOCHS or epoch < SHARE * num_epochs:
            return
        labels, pseudo_labels = (counts[name].tolist() if name in counts else [] for name in (LABELS, PSEUDO_LABELS))
        yield from self._missing(labels)
        yield from self._pseudo_labels(labels, pseudo_labels)
        yield from self._agents(row.get("zero_agent_share"))

    def _learning_rate(self, moved: float) -> Iterator[Fault]:
        if moved < UNMOVED:
            text = (
                f"the weights of the last layer changed by {moved:.1g} of their size in the whole epoch: "
                f"trainer.learning_rate={self.numerics.trainer.learning_rate:g} does nothing"
            )
            yield "learning rate", text

    def _missing(self, labels: Sequence[float]) -> Iterator[Fault]:
        if any(labels) and (missing := [number for number, count in enumerate(labels) if not count]):
            text = (
                f"no labeled crop showed {self._named(missing)} (in every fourth row and column), so nothing teaches "
                f"it; look at the labeled list of split {self.numerics.split} and at dataset.label_map"
            )
            yield "missing", text

    def _pseudo_labels(self, labels: Sequence[float], pseudo_labels: Sequence[float]) -> Iterator[Fault]:
        if not any(labels) or not any(pseudo_labels):
            return
        top = max(range(len(pseudo_labels)), key=pseudo_labels.__getitem__)
        others, others_labeled = (1 - counts[top] / sum(counts) for counts in (pseudo_labels, labels))
        if others < min(COLLAPSED, OF_LABELS * others_labeled):
            text = (
                f"{1 - others:.2%} of the confident pixels have the pseudo-label {self._named([top])}, but only "
                f"{1 - others_labeled:.1%} of the labeled pixels that class: the pseudo-labels have collapsed; look at "
                "class_iou_* and at method.confidence_threshold"
            )
            yield "collapse", text

    def _agents(self, share: float | None) -> Iterator[Fault]:
        if share is not None and share >= ALL_ZERO and self.numerics.method.weight_rank > 0:
            text = (
                f"{share:.1%} of the agents have features that are all zero (zero_agent_share): all pixels correlate "
                "alike with them, so the rank term compares nothing; mostly trainer.learning_rate was too high"
            )
            yield "agents", text

    def _named(self, classes: Sequence[int]) -> str:
        names = [class_name(number, [*self.class_names], IGNORE_INDEX) for number in classes[:MAX_NAMED]]
        more = f" and {len(classes) - MAX_NAMED} others" if len(classes) > MAX_NAMED else ""
        return ", ".join(names) + more


def last_layer(network: nn.Module) -> Tensor:
    """Copy the weights of the last layer, which has the largest learning rate."""
    weight, bias = [*network.parameters()][-2:]
    return torch.cat([weight.detach().flatten(), bias.detach().flatten()])


def moved_by(before: Tensor, now: Tensor) -> float:
    """Return by how much weights changed, relative to their size."""
    return float(torch.linalg.vector_norm(now - before) / torch.linalg.vector_norm(before).clamp(min=1e-30))
