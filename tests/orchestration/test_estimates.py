import pytest

from orchestration.estimates import Estimate, estimate


def test_spread_is_that_of_a_sample() -> None:
    assert estimate([0.70, 0.72, 0.74]) == Estimate(pytest.approx(0.72), pytest.approx(0.02), 3)


def test_single_number_has_no_spread() -> None:
    assert estimate([0.5]) == Estimate(0.5, None, 1)


def test_order_does_not_change_the_mean() -> None:
    assert estimate([0.1, 0.2, 0.3]) == estimate([0.3, 0.1, 0.2])


def test_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one number"):
        estimate([])
