import numpy as np
import pytest
from scipy import stats

from orchestration.tables.estimates import (
    Estimate,
    estimate,
    interquartile_mean,
    interval,
    probability_of_improvement,
)


def test_spread_is_that_of_a_sample() -> None:
    assert estimate([0.70, 0.72, 0.74]) == Estimate(pytest.approx(0.72), pytest.approx(0.02), 3)


def test_single_number_has_no_spread() -> None:
    assert estimate([0.5]) == Estimate(0.5, None, 1)


def test_order_does_not_change_the_mean() -> None:
    assert estimate([0.1, 0.2, 0.3]) == estimate([0.3, 0.1, 0.2])


def test_no_number_is_refused() -> None:
    for sum_up in (estimate, interquartile_mean):
        with pytest.raises(ValueError, match="at least one number"):
            sum_up([])


def test_interval_is_that_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(3).normal(0.7, 0.02, 20)
    reference = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert interval(values.tolist(), "a") == pytest.approx((reference.low, reference.high), abs=5e-4)


def test_interval_hangs_on_key_and_numbers_alone() -> None:
    values = np.random.default_rng(5).normal(0.7, 0.02, 12).tolist()
    first = interval(values, "rankmatch/92")
    np.random.default_rng(0).random(5)
    assert interval(values[::-1], "rankmatch/92") == first
    assert interval(values, "rankmatch/183") != first


def test_two_numbers_have_no_interval() -> None:
    assert interval([0.1, 0.2], "a") is None


def test_interquartile_mean_is_scipys_trimmed_mean() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0]) == (2 + 3 + 4 + 5) / 4
    for n in range(1, 14):
        values = np.random.default_rng(n).random(n)
        assert interquartile_mean(values.tolist()) == pytest.approx(stats.trim_mean(values, 0.25))


def test_probability_of_improvement_is_mann_and_whitneys() -> None:
    assert probability_of_improvement([3.0, 1.0], [2.0, 1.0]) == (1 + 1 + 0 + 0.5) / 4
    ours, others = np.random.default_rng(0).random((2, 9))
    u = stats.mannwhitneyu(ours, others).statistic
    assert probability_of_improvement(ours.tolist(), others.tolist()) == pytest.approx(u / 81)
