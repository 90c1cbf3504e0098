"""The cells of a grid as its newest launch resolved them: enough to tell how they stand without composing each anew."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import files

if TYPE_CHECKING:
    from orchestration.plan import Item

INDEX = "index.jsonl"


@dataclass(frozen=True, slots=True)
class IndexedCell:
    """What is kept of a cell."""

    signature: str
    slug: str
    method: str
    num_steps: int | None
    seconds_per_step: float | None
    """As estimated at the launch."""
    num_gpus: int

    @property
    def folder_name(self) -> str:
        """The name of the run folder of a cell that has none yet."""
        return f"{self.signature}-{self.slug}"


def write(grid_dir: Path, items: Iterable["Item"], *, uses_gpus: bool) -> None:
    """Store the cells of a plan in its order."""
    rows = [asdict(_of(item, uses_gpus=uses_gpus)) for item in items]
    files.replace(grid_dir / INDEX, "".join(json.dumps(row) + "\n" for row in rows))


def read(grid_dir: Path) -> list[IndexedCell]:
    """Return the cells of the newest launch.

    Raises:
        ValueError: There is no list of them.
    """
    if not (grid_dir / INDEX).exists():
        raise ValueError(f"{grid_dir / INDEX} must be there, as each launch writes it; launch the grid again")
    return [IndexedCell(**row) for row in files.read_lines(grid_dir / INDEX)]


def _of(item: "Item", *, uses_gpus: bool) -> IndexedCell:
    config = item.cell.config
    return IndexedCell(
        item.cell.signature,
        item.cell.slug,
        config.numerics.method.name,
        item.num_steps,
        item.seconds_per_step,
        config.execution.trainer.num_workers if uses_gpus else 0,
    )
