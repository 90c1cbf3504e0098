"""Steps without an update, because its loss or the weights after it were not finite (`trainer.when_not_finite`)."""

from collections.abc import Sequence

NAME = "steps_left_out"
"""The field of results and of their table."""
SETTING = "trainer.when_not_finite"


def in_words(steps: Sequence[int]) -> str:
    """Say which steps a cell left out."""
    named = ", ".join(map(str, steps))
    return f"left out step{'' if len(steps) == 1 else 's'} {named}, not finite ({SETTING}=leave_out)"
