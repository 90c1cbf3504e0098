"""The index of a grid's cells as its newest launch resolved them, so that `status` need not compose them again."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestration.machine import files
from orchestration.machine.fields import COUNT, NUMBER, TEXT, TEXTS, Fields
from orchestration.runs.folders import GridFolder, cell_name
from orchestration.runs.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class IndexedCell:
    """What the index holds of a cell."""

    signature: str
    slug: str
    method: str
    num_steps: int | None
    seconds_per_step: float | None
    """As estimated at the launch."""
    num_gpus: int
    round: int = 0
    """In which it starts; indexes of earlier versions lack it and the next."""
    left_out: str = ""
    """Why the newest launch left it out; empty: it did not."""
    axes: Mapping[str, str] | None = None
    """The values of the grid's axes, as text; several grids may have the cell, by axes of their own."""
    parts: Sequence[str] = ()
    """Of a grid of grids: the names of those that have the cell."""
    partners: Sequence[str] = ()
    """Identities of the cells that it is compared with, as the newest file with it says; at most one for each table."""

    @property
    def folder_name(self) -> str:
        """The name for a new run folder of this cell."""
        return cell_name(self.signature, self.slug)


_OF_CELL = Fields(
    {
        "signature": TEXT,
        "slug": TEXT,
        "method": TEXT,
        "num_steps": COUNT.or_null(),
        "seconds_per_step": NUMBER.or_null(),
        "num_gpus": COUNT,
    },
    {"round": COUNT, "left_out": TEXT, "axes": TEXTS.or_null(), "parts": TEXT.listed(), "partners": TEXT.listed()},
)


def write(grid_dir: Path, cells: Iterable[IndexedCell]) -> None:
    """Store the cells of a grid."""
    files.replace(GridFolder(grid_dir).index_file, "".join(json.dumps(asdict(cell)) + "\n" for cell in cells))


def read_if_there(grid_dir: Path) -> list[IndexedCell]:
    """Return the cells as `read` does; none where no launch has written a list of them."""
    return read(grid_dir) if GridFolder(grid_dir).index_file.exists() else []


def read(grid_dir: Path) -> list[IndexedCell]:
    """Return the cells of the newest launch; skip unreadable lines with a warning.

    Raises:
        ValueError: There is no index.
    """
    path = GridFolder(grid_dir).index_file
    if not path.exists():
        raise ValueError(f"{path} must exist, since each launch writes it; launch the grid again")
    rows = files.read_lines(path, _OF_CELL)
    names = (*_OF_CELL.needed, *_OF_CELL.known)
    return [IndexedCell(**{name: row[name] for name in names if name in row}) for row in rows]


def axes(folder: RunFolder, known: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the varied keys of a cell with their values, as its grid has them; see `known_axes`.

    Raises:
        DamagedFileError: They are in the cell's own folder and cannot be read.
    """
    found = known.get(folder.signature)
    return dict(folder.axes() if found is None else found)


def known_axes(grid_dir: Path) -> dict[str, Mapping[str, str]]:
    """Return the axes of a grid's cells by signature; none of cells that no launch of this version has seen."""
    return {cell.signature: cell.axes for cell in read_if_there(grid_dir) if cell.axes is not None}


def known_partners(cells: Iterable[IndexedCell]) -> dict[str, Sequence[str]]:
    """Return what cells are compared with, by signature; none of those of which no launch of this version said so."""
    return {cell.signature: cell.partners for cell in cells if cell.partners}
