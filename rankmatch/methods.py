"""The methods: the terms of each one's total loss, and thereby its views and its settings.

Views, losses, costs and identities of runs all follow from this one declaration. The total is the weighted sum of the
terms (paper, section 3; specification, section 3).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar, runtime_checkable

Number = TypeVar("Number", bound=Any)
"""A tensor or a float: a plan needs no torch, which takes seconds to import."""


@runtime_checkable
class Weights(Protocol):
    """The settings of the total in `MethodConfig`, besides the weights of the terms."""

    @property
    def halve_total(self) -> bool:
        """Whether terms with `is_halved` are halved."""


class Kind(StrEnum):
    """The kind of comparison that a term makes."""

    LABELED = "x"
    """The prediction of labeled images with their labels."""
    STRONG = "s"
    """The prediction of a strong view with the pseudo-label."""
    PERTURBED = "fp"
    """The prediction from perturbed features of the weak view with the pseudo-label."""
    RANK = "rank"
    """The correlations of a strong view with the agents, and those of the weak view."""


@dataclass(frozen=True, slots=True)
class Term:
    """A term of a total loss."""

    kind: Kind
    views: tuple[int, ...] = ()
    """The strong views, from 1, over which it is a mean; empty: it uses no strong view."""
    weight: str = ""
    """The field of `MethodConfig` with its weight; empty: 1."""
    is_halved: bool = True
    """Whether `halve_total` halves it; in the authors' code all terms but the rank term are halved."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its losses, one for each view."""
        return tuple(f"{self.kind}{view}" for view in self.views) or (self.kind.value,)

    def weight_of(self, settings: Weights) -> float:
        """Return the weight of each of its losses."""
        whole: float = getattr(settings, self.weight) if self.weight else 1.0
        return whole / len(self.names) / (2 if self.is_halved and settings.halve_total else 1)


@dataclass(frozen=True, slots=True)
class Method:
    """A method."""

    title: str
    """What a paper calls it."""
    terms: tuple[Term, ...]
    own_settings: tuple[str, ...] = ()
    """Fields of `MethodConfig` that it reads besides those of its terms."""

    @property
    def num_strong_views(self) -> int:
        """Strong views of each unlabeled image, besides the weak one; 0: the method uses only labeled images."""
        return max((view for term in self.terms for view in term.views), default=0)

    @property
    def sees_unlabeled(self) -> bool:
        """Whether its losses use the unlabeled images."""
        return self.num_strong_views > 0

    @property
    def perturbs_features(self) -> bool:
        """Whether the weak view passes the network a second time with perturbed features."""
        return self.has(Kind.PERTURBED)

    @property
    def settings(self) -> frozenset[str]:
        """The fields of `MethodConfig` that it reads but other methods may not; all methods read the rest."""
        weights = {term.weight for term in self.terms if term.weight}
        return frozenset(weights.union(self.own_settings, *(SETTINGS.get(term.kind, ()) for term in self.terms)))

    def has(self, kind: Kind) -> bool:
        """Return whether one of its terms is of a kind."""
        return any(term.kind is kind for term in self.terms)

    def total(self, losses: Mapping[str, Number], settings: Weights) -> Number:
        """Return the total loss.

        Raises:
            ValueError: A loss is missing or unknown.
        """
        self._check(losses, {name for term in self.terms for name in term.names})
        return self.part_of_total(losses, settings)

    def part_of_total(self, losses: Mapping[str, Number], settings: Weights) -> Number:
        """Return the part of the total that the losses of one forward pass make; they must form whole terms.

        Raises:
            ValueError: A loss of a term is missing, or unknown.
        """
        there = [term for term in self.terms if {*term.names} & {*losses}]
        self._check(losses, {name for term in there for name in term.names})
        # Sums before weights: the mean over two views is then rounded once, as in the authors' code.
        total: Number = _sum([_sum([losses[name] for name in term.names]) * term.weight_of(settings) for term in there])
        return total

    @staticmethod
    def _check(losses: Collection[str], expected: Collection[str]) -> None:
        if {*losses} != {*expected}:
            raise ValueError(f"losses must be {', '.join(sorted(expected))}; got {', '.join(sorted(losses))}")


def _sum(parts: list[Number]) -> Number:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


SETTINGS = {
    Kind.STRONG: ("confidence_threshold", "halve_total"),
    Kind.PERTURBED: ("confidence_threshold", "halve_total"),
    Kind.RANK: ("num_agents", "top_k", "selection", "consistency", "epsilon", "rank_divide_by_orders",
                "rank_ignores_padding"),
}  # fmt: skip
"""The settings that the losses of a kind read."""

_UNIMATCH = (
    Term(Kind.LABELED),
    Term(Kind.STRONG, views=(1,), weight="weight_s1"),
    Term(Kind.STRONG, views=(2,), weight="weight_s2"),
    Term(Kind.PERTURBED, weight="weight_fp"),
)

METHODS = {
    "supervised": Method(
        "supervised training", (Term(Kind.LABELED, is_halved=False),), own_settings=("supervised_steps",)
    ),
    "fixmatch": Method("FixMatch", (Term(Kind.LABELED), Term(Kind.STRONG, views=(1,)))),
    "unimatch": Method("UniMatch", _UNIMATCH),
    "rankmatch": Method(
        "RankMatch", (*_UNIMATCH, Term(Kind.RANK, views=(1, 2), weight="weight_rank", is_halved=False))
    ),
}
"""The methods by the names used in grids."""
