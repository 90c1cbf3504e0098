"""The last words of a launch that stays until its last cell ends: how many are done, and what to do about the rest."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from orchestration import hints
from orchestration.run_folder import FolderState


def lines(states: Collection[FolderState], grid_dir: Path, *, stopped: bool) -> list[str]:
    """Sum up how the cells of a launch stand.

    Args:
        states: Of each cell of the launch.
        grid_dir: Folder of the grid's runs.
        stopped: The user ended the launch.
    """
    count = Counter(state.status for state in states)
    kinds = Counter(str(state.failure_class or "unknown") for state in states if state.status == "failed")
    num_open = len(states) - count["done"] - count["failed"]
    parts = [f"{count['done']} of {len(states)} {'cell is' if len(states) == 1 else 'cells are'} done"]
    if kinds:
        parts.append(f"{count['failed']} failed ({', '.join(f'{number} {kind}' for kind, number in kinds.items())})")
    if num_open:
        parts.append(f"{num_open} {'is' if num_open == 1 else 'are'} left")
    said = [", ".join(parts)]
    if kinds:
        said.append(
            f"{hints.command('status', grid_dir)} says why; {hints.command('retry', grid_dir)} tries them again"
        )
    if stopped and num_open:
        said.append("Stopped. The same command goes on from the newest checkpoints.")
    return said
