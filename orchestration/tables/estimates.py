"""Statistics of repeated numbers: means, intervals, interquartile means, probabilities of improvement."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

MIN_INTERVAL = 2
"""Fewer numbers give no interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean and spread over repetitions, in the unit of the numbers."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single number."""
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Compute mean and spread of repetitions.

    Raises:
        ValueError: There are none.
    """
    if not values:
        raise ValueError("values must hold at least one number; got none")
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval of the mean; None for fewer than `MIN_INTERVAL` numbers.

    It contains 0 exactly if the two-sided t test gives at least 1 - `level`.

    Args:
        values: Repetitions.
        level: The share of such intervals that contain the mean, if the numbers are normal.
    """
    if len(values) < MIN_INTERVAL:
        return None
    from scipy.special import stdtrit  # takes a tenth of the import time of scipy.stats

    mean = fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half (Agarwal et al., NeurIPS 2021): a quarter is cut off at each end.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("values must hold at least one number; got none")
    ordered = sorted(values)
    cut = len(ordered) // 4  # as scipy.stats.trim_mean does
    return fmean(ordered[cut : len(ordered) - cut])


def probability_of_improvement(ours: Sequence[float], others: Sequence[float]) -> float:
    """Return how often one of our numbers exceeds one of the others, ties counted half (Mann and Whitney's U / nm).

    Raises:
        ValueError: There are no numbers on one side.
    """
    if not ours or not others:
        raise ValueError("ours and others must hold at least one number each")
    above = np.sign(np.subtract.outer(np.asarray(ours, float), np.asarray(others, float)))
    return float((above.mean() + 1) / 2)
