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


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_interval_is_scipys_t_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(0.7, 0.02, n)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values.tolist()) == pytest.approx((reference.low, reference.high))


def test_interval_of_few_numbers_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(0.7, 0.02, (4000, 3)).tolist()
    held = np.mean([low <= 0.7 <= high for low, high in filter(None, map(interval, draws))])
    assert held == pytest.approx(0.95, abs=0.01)


def test_single_number_has_no_interval() -> None:
    assert interval([0.1]) is None


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
