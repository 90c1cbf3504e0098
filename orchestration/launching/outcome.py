"""The last lines of a launch that stays until its last cell ends: how many are done, and what to do about the rest."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from orchestration.machine.counts import counted
from orchestration.runs import hints
from orchestration.runs.run_folder import FolderState
from orchestration.runs.states import CellState


def lines(states: Collection[FolderState], grid_dir: Path, *, stopped: bool) -> list[str]:
    """Summarize the states of a launch's cells.

    Args:
        states: The state of each cell of the launch.
        grid_dir: Folder of the grid's runs.
        stopped: Whether the user ended the launch.
    """
    count = Counter(state.status for state in states)
    kinds = Counter(str(state.failure_class or "unknown") for state in states if state.status is CellState.FAILED)
    num_open = len(states) - count[CellState.DONE] - count[CellState.FAILED]
    parts = [f"{count[CellState.DONE]} of {len(states)} {'cell is' if len(states) == 1 else 'cells are'} done"]
    if kinds:
        parts.append(
            f"{count[CellState.FAILED]} failed ({', '.join(f'{number} {kind}' for kind, number in kinds.items())})"
        )
    if num_open:
        parts.append(f"{num_open} {'is' if num_open == 1 else 'are'} left")
    said = [", ".join(parts)]
    if kinds:
        said.append(
            f"{hints.command('status', grid_dir)} says why; {hints.command('retry', grid_dir)} tries them again"
        )
    if stopped and num_open:
        said.append("Stopped. The same command resumes from the newest checkpoints.")
    return said


def of_nobody(names: Sequence[str], grid_dir: Path) -> list[str]:
    """Name the cells that are open and that no launch trains any more, and the command that does."""
    if not names:
        return []
    them = "it" if len(names) == 1 else "them"
    words = f"{counted(len(names), 'cell', 'is')} open and no launch trains {them}: {', '.join(names)}"
    return [f"{words}; {hints.command('resume', grid_dir)} does"]


def of_others(left: Mapping[str, Sequence[str]], grid_dir: Path) -> list[str]:
    """Name the cells that are left to launches of other grids, and the command that looks at them again."""
    return [
        f"{counted(len(names), 'cell', 'is')} left to grid {grid}, which trains "
        f"{'it' if len(names) == 1 else 'them'}: {', '.join(names)}; once it has ended, "
        f"{hints.command('resume', grid_dir)} takes the results into the table, and trains what has none"
        for grid, names in left.items()
    ]
