"""A grid as its folder is now: each look opens only what may have changed since the last one, and writes nothing."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from dashboards.live import links, places
from orchestration.grids import index
from orchestration.grids.index import IndexedCell
from orchestration.launching import closed_launches, waiting
from orchestration.launching.status import CellStatus, Slurm, judge, totals
from orchestration.machine import yaml_text
from orchestration.machine.damage import DamagedFileError
from orchestration.on_slurm import submissions
from orchestration.on_slurm.commands import Job
from orchestration.runs import description, unpredicted
from orchestration.runs.folders import CellFolder, GridFolder, signature_in
from orchestration.runs.run_folder import FolderState, RunFolder
from orchestration.runs.states import CellState

MIN_AGE_S, MAX_AGE_S = 0.5, 2.0
"""A look serves all who ask within this time: the longer it took, the longer it does."""
_Mark = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A cell and its state."""

    status: CellStatus
    axes: Mapping[str, str]
    folder: str
    """The name of its run folder, whether that is there yet or not."""

    @property
    def standing(self) -> CellState:
        """Its state, in a word."""
        return self.status.standing


@dataclass(frozen=True, slots=True)
class Look:
    """The result of a look at a grid."""

    cells: list[Seen]
    axes: dict[str, list[str]]
    """The axes of all cells, with the values that occur."""
    notes: list[str] = field(default_factory=list)
    """What cannot be read."""

    @property
    def counts(self) -> Counter[CellState]:
        """How many cells are in each state."""
        return Counter(cell.standing for cell in self.cells)

    @property
    def totals(self) -> list[str]:
        """The lines that `rankmatch status` ends with: counts, GPU-hours, and about when the last cell ends."""
        return totals([cell.status for cell in self.cells])


class _Folder(RunFolder):
    """A run folder whose state is kept without its large parts, and without what needs a configuration to word."""

    unpredicted: tuple[int, ...] = ()

    def state(self) -> FolderState:
        state = super().state()
        object.__setattr__(self, "unpredicted", state.unpredicted)  # places are frozen
        kept = {name: value for name, value in state.provenance.items() if name != "packages"}
        return replace(state, provenance=kept, unpredicted=())


class Watch:
    """Looks at a grid whenever asked, from several threads, and reuses what cannot have changed."""

    def __init__(self, grid_dir: Path) -> None:
        self._grid_dir = grid_dir
        self._lock = Lock()
        self._look: Look | None = None
        self._until = 0.0
        self._statuses: dict[str, tuple[_Mark, CellStatus]] = {}
        self._axes: dict[str, tuple[_Mark, dict[str, str]]] = {}
        self._names: dict[str, list[str]] = {}
        self._index: tuple[_Mark, list[IndexedCell]] = ((), [])

    def look(self) -> Look:
        """Return the grid's state, at most a moment old."""
        with self._lock:
            begun = time.monotonic()
            if self._look is None or begun > self._until:
                self._look = self._new_look()
                took = time.monotonic() - begun
                self._until = time.monotonic() + min(MAX_AGE_S, max(MIN_AGE_S, 4 * took))
            return self._look

    def _new_look(self) -> Look:
        notes: list[str] = []
        names = {signature_in(name): name for name in places.cells(self._grid_dir)}
        if out := links.out_of_grid(self._grid_dir):
            notes.append(f"{out}: only run folders are shown")
        known = self._indexed(names, notes, is_read=not out)
        if closed := "" if out else closed_launches.note(self._grid_dir):
            notes.append(closed)
        slurm = Slurm({}, None if closed else {}, None) if out or closed else self._slurm(notes)
        waits = {} if out or closed else self._waits(notes)
        cells = []
        for cell in known:
            name = names.get(cell.signature, cell.folder_name)
            status = self._status(cell, name, slurm, waits.get(cell.signature, ""))
            cells.append(Seen(status, self._axes_of(cell, name), name))
        present = {cell.folder for cell in cells}
        for name in self._axes.keys() - present:
            del self._axes[name]
            self._statuses.pop(name, None)
        axes: dict[str, dict[str, None]] = {}
        for seen in cells:
            for axis, value in seen.axes.items():
                axes.setdefault(axis, {})[value] = None
        return Look(cells, {axis: list(values) for axis, values in axes.items()}, notes)

    def _indexed(self, names: Mapping[str, str], notes: list[str], *, is_read: bool) -> list[IndexedCell]:
        """Return the cells of the newest launch, then those that only have a folder."""
        path, found = GridFolder(self._grid_dir).index_file, list[IndexedCell]()
        try:
            mark = _mark_of(str(path)) if is_read else ()
            if mark and mark != self._index[0]:
                self._index = mark, [cell for cell in index.read(self._grid_dir) if "/" not in cell.folder_name]
            found = self._index[1] if mark else []
        except (OSError, ValueError) as error:
            notes.append(f"The list of cells cannot be read: {error}")
        indexed = {cell.signature for cell in found}
        others = [(signature, name) for signature, name in names.items() if signature not in indexed]
        return [
            *found,
            *(IndexedCell(signature, CellFolder(Path(name)).slug, "", None, None, 0) for signature, name in others),
        ]

    def _slurm(self, notes: list[str]) -> Slurm:
        """Return what the folder says of Slurm's jobs; Slurm itself is not asked."""
        submitted: Mapping[str, Job] = {}
        try:
            submitted = submissions.newest_jobs(self._grid_dir)
        except OSError as error:
            notes.append(f"Which jobs were submitted cannot be read: {error}")
        return Slurm(submitted, None if submitted else {}, None)

    def _waits(self, notes: list[str]) -> Mapping[str, str]:
        try:
            return waiting.cells(self._grid_dir)
        except (OSError, ValueError) as error:
            notes.append(f"What cells wait for cannot be read: {error}")
            return {}

    def _status(self, cell: IndexedCell, name: str, slurm: Slurm, waits: str) -> CellStatus:
        path = GridFolder(self._grid_dir).cell(name).path
        mark = (*_mark(CellFolder(path)), waits, slurm.queued is None)
        known = self._statuses.get(name)
        if known and known[0] == mark:
            return known[1] if known[1].cell == cell else replace(known[1], cell=cell)
        status = self._judged(cell, _Folder(path), slurm, waits)
        if status.state.status in (CellState.DONE, CellState.FAILED):  # the others may change just with time
            self._statuses[name] = mark, status
        else:
            self._statuses.pop(name, None)
        return status

    def _judged(self, cell: IndexedCell, folder: _Folder, slurm: Slurm, waits: str) -> CellStatus:
        if out := links.out_of_cell(folder.path):
            state = FolderState(CellState.UNREADABLE, damage=out)
            return CellStatus(cell, CellState.UNKNOWN, state, note=out)
        try:
            status = judge(cell, folder, slurm, waits)
        except (OSError, ValueError) as error:  # it is being removed, or damaged in an unforeseen way
            state = FolderState(CellState.UNREADABLE, damage=str(error))
            return CellStatus(cell, CellState.UNKNOWN, state, note=f"its folder cannot be read: {error}")
        if folder.unpredicted:
            words = unpredicted.in_words(folder.unpredicted, self._class_names(cell, folder))
            state = replace(status.state, unpredicted=folder.unpredicted)
            status = replace(status, state=state, note="; ".join(filter(None, (status.note, words))))
        job = slurm.submitted.get(folder.path.name)
        if job and status.standing is CellState.UNKNOWN and status.state.status is CellState.MISSING:
            return replace(status, standing=CellState.WAITING, job=str(job), note=f"was submitted as job {job}")
        return status

    def _class_names(self, cell: IndexedCell, folder: RunFolder) -> list[str]:
        """Return the names of the classes; reading them takes a while, so cells of one data set ask once."""
        axes = self._axes_of(cell, folder.path.name).items()  # a launch with another data set adds its name
        dataset = " ".join(text for key, text in axes if key in ("dataset", "dataset.name"))
        if dataset not in self._names:
            try:
                self._names[dataset] = yaml_text.parse(folder.config())["execution"]["class_names"]
            except (OSError, ValueError, KeyError, TypeError):
                self._names[dataset] = []  # their numbers do
        return self._names[dataset]

    def _axes_of(self, indexed: IndexedCell, name: str) -> Mapping[str, str]:
        if indexed.axes is not None:
            return indexed.axes
        cell = GridFolder(self._grid_dir).cell(name)
        mark = _mark_of(str(cell.axes_file))
        known = self._axes.get(name)
        if known and known[0] == mark:
            return known[1]
        try:
            is_away = cell.axes_file.is_symlink() or links.is_linked(cell.path)
            axes = description.axes(cell.path) if mark and not is_away else {}
        except (DamagedFileError, OSError):
            axes = {}
        self._axes[name] = mark, axes
        return axes


def _mark(cell: CellFolder) -> _Mark:
    """Return what distinguishes the states of a finished or failed cell, without opening a file."""
    if mark := _mark_of(str(cell.result_file)):
        return mark
    try:
        numbers = [int(name) for name in os.listdir(cell.attempts_dir) if name.isdigit()]  # noqa: PTH208 (fast)
    except OSError:
        return ()
    return (max(numbers), *_mark_of(str(cell.attempt(max(numbers)).events_file))) if numbers else ()


def _mark_of(path: str) -> _Mark:
    try:
        stat = os.stat(path)  # noqa: PTH116 (half the time)
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
