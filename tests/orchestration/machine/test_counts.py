"""Counts in messages."""

import pytest

from orchestration.machine.counts import counted


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((1, "cell"), "1 cell"),
        ((0, "cell"), "0 cells"),
        ((1280, "step"), "1,280 steps"),
        ((1, "cell", "is"), "1 cell is"),
        ((2, "cell", "is"), "2 cells are"),
        ((2, "cell", "was"), "2 cells were"),
        ((2, "cell", "has"), "2 cells have"),
        ((1, "cell", "stands"), "1 cell stands"),
        ((3, "cell", "stands"), "3 cells stand"),
    ],
)
def test_noun_and_verb_follow_the_count(words: tuple[int, str], text: str) -> None:
    assert counted(*words) == text
