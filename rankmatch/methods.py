"""What each method is made of: the terms of its total loss, and with them its views and its settings.

The one declaration that views, losses, costs and identities of runs follow. The total is the sum of the terms, each by
its weight (paper, section 3; specification, section 3).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar, runtime_checkable

Number = TypeVar("Number", bound=Any)
"""A tensor or a float: a plan needs no torch, which takes seconds to import."""


@runtime_checkable
class Weights(Protocol):
    """What `MethodConfig` says of the total, beside the weights that the terms name."""

    @property
    def halve_total(self) -> bool:
        """Whether terms are halved that may be."""


class Kind(StrEnum):
    """What a term compares."""

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
    """The strong views, from 1, over which it is a mean; none: it is not of strong views."""
    weight: str = ""
    """The field of `MethodConfig` that it is multiplied by; empty: 1."""
    is_halved: bool = True
    """Whether `halve_total` halves it: in the authors' code all but the rank term are."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its losses, one for each view."""
        return tuple(f"{self.kind}{view}" for view in self.views) or (self.kind.value,)

    def weight_of(self, settings: Weights) -> float:
        """Return what each of its losses is multiplied by."""
        whole: float = getattr(settings, self.weight) if self.weight else 1.0
        return whole / len(self.names) / (2 if self.is_halved and settings.halve_total else 1)


@dataclass(frozen=True, slots=True)
class Method:
    """A method."""

    terms: tuple[Term, ...]
    own_settings: tuple[str, ...] = ()
    """Fields of `MethodConfig` that it reads beside those of its terms."""

    @property
    def num_strong_views(self) -> int:
        """Of each unlabeled image, beside the weak one; 0: the method sees labeled images alone."""
        return max((view for term in self.terms for view in term.views), default=0)

    @property
    def sees_unlabeled(self) -> bool:
        """Whether its losses have a part of the unlabeled images."""
        return self.num_strong_views > 0

    @property
    def perturbs_features(self) -> bool:
        """Whether the weak view passes the network a second time with perturbed features."""
        return self.has(Kind.PERTURBED)

    @property
    def settings(self) -> frozenset[str]:
        """The fields of `MethodConfig` that it reads and another method may not; all methods read the rest."""
        weights = {term.weight for term in self.terms if term.weight}
        return frozenset(weights.union(self.own_settings, *(_SETTINGS.get(term.kind, ()) for term in self.terms)))

    def has(self, kind: Kind) -> bool:
        """Tell whether one of its terms is of a kind."""
        return any(term.kind is kind for term in self.terms)

    def total(self, losses: Mapping[str, Number], settings: Weights) -> Number:
        """Return the total loss.

        Raises:
            ValueError: A loss is missing, or one is not the method's.
        """
        self._check(losses, {name for term in self.terms for name in term.names})
        return self.part_of_total(losses, settings)

    def part_of_total(self, losses: Mapping[str, Number], settings: Weights) -> Number:
        """Return what the losses of one forward pass, whole terms, add to the total.

        Raises:
            ValueError: A loss of a term is missing, or one is not the method's.
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


_SETTINGS = {
    Kind.STRONG: ("confidence_threshold", "halve_total"),
    Kind.PERTURBED: ("confidence_threshold", "halve_total"),
    Kind.RANK: ("num_agents", "top_k", "selection", "consistency", "epsilon", "rank_divide_by_orders",
                "rank_ignores_padding"),
}  # fmt: skip
"""What the loss of a kind reads."""

_UNIMATCH = (
    Term(Kind.LABELED),
    Term(Kind.STRONG, views=(1,), weight="weight_s1"),
    Term(Kind.STRONG, views=(2,), weight="weight_s2"),
    Term(Kind.PERTURBED, weight="weight_fp"),
)

METHODS = {
    "supervised": Method((Term(Kind.LABELED, is_halved=False),), own_settings=("supervised_steps",)),
    "fixmatch": Method((Term(Kind.LABELED), Term(Kind.STRONG, views=(1,)))),
    "unimatch": Method(_UNIMATCH),
    "rankmatch": Method((*_UNIMATCH, Term(Kind.RANK, views=(1, 2), weight="weight_rank", is_halved=False))),
}
"""By the name that a grid gives."""
