"""Compare two methods over cells that differ in nothing else: the effect, and whether it may be chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from orchestration.tables.estimates import interval

MIN_T = 3
"""With two pairs the t test has one degree of freedom and is not reliable."""
MIN_WILCOXON = 6
"""With five pairs the smallest p-value is 2 / 2^5 = 0.0625."""
LEVEL = 0.05
LEAST_SPREAD = 1e-12
"""Relative to the largest difference; less is rounding."""
TOO_FEW, NO_SPREAD = "too few pairs to tell", "all pairs differ by the same"
NOT_COMPLETE = "not all cells are done"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The gain of a method over another one, as a fraction."""

    effect: float
    """Mean of the differences of pairs."""
    n: int
    """Number of pairs."""
    interval: tuple[float, float] | None
    """Student's t interval of the mean difference, 95 %; None for a single pair, and if all differ by the same."""
    p_t: float | None
    """p-value of the paired t test; None if there are too few pairs, or their differences are all equal."""
    p_wilcoxon: float | None
    """p-value of Wilcoxon's signed-rank test."""
    p_holm: float | None = None
    """p_t after Holm's correction over a table."""
    is_complete: bool = True
    """Whether all cells of both sides are done: a test that is looked at after each cell finds too much."""

    @property
    def is_significant(self) -> bool:
        """Whether chance alone causes such an effect in fewer than one of twenty tables."""
        return self.is_complete and self.p_holm is not None and self.p_holm < LEVEL

    @property
    def verdict(self) -> str:
        """Return the conclusion in words."""
        if self.n < MIN_T:
            return f"{TOO_FEW} ({self.n})"
        if not self.is_complete:
            return NOT_COMPLETE
        if self.p_holm is None:
            return NO_SPREAD
        return "significant" if self.is_significant else "may be chance"


def compare(ours: Mapping[str, float], others: Mapping[str, float]) -> Comparison | None:
    """Compare two methods over the repetitions that both have under the same name; None if there are none.

    Args:
        ours: Repetitions of the method, keyed by what distinguishes them, for example the seed.
        others: The same of the other method.
    """
    return summarise([ours[name] - others[name] for name in sorted(ours.keys() & others.keys())])


def summarise(differences: Sequence[float], *, is_complete: bool = True) -> Comparison | None:
    """Summarise the differences of independent pairs; None if there are none."""
    if not differences:
        return None
    has_spread = _has_spread(differences)
    return Comparison(
        effect=fmean(differences),
        n=len(differences),
        interval=interval(differences) if has_spread else None,
        p_t=p_of_t(differences),
        p_wilcoxon=_p_wilcoxon(differences) if len(differences) >= MIN_WILCOXON else None,
        is_complete=is_complete,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values of tests that are read together (Holm 1979); None stays None and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[place] = highest
    return corrected


def ranks(means: Mapping[str, float]) -> dict[str, float]:
    """Rank by mean, highest first; ties share the mean of their ranks."""
    return {
        name: 1
        + sum(other > mean for other in means.values())
        + (sum(other == mean for other in means.values()) - 1) / 2
        for name, mean in means.items()
    }


def p_of_t(differences: Sequence[float]) -> float | None:
    """Return the p-value of the paired t test; None if there are too few pairs, or all differ by the same."""
    spread = stdev(differences) if len(differences) >= MIN_T else 0.0
    if spread <= LEAST_SPREAD * max(map(abs, differences), default=0.0):
        return None
    from scipy.special import stdtr  # takes a tenth of the import time of scipy.stats

    t = fmean(differences) / (spread / math.sqrt(len(differences)))
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def _has_spread(differences: Sequence[float]) -> bool:
    return len(differences) > 1 and stdev(differences) > LEAST_SPREAD * max(map(abs, differences))


def _p_wilcoxon(differences: Sequence[float]) -> float | None:
    from scipy.stats import wilcoxon

    if not any(differences):
        return None
    return float(wilcoxon(differences, method="auto").pvalue)
