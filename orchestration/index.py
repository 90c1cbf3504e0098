"""The cells of a grid as its newest launch resolved them: enough to tell how they stand without composing each anew."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestration import files
from orchestration.fields import COUNT, NUMBER, TEXT, Fields

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


_OF_CELL = Fields(
    {
        "signature": TEXT,
        "slug": TEXT,
        "method": TEXT,
        "num_steps": COUNT.or_null(),
        "seconds_per_step": NUMBER.or_null(),
        "num_gpus": COUNT,
    }
)


def write(grid_dir: Path, cells: Iterable[IndexedCell]) -> None:
    """Store the cells of a grid."""
    files.replace(grid_dir / INDEX, "".join(json.dumps(asdict(cell)) + "\n" for cell in cells))


def read(grid_dir: Path) -> list[IndexedCell]:
    """Return the cells of the newest launch; lines that cannot be read are left out with a warning.

    Raises:
        ValueError: There is no list of them.
    """
    if not (grid_dir / INDEX).exists():
        raise ValueError(f"{grid_dir / INDEX} must be there, as each launch writes it; launch the grid again")
    rows = files.read_lines(grid_dir / INDEX, _OF_CELL)
    return [IndexedCell(**{name: row[name] for name in _OF_CELL.needed}) for row in rows]
