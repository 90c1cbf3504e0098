"""The mirror of a launch: opened before its first job, written beside the work, ended with tables and figures."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import filelock

from orchestration.grids.cells import Cell
from orchestration.grids.grid import Grid
from orchestration.grids.values import GROUPS
from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import ANYTHING, TEXT, Fields
from orchestration.mirror import figures, moved
from orchestration.mirror.mirror_thread import MirrorThread
from orchestration.mirror.mlflow_store import Point, Store, StoreError, metric_name
from orchestration.mirror.ownership import earlier_places, own_experiment, owner_of
from orchestration.mirror.store_uri import (
    SECRET_VARIABLES,
    SERVERS,
    URI_VARIABLE,
    is_written_by_jobs,
    sqlite_file_of,
    without_password,
)
from orchestration.mirror.tracking import MIRROR, STATUSES, Launch, Mirror, MirroredCell
from orchestration.runs import hints, readable
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.recorder import SCHEMA
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState
from rankmatch import locks

_OF_REMEMBERED = Fields({"uri": TEXT, "had_password": ANYTHING})
_WORST_FIRST = (CellState.FAILED, CellState.INTERRUPTED, CellState.RUNNING)
FINISH_TIMEOUT_S = 120.0
TURN_S = 120.0
"""How long a writer waits for another writer of the same grid."""


def tracking_uri(given: str, runs: Path) -> str:
    """Return the store of a launch: the given one, else that of the environment, else SQLite in the runs folder.

    Raises:
        ValueError: The command line contains a password, which other users of the machine could see.
    """
    known = os.environ.get(URI_VARIABLE, "")
    if given and given != known and given != without_password(given):
        raise ValueError(
            f"--tracking-uri must hold no password; give it in {URI_VARIABLE}, or with a server in "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; got {without_password(given)!r} with one"
        )
    return given or known or f"sqlite:///{RunsFolder(runs.resolve()).store_file}"


def last_tracking_uri(given: str, grid_dir: Path) -> str:
    """Return the store for commands on a launched grid: by default that of its last launch.

    Raises:
        ValueError: That launch used a password, which is stored nowhere and was not given.
    """
    runs = GridFolder(grid_dir).runs.path
    if given or os.environ.get(URI_VARIABLE) or not (last := _remembered(grid_dir)):
        return tracking_uri(given, runs)
    if last["had_password"] and not any(os.environ.get(name) for name in SECRET_VARIABLES):
        raise ValueError(f"{URI_VARIABLE} must be set: the last launch wrote to {last['uri']} with a password")
    return tracking_uri(moved.uri_here(last["uri"], runs, earlier_places(runs)), runs)


def _remembered(grid_dir: Path) -> dict[str, Any]:
    """Return the store of the newest launch that recorded it; empty if none did."""
    for launch in reversed(GridFolder(grid_dir).launches()):
        try:
            return files.read_json(launch.mirror_file, _OF_REMEMBERED, "the store of the launch before it is taken")
        except FileNotFoundError:
            continue
        except DamagedFileError as error:
            tell(error)
    return {}


@contextmanager
def only_writer(grid_dir: Path, wait_s: float | None = None) -> Iterator[None]:
    """Let one process at a time write a grid into MLflow; launches have a lock of their own.

    Args:
        grid_dir: Folder of the grid.
        wait_s: How long to wait for another one; None: `TURN_S`.

    Raises:
        StoreError: Another process has not finished in time; what it leaves out is written next time.
    """
    path, wait_s = GridFolder(grid_dir).mirror_lock, TURN_S if wait_s is None else wait_s
    try:
        lock = locks.acquire(path, wait_s)
    except filelock.Timeout:
        raise StoreError(
            f"another process writes MLflow for {grid_dir.name}, and has for {wait_s:.0f} s{locks.hint(path)}"
        ) from None
    try:
        yield
    finally:
        lock.release()


class GridMirror:
    """A grid's experiment, and the thread that writes it."""

    def __init__(self, uri: str, grid_dir: Path, cells: Iterable[MirroredCell], launch: Launch | None = None) -> None:
        self.uri, self._grid_dir, self._cells, self._launch = uri, grid_dir, cells, launch
        self._mirror: Mirror | None = None
        self._thread: MirrorThread | None = None
        self._experiment = grid_dir.name
        self.warning = ""
        """What went wrong at the start."""

    def begin(self, jobs: Collection[str], *, writes_all: bool = False) -> dict[str, str]:
        """Create schema, experiment, the launch's run and, if jobs write their own runs, those too, by signature.

        Returns fields for the owners of their attempts. A store that does not answer does not stop a launch: the jobs
        then only write run folders. With `writes_all` this process writes for them, whatever the store.

        Raises:
            ValueError: The experiment was deleted, or a driver is missing.
        """
        assert self._launch is not None
        remembered = {"schema": SCHEMA, "uri": without_password(self.uri)}
        remembered["had_password"] = remembered["uri"] != self.uri
        launch = GridFolder(self._grid_dir).launch(self._launch.id)
        files.replace(launch.mirror_file, files.to_text(remembered))
        try:
            with only_writer(self._grid_dir):
                mirror = self._connect()
                if writes_all or not is_written_by_jobs(self.uri):
                    self._mirror = mirror
                    return {}
                mirror.schedule([cell for cell in self._cells if cell.signature in jobs], self._launch.id)
        except StoreError as error:
            self.warning = str(error)
            return {}
        os.environ[URI_VARIABLE] = self.uri  # jobs inherit it; it is written into no file
        self._mirror = mirror
        return {MIRROR: mirror.experiment_id}

    def start(self) -> None:
        """Keep the mirror up to date from now on."""
        sync = self._in_turn(partial(Mirror.sync, cells=self._cells))
        self._thread = MirrorThread(self.open, sync, mirror=self._mirror)
        self._thread.start()

    def sync(self, wait_s: float | None = None) -> None:
        """Write everything that is missing, however long it takes; `wait_s` is as in `only_writer`.

        Raises:
            StoreError: The store does not answer, or another process writes it.
            ValueError: The experiment was deleted, or a driver is missing.
        """
        with only_writer(self._grid_dir, wait_s):
            self._connect().sync(self._cells)

    def forget(self, signatures: Collection[str]) -> None:
        """Delete the runs of some cells, as MLflow's page does; does nothing if there is no store yet.

        Raises:
            StoreError: The store does not answer, or another process writes it.
        """
        file = sqlite_file_of(self.uri)
        if file is not None and not file.exists():
            return
        with only_writer(self._grid_dir):
            self._connect().forget(signatures)

    def finish_launch(
        self, loaded: Grid, found: Mapping[str, RunFolder], written: Sequence[Path], launched: Collection[str]
    ) -> str:
        """Write what is missing, then how the launch ended, its tables (the report first) and a figure of all curves.

        `launched` are the cells of the grid that the launch was of. Returns what went wrong, if anything.
        """
        assert self._thread is not None and self._launch is not None
        states = [found[signature].state() for signature in launched]
        statuses = {state.status for state in states if state.failure_class != FailureClass.OUTPERFORMED}
        worst = next((status for status in _WORST_FIRST if status in statuses), CellState.DONE)
        picture = GridFolder(self._grid_dir).curves_file
        figures.curves(curve_rows(loaded, found)).savefig(picture, dpi=120)
        end = partial(
            Mirror.end_launch,
            launch_id=self._launch.id,
            status=STATUSES[worst],
            files=[*written, picture],
            summary=_summary(loaded, found),
            note=written[0].read_text(encoding="utf-8").partition("## Cells")[0],
        )
        return self._thread.finish(FINISH_TIMEOUT_S, self._in_turn(end))

    def open(self) -> Mirror:
        """Open the experiment.

        Raises:
            StoreError: The store does not answer.
            ValueError: The experiment was deleted, or a driver is missing.
        """
        with only_writer(self._grid_dir):
            return self._connect()

    def where(self) -> str:
        """Say how to view the experiment; on a server, also its name if that is not the grid's."""
        if not self.uri.startswith(SERVERS):
            return hints.command("ui", self._grid_dir)
        place = without_password(self.uri)
        return place if self._experiment == self._grid_dir.name else f"{place} (experiment {self._experiment!r})"

    def _in_turn(self, work: Callable[[Mirror], None]) -> Callable[[Mirror], None]:
        def wait_and_work(mirror: Mirror) -> None:
            with only_writer(self._grid_dir):
                work(mirror)

        return wait_and_work

    def _connect(self) -> Mirror:
        store, owner = Store(self.uri), owner_of(GridFolder(self._grid_dir).runs.path)
        experiment = own_experiment(store, self._grid_dir, owner)
        self._experiment = experiment.name
        mirror = Mirror(store, experiment.id, owner)
        if self._launch is not None:
            mirror.begin_launch(self._launch)
        return mirror


def mirrored_cells(loaded: Grid, found: Mapping[str, RunFolder]) -> list[MirroredCell]:
    """Return the cells of a grid for MLflow."""
    return [MirroredCell(found[cell.signature], cell.axes, cell.signature) for cell in loaded.cells]


def _summary(loaded: Grid, found: Mapping[str, RunFolder]) -> list[Point]:
    """Return the numbers of a launch's run: how many cells are done, and the mean at each place of each table."""
    states = {cell.signature: found[cell.signature].state() for cell in loaded.cells}
    done = [state for state in states.values() if state.status is CellState.DONE]
    numbers: dict[str, float] = {"cells": len(states), "cells_done": len(done)}
    places: dict[str, list[float]] = {}
    for table in loaded.tables:
        of_table = [table.name] if loaded.parts else []
        for cell in table.cells:
            state = states[cell.signature]
            if state.status is CellState.DONE and state.best_miou is not None:
                name = " ".join(filter(None, (*of_table, *(_label(cell, axes) for axes in _places(table)))))
                place = f"mean_best_miou/{metric_name(name)}" if name else "mean_best_miou"  # only seeds, or a search
                places.setdefault(place, []).append(state.best_miou)
    numbers |= {name: fmean(values) for name, values in places.items()}
    when = max((state.updated for state in done), default=0.0)  # the same when repeated
    return [Point(name, value, when, 0) for name, value in numbers.items()]


def curve_rows(loaded: Grid, found: Mapping[str, RunFolder]) -> list[dict[str, object]]:
    """Return the rows for `figures.curves`: a panel for each column of each table, a label for each row."""
    rows = []
    for table in loaded.tables:
        of_table = [table.name] if loaded.parts else []
        for cell in table.cells:
            panel = " ".join(filter(None, (*of_table, _label(cell, table.table.columns))))
            place = {"panel": panel, "label": _label(cell, table.table.rows)}
            drawn: list[dict[str, object]] = readable.of(found[cell.signature], _drawn, [])
            rows += [{**place, "cell": cell.signature, **numbers} for numbers in drawn]
    return rows


def _drawn(folder: RunFolder) -> list[dict[str, object]]:
    """Return what is drawn of each epoch: the other numbers of all epochs of all cells would fill the memory."""
    return [{"epoch": row["epoch"], "miou": row.get("miou"), "loss": row.get("loss")} for row in folder.epochs()]


def _places(table: Grid) -> tuple[list[str], list[str]]:
    return table.table.rows, table.table.columns


def _label(cell: Cell, axes: Sequence[str]) -> str:
    return ", ".join(cell.axes[axis] if axis in GROUPS else f"{axis}={cell.axes[axis]}" for axis in axes)
