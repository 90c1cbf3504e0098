"""What launches have left out, in words, with the command that trains it: whoever closes the laptop reads it later."""

from collections.abc import Sequence
from pathlib import Path

from orchestration.grids import inputs
from orchestration.machine.counts import counted
from orchestration.planning import adaptive, budget
from orchestration.runs import hints


def in_words(reasons: Sequence[str], grid_dir: Path) -> list[str]:
    """Say how many cells of a grid each option has left out, and what trains them.

    Args:
        reasons: Why, of each cell that is left out and not done.
        grid_dir: The folder of the grid.
    """
    kinds = (inputs.ABSENT, budget.OVER, adaptive.WHY)
    num_absent, num_over, num_not_needed = (sum(why.startswith(kind) for why in reasons) for kind in kinds)
    command = hints.command("retry", grid_dir)
    told = (
        ("by --until", len(reasons) - num_absent - num_over - num_not_needed, "all the same"),
        ("by --within-budget", num_over, "all the same"),
        (
            "by --available, as inputs were not there",
            num_absent,
            "once these are there, as the next launch does; neither starts by itself",
        ),
    )
    return [
        f"{counted(num, 'cell', 'was')} left out {option}; {command} trains {'it' if num == 1 else 'them'} {when}"
        for option, num, when in told
        if num
    ]
