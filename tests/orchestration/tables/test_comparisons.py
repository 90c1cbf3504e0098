import numpy as np
import pytest
from scipy import stats

from orchestration.tables.comparisons import compare, holm, ranks


def named(values: list[float]) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


def test_hand_worked_pairs() -> None:
    made = compare({"0": 0.70, "1": 0.72, "2": 0.74, "9": 0.1}, {"0": 0.69, "1": 0.70, "2": 0.71})
    assert made is not None
    assert (made.effect, made.n) == (pytest.approx(0.02), 3)
    # t = 0.02 / (0.01 / sqrt(3)) = 2 sqrt(3); with two degrees of freedom p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(6/7)
    assert made.p_t == pytest.approx(1 - np.sqrt(6 / 7))
    assert made.p_wilcoxon is None


@pytest.mark.parametrize("n", [3, 6, 7, 12, 30])
def test_p_values_are_scipys(n: int) -> None:
    ours, others = np.random.default_rng(n).normal(0.7, 0.02, (2, n))
    made = compare(named((ours + 0.01).tolist()), named(others.tolist()))
    assert made is not None
    assert made.p_t == pytest.approx(stats.ttest_rel(ours + 0.01, others).pvalue)
    wanted = stats.wilcoxon(ours + 0.01, others).pvalue if n >= 6 else None
    assert made.p_wilcoxon == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize("n", [3, 5, 12])
def test_interval_agrees_with_the_test_that_is_shown(n: int) -> None:
    for seed in range(40):
        ours, others = np.random.default_rng(seed).normal(0.7, 0.02, (2, n))
        made = compare(named((ours + 0.02).tolist()), named(others.tolist()))
        assert made is not None and made.interval is not None and made.p_t is not None
        assert (made.interval[0] > 0 or made.interval[1] < 0) == (made.p_t < 0.05)


def test_few_pairs_are_said_to_be_few() -> None:
    two = compare(named([0.7, 0.8]), named([0.6, 0.75]))
    assert two is not None and (two.p_t, two.verdict) == (None, "too few pairs to tell (2)")
    assert two.interval == pytest.approx((0.075 - 12.706 * 0.025, 0.075 + 12.706 * 0.025), abs=1e-5)
    assert compare({"0": 0.7}, {"1": 0.6}) is None


def test_equal_differences_give_no_p_value() -> None:
    made = compare(named([0.7, 0.8, 0.9]), named([0.6, 0.7, 0.8]))
    assert made is not None and (made.p_t, made.verdict) == (None, "all pairs differ by the same")
    assert made.interval is None
    same = compare(named([0.5] * 6), named([0.5] * 6))
    assert same is not None and (same.effect, same.p_t, same.p_wilcoxon) == (0.0, None, None)


def test_holm_is_the_hand_worked_one() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == [0.03, None, 0.06, 0.06, 0.02]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None] and holm([]) == []


def test_equal_means_share_a_rank() -> None:
    assert ranks({"a": 0.7, "b": 0.8, "c": 0.7, "d": 0.1}) == {"b": 1, "a": 2.5, "c": 2.5, "d": 4}
    assert list(ranks({"a": 0.7, "b": 0.8, "c": 0.7}).values()) == stats.rankdata([-0.7, -0.8, -0.7]).tolist()
