"""The MLflow mirror of run folders: everything it shows is read from them, so it can be deleted and rebuilt.

There is a run for each cell over all its attempts, below a run for the launch that began it. A run's own curves show
how far it is mirrored, and a point that is logged twice with the same time stays one point. So any process can continue
the mirror without repeating anything, even after a server that died half way.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestration.grids.cells import from_yaml, names_in
from orchestration.machine.damage import tell
from orchestration.mirror.mlflow_store import NOTE, PARENT, Point, Store, StoredRun, StoreError, metric_name
from orchestration.mirror.naming import described, name_of
from orchestration.mirror.ownership import FOLDER, LAUNCH, Owner, own_model
from orchestration.mirror.parameters import parameters
from orchestration.planning.costs import num_steps
from orchestration.runs import trained_for
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.recorder import Row
from orchestration.runs.run_folder import FolderState, RunFolder
from orchestration.runs.states import CellState
from rankmatch.config import TrainConfig

SIGNATURE, STATUS, LAUNCHES, FAILURE, TRAINED_FOR = (
    f"rankmatch.{name}" for name in ("signature", "status", "launches", "failure", "trained_for")
)
STATUSES = {
    CellState.RUNNING: "RUNNING",
    CellState.INTERRUPTED: "KILLED",
    CellState.FAILED: "FAILED",
    CellState.DONE: "FINISHED",
}
"""MLflow's words for states; cells in other states have no run."""
FINAL = ("best_miou", "best_epoch", "last_miou", "duration_s", "gpu_duration_s", "num_present_classes", "attempt")
"""Numbers of the result, logged as `final/<name>`, separate from the curves."""
EPOCHS, STEPS, _PROCESSOR = "epoch", "step/loss", "cpu_percent"
"""One metric of each kind of row; the last step of its curve shows how far that kind is mirrored."""
MIRROR = "mirror"
"""The field of `owner.json` by which an attempt's job mirrors itself: the id of the experiment."""
MODEL, REFERENCE = "model", "model/reference.json"
_SOURCE = {"mlflow.source.name": "rankmatch", "mlflow.source.type": "LOCAL"}
"""Tags beside the commit; the page shows the commit only with them."""
_HINT = "Expand a launch (+) or group by a tag to see curves of its cells.\n\n"
_NOT_METRICS = ("step", "time", "num_epochs", "num_steps")
_CLASS_IOU = "class_iou_"

Points = list[Point]


@dataclass(frozen=True, slots=True)
class MirroredCell:
    """A run folder, with the tags by which its run is found and grouped."""

    folder: RunFolder
    axes: Mapping[str, str]
    signature: str


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch in MLflow: the parent of the cells that it began."""

    id: str
    files: Sequence[Path] = ()
    """Files to attach at the start."""


@dataclass(slots=True)
class _Progress:
    """What a process remembers about a cell."""

    run: StoredRun
    config: TrainConfig
    stride: int | None
    """How many steps one logged row represents; None: no step rows are logged."""
    last: dict[str, int] = field(default_factory=dict)
    """The last mirrored step, by kind of row."""
    seen: tuple[str, float] | None = None


class Mirror:
    """The mirror of one experiment; only one process may write a cell's run at a time."""

    def __init__(self, store: Store, experiment_id: str, owner: Owner | None = None) -> None:
        """Take an experiment; `owner` provides the tags of new runs."""
        self._store, self.experiment_id, self._owner = store, experiment_id, owner
        self._run_tags = owner.run_tags() if owner else {}
        self._progress: dict[str, _Progress] = {}
        self._runs: dict[str, StoredRun] | None = None
        self._launches: dict[str, StoredRun] = {}

    def sync(self, cells: Iterable[MirroredCell]) -> None:
        """Update runs from run folders; a cell that never began gets no run.

        Cells whose jobs mirror themselves are skipped while they run.

        Raises:
            StoreError: The store does not answer, or a cell cannot be read now; what was written stays, and the next
                call continues.
        """
        away: list[str] = []
        for cell in cells:
            state, known = cell.folder.state(), self._progress.get(cell.signature)
            away += [state.damage] if state.status is CellState.UNREADABLE else []
            is_known = known is not None and known.seen == (state.status, state.updated)
            if state.status not in STATUSES or is_known or self._mirrors_itself(cell.folder, state):
                continue
            try:
                self.sync_cell(cell, state)
            except ValueError as error:  # the fault is in this cell only; the others are written
                tell(f"{cell.folder.path.name} is not written to MLflow: {error}")
        if away:
            raise StoreError("; ".join(away[:3]))

    def sync_cell(self, cell: MirroredCell, state: FolderState) -> None:
        """Update one run."""
        known = self._of(cell)
        run, folder = known.run, cell.folder
        if run.tags.get(STATUS) == "done":
            return
        if known.seen is None:
            self._store.log_params(run, parameters(known.config))
        for kind, rows in _new_rows(folder, known).items():
            self._store.log_rows(run, rows)
            known.last[kind] = rows[-1][0].step
        if known.seen is None:
            self._store.log_file(run, folder.config_file)
        if state.status is CellState.DONE:
            self._log_result(cell, known)
        if run.status != STATUSES[state.status]:
            self._store.set_status(run, STATUSES[state.status], state.updated)
        tags = _tags_of_state(folder, state)
        if not tags[FAILURE] and FAILURE not in run.tags:
            del tags[FAILURE]
        self._store.set_tags(run, tags)
        known.seen = (state.status, state.updated)

    def schedule(self, cells: Iterable[MirroredCell], launch_id: str) -> None:
        """Create the runs of cells that are about to train, so that their jobs only need to find them."""
        for cell in cells:
            self._find_runs()
            if cell.signature not in self._known_runs:
                self._known_runs[cell.signature] = self._create(cell, launch_id, None, "SCHEDULED")

    def forget(self, signatures: Iterable[str]) -> None:
        """Delete the runs of some cells; MLflow can restore them, and new cells with these signatures get new runs."""
        self._find_runs()
        for signature in signatures:
            self._progress.pop(signature, None)
            if run := self._known_runs.pop(signature, None):
                self._store.delete_run(run)

    def find(self, signature: str) -> bool:
        """Find the run of a single cell; return false if there is none."""
        found = self._store.runs(self.experiment_id, f"tags.`{SIGNATURE}` = '{signature}'")
        self._runs = {signature: found[0]} if found else {}
        return bool(found)

    def begin_launch(self, launch: Launch) -> None:
        """Create the run of a launch, and mark earlier launches that still count as running as killed."""
        for other in self._store.runs(
            self.experiment_id, f"tags.`{LAUNCH}` LIKE '%' and attributes.status = 'RUNNING'"
        ):
            if other.tags[LAUNCH] != launch.id:
                self._store.set_status(other, "KILLED")
        run = self._launch(launch.id)
        self._store.set_status(run, "RUNNING")
        for path in launch.files:
            self._store.log_file(run, path)

    def end_launch(
        self, launch_id: str, status: str, files: Sequence[Path], note: str, summary: Sequence[Point] = ()
    ) -> None:
        """Attach tables, figures and numbers to a launch's run, and show a text above all runs."""
        run = self._launch(launch_id)
        self._store.log_rows(run, [summary] if summary else [])
        for path in files:
            self._store.log_file(run, path)
        self._store.set_tags(run, {NOTE: note})
        self._store.describe(self.experiment_id, _HINT + note)
        self._store.set_status(run, status)

    def register(self, name: str, cell: MirroredCell, weights: Path, tags: Mapping[str, str]) -> tuple[str, str, bool]:
        """Attach weights and configuration to a cell's run, and register them as a model's newest version.

        Returns: The model's name (a different one if another owner has it), the version, and whether it is new.
        """
        assert self._owner is not None
        name = own_model(self._store, name, self.experiment_id, self._owner)
        run = self._of(cell).run
        for path in (weights, cell.folder.config_file):
            self._store.log_file(run, path, MODEL)
        return name, *self._store.register(name, run, MODEL, tags)

    def _of(self, cell: MirroredCell) -> _Progress:
        if cell.signature not in self._progress:
            config = from_yaml(cell.folder.config())
            self._find_runs()
            run = self._known_runs.get(cell.signature)
            if run is None:
                launch_id = _launch_of(cell.folder.attempts()[0].known_owner(), cell.folder.grid)
                run = self._create(cell, launch_id, _begun(cell.folder), "RUNNING")
                self._known_runs[cell.signature], last = run, {}
            else:
                last = self._last_steps(run, config.execution.trainer.num_workers)
            self._progress[cell.signature] = _Progress(run, config, _stride(config), last)
        return self._progress[cell.signature]

    def _create(self, cell: MirroredCell, launch_id: str, started: float | None, status: str) -> StoredRun:
        tags = {**cell.axes, **_SOURCE, SIGNATURE: cell.signature, FOLDER: str(cell.folder.path)} | self._run_tags
        if launch_id:
            tags[PARENT] = self._launch(launch_id).id
        names = names_in(cell.folder.config())
        tags[NOTE] = described(cell.folder, cell.axes, names)
        return self._store.create_run(self.experiment_id, name_of(cell.folder, cell.axes, names), tags, started, status)

    def _mirrors_itself(self, folder: RunFolder, state: FolderState) -> bool:
        """Return whether a cell's job writes its run in this experiment."""
        is_running = state.status is CellState.RUNNING
        return is_running and folder.attempts()[-1].known_owner().get(MIRROR) == self.experiment_id

    def _last_steps(self, run: StoredRun, num_workers: int) -> dict[str, int]:
        if run.tags.get(STATUS) == "done":
            return {}
        kinds = [EPOCHS, STEPS, *(_system_prefix(worker) + _PROCESSOR for worker in range(num_workers))]
        histories = {kind: self._store.history(run, kind) for kind in kinds}
        return {kind: max(step for step, _ in points) for kind, points in histories.items() if points}

    @property
    def _known_runs(self) -> dict[str, StoredRun]:
        assert self._runs is not None
        return self._runs

    def _find_runs(self) -> None:
        """Find the runs of cells. Of two, the older one counts: a server may have created one without confirming it."""
        if self._runs is None:
            found = self._store.runs(self.experiment_id, f"tags.`{SIGNATURE}` LIKE '%'")
            self._runs = {}
            for run in found:
                if self._runs.setdefault(run.tags[SIGNATURE], run) is not run:
                    self._store.delete_run(run)

    def _launch(self, launch_id: str) -> StoredRun:
        if launch_id not in self._launches:
            query = f"tags.`{LAUNCH}` = '{launch_id}'"
            found = self._store.runs(self.experiment_id, query)
            kept = self._launches[launch_id] = found[0] if found else self._create_launch(launch_id)
            for run in found or self._store.runs(self.experiment_id, query):
                if run.id != kept.id:
                    self._store.delete_run(run)
        return self._launches[launch_id]

    def _create_launch(self, launch_id: str) -> StoredRun:
        """Create the run of a launch as one that is over; `begin_launch` corrects that."""
        begun = _launch_time(launch_id)
        tags = {LAUNCH: launch_id} | self._run_tags
        run = self._store.create_run(self.experiment_id, _launch_name(launch_id), tags, begun)
        self._store.set_status(run, "FINISHED", begun)
        return run

    def _log_result(self, cell: MirroredCell, known: _Progress) -> None:
        result, run = cell.folder.result() or {}, known.run
        rows = cell.folder.epochs()
        ended = rows[-1]["time"] if rows else _begun(cell.folder)  # the same for whoever repeats it
        final = {f"final/{name}": result.get(name) for name in FINAL}
        best = _class_ious(result.get("best_class_iou", ()), known.config, "final/best_class_iou/")
        self._store.log_rows(run, [_points(final | best, ended, result["step"])])
        for path in (cell.folder.config_file, cell.folder.result_file):
            self._store.log_file(run, path)
        samples = cell.folder.attempt(result["attempt"]).samples_file
        if samples.is_file():
            self._store.log_file(run, samples)
        self._log_model(run, cell.folder.path, known.config, result.get("model"))

    def _log_model(self, run: StoredRun, path: Path, config: TrainConfig, model: Mapping[str, Any] | None) -> None:
        tracking = config.execution.tracking
        if not model or tracking.model == "none":
            return
        is_small = model["bytes"] <= 1e6 * tracking.max_model_mb
        if tracking.model == "copy" and is_small:
            self._store.log_file(run, path / model["path"], MODEL)
        self._store.log_json(run, {**model, "folder": str(path)}, REFERENCE)


def _new_rows(folder: RunFolder, known: _Progress) -> dict[str, list[Points]]:
    """Return the rows that are not mirrored yet, by kind, without empty kinds."""
    last = known.last
    epochs = [_epoch_points(row, known.config) for row in folder.epochs() if row["step"] > last.get(EPOCHS, -1)]
    rows = {EPOCHS: epochs, STEPS: list(_step_rows(folder, known.stride, last.get(STEPS, -1)))}
    rows |= _system_rows(folder, last)
    return {kind: found for kind, found in rows.items() if found}


def _epoch_points(row: Row, config: TrainConfig) -> Points:
    names = config.execution.class_names
    numbers = {}
    for name, value in row.items():
        number = name.removeprefix(_CLASS_IOU)
        if number != name:
            name = "class_iou/" + _class_name(int(number), names)
        if name not in _NOT_METRICS:
            numbers[name] = value
    return _points(numbers, row["time"], row["step"])


def _stride(config: TrainConfig) -> int | None:
    limit = config.execution.tracking.step_points
    return max(1, math.ceil((num_steps(config) or 0) / limit)) if limit else None


def _step_rows(folder: RunFolder, stride: int | None, last: int) -> Iterator[Points]:
    """Yield the first row of each of a run's equal parts."""
    if not stride:
        return
    place, begun = last // stride, _begun(folder)
    for row in folder.steps_after(last):
        if row["step"] // stride > place:
            place = row["step"] // stride
            numbers = {f"step/{name}": value for name, value in row.items() if name not in _NOT_METRICS}
            yield _points(numbers, row.get("time") or begun, row["step"])


def _system_rows(folder: RunFolder, last: Mapping[str, int]) -> dict[str, list[Points]]:
    """Return the rows of machine use by worker; the step of such a row is the seconds since the run began."""
    begun = _begun(folder)
    found: dict[str, list[Points]] = {}
    for attempt in folder.attempts():
        for worker, rows in attempt.system().items():
            prefix = _system_prefix(worker)
            kind = prefix + _PROCESSOR
            points = found.setdefault(kind, [])
            for row in rows:
                step = int(row["time"] - begun)
                if step > (points[-1][0].step if points else last.get(kind, -1)):
                    numbers = {prefix + name: value for name, value in row.items() if name != "time"}
                    points.append(_points(numbers, row["time"], step))
    return found


def _system_prefix(worker: int) -> str:
    return f"system/worker_{worker}/" if worker else "system/"


def _begun(folder: RunFolder) -> float:
    attempts = folder.attempts()
    begun = (found for attempt in attempts if (found := attempt.begun()) is not None)
    return next(begun, attempts[0].path.stat().st_mtime)


def _points(numbers: Mapping[str, Any], time: float, step: int) -> Points:
    """Return the points of a row, without unknown or non-finite values."""
    known = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
    return [Point(name, float(value), time, step) for name, value in known.items()]


def _class_ious(values: Sequence[float | None], config: TrainConfig, prefix: str) -> dict[str, float | None]:
    names = config.execution.class_names
    return {prefix + _class_name(number, names): value for number, value in enumerate(values)}


def _class_name(number: int, names: Sequence[str]) -> str:
    """Return the name of a class's curve; names that MLflow would merge get their numbers."""
    if not names:
        return str(number)
    shown = [metric_name(name) for name in names]
    return names[number] if shown.count(shown[number]) == 1 else f"{names[number]} {number}"


def _tags_of_state(folder: RunFolder, state: FolderState) -> dict[str, str]:
    grid, of_grid = folder.grid, trained_for.of(folder, state).grid
    launches = dict.fromkeys(filter(None, (_launch_of(attempt.known_owner(), grid) for attempt in folder.attempts())))
    return {
        **({TRAINED_FOR: of_grid} if of_grid not in ("", grid.name) else {}),
        LAUNCHES: " ".join(launches),
        FAILURE: state.failure or "",
        "rankmatch.host": state.host,
        "rankmatch.attempts": str(state.num_attempts),
        "mlflow.source.git.commit": state.commit,
        STATUS: state.status,
    }


def _launch_of(owner: Mapping[str, Any], grid: GridFolder) -> str:
    """Return the user's launch behind an attempt; on Slurm a controller may have submitted it. Not of another grid."""
    return str(owner.get("campaign") or owner.get("launch") or "") if trained_for.is_own(owner, grid) else ""


def _launch_time(launch_id: str) -> float | None:
    begun = LaunchFolder(Path(launch_id)).moment
    return begun.timestamp() if begun else None


def _launch_name(launch_id: str) -> str:
    begun = _launch_time(launch_id)
    return f"launch {datetime.fromtimestamp(begun, UTC):%m-%d %H:%M:%S}" if begun else f"launch {launch_id}"
