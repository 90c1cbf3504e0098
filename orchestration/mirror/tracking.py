"""The MLflow mirror of run folders: what it shows is read from them, so it can be deleted and made again.

A run for each cell over all its attempts, below a run for the launch that began it. How far a run is, its own curves
say, and a point that is logged twice with the same time is one point: so whoever goes on repeats nothing, even behind a
server that died in the middle.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestration.attempt import CONFIG, RESULT
from orchestration.cells import from_yaml
from orchestration.costs import num_steps
from orchestration.damage import tell
from orchestration.mirror.mlflow_store import NOTE, PARENT, Point, Store, StoredRun, StoreError, metric_name
from orchestration.mirror.ownership import FOLDER, LAUNCH, Owner, own_model
from orchestration.mirror.parameters import parameters
from orchestration.recorder import Row
from orchestration.run_folder import FolderState, RunFolder
from rankmatch.config import TrainConfig

SIGNATURE, STATUS, LAUNCHES, FAILURE = (f"rankmatch.{name}" for name in ("signature", "status", "launches", "failure"))
STATUSES = {"running": "RUNNING", "interrupted": "KILLED", "failed": "FAILED", "done": "FINISHED"}
FINAL = ("best_miou", "best_epoch", "last_miou", "duration_s", "gpu_duration_s", "num_present_classes", "attempt")
"""Numbers of the result; logged as `final/<name>`, apart from the curves."""
EPOCHS, STEPS, _PROCESSOR = "epoch", "step/loss", "cpu_percent"
"""A metric of each kind of row; the last step of its curve says how far that kind is mirrored."""
MIRROR = "mirror"
"""The field of `owner.json` by which an attempt's job mirrors itself: the id of the experiment."""
SAMPLES, MODEL = "samples.png", "model"
_SOURCE = {"mlflow.source.name": "rankmatch", "mlflow.source.type": "LOCAL"}
"""Beside the commit, which the page shows only with them."""
_HINT = "Expand a launch (+) or group by a tag to see curves of its cells.\n\n"
_NOT_METRICS = ("step", "time", "num_epochs", "num_steps")
_CLASS_IOU = "class_iou_"

Points = list[Point]


@dataclass(frozen=True, slots=True)
class MirroredCell:
    """A run folder, and what a run is found and grouped by."""

    folder: RunFolder
    axes: Mapping[str, str]
    signature: str


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch as MLflow shows it: the parent of the cells that it began."""

    id: str
    files: Sequence[Path] = ()
    """Attached when it begins."""


@dataclass(slots=True)
class _Progress:
    """What one process remembers of a cell."""

    run: StoredRun
    config: TrainConfig
    stride: int | None
    """Steps for which the first row stands; None: steps are not wanted."""
    last: dict[str, int] = field(default_factory=dict)
    """By kind of row the last step that is mirrored."""
    seen: tuple[str, float] | None = None


class Mirror:
    """One experiment; only one process may write a cell's run at a time."""

    def __init__(self, store: Store, experiment_id: str, owner: Owner | None = None) -> None:
        """Take an experiment; `owner` is who has made it, for whoever makes runs in it."""
        self._store, self.experiment_id, self._owner = store, experiment_id, owner
        self._run_tags = owner.run_tags() if owner else {}
        self._progress: dict[str, _Progress] = {}
        self._runs: dict[str, StoredRun] | None = None
        self._launches: dict[str, StoredRun] = {}

    def sync(self, cells: Iterable[MirroredCell]) -> None:
        """Bring runs up to date with run folders; a cell that was never begun gets no run.

        Left alone are cells whose jobs mirror themselves, as long as they run.

        Raises:
            StoreError: The store does not answer, or a cell cannot be read for now; what it has stays, and the next
                call goes on.
        """
        away: list[str] = []
        for cell in cells:
            state, known = cell.folder.state(), self._progress.get(cell.signature)
            away += [state.damage] if state.status == "unreadable" else []
            is_known = known is not None and known.seen == (state.status, state.updated)
            if state.status in ("missing", "damaged", "unreadable") or is_known or _mirrors_itself(cell.folder, state):
                continue
            try:
                self.sync_cell(cell, state)
            except ValueError as error:  # a file of this cell; those of the others are written
                tell(f"{cell.folder.path.name} is not written to MLflow: {error}")
        if away:
            raise StoreError("; ".join(away[:3]))

    def sync_cell(self, cell: MirroredCell, state: FolderState) -> None:
        """Bring one run up to date."""
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
            self._store.log_file(run, folder.path / CONFIG)
        if state.status == "done":
            self._log_result(cell, known)
        if run.status != STATUSES[state.status]:
            self._store.set_status(run, STATUSES[state.status], state.updated)
        tags = _tags_of_state(folder, state)
        if not tags[FAILURE] and FAILURE not in run.tags:
            del tags[FAILURE]
        self._store.set_tags(run, tags)
        known.seen = (state.status, state.updated)

    def schedule(self, cells: Iterable[MirroredCell], launch_id: str) -> None:
        """Make the runs of cells that are about to be trained, so that their jobs need only find them."""
        for cell in cells:
            self._find_runs()
            if cell.signature not in self._known_runs:
                self._known_runs[cell.signature] = self._create(cell, launch_id, None, "SCHEDULED")

    def forget(self, signatures: Iterable[str]) -> None:
        """Delete the runs of some cells: MLflow can restore them, and cells of these signatures get new ones."""
        self._find_runs()
        for signature in signatures:
            self._progress.pop(signature, None)
            if run := self._known_runs.pop(signature, None):
                self._store.delete_run(run)

    def find(self, signature: str) -> bool:
        """Look for the run of a single cell; false if nobody has made it."""
        found = self._store.runs(self.experiment_id, f"tags.`{SIGNATURE}` = '{signature}'")
        self._runs = {signature: found[0]} if found else {}
        return bool(found)

    def begin_launch(self, launch: Launch) -> None:
        """Make the run of a launch; those of earlier ones that are still said to run were killed."""
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
        """Attach tables, figures and numbers to the run of a launch, and show a text above all runs."""
        run = self._launch(launch_id)
        self._store.log_rows(run, [summary] if summary else [])
        for path in files:
            self._store.log_file(run, path)
        self._store.set_tags(run, {NOTE: note})
        self._store.describe(self.experiment_id, _HINT + note)
        self._store.set_status(run, status)

    def register(self, name: str, cell: MirroredCell, weights: Path, tags: Mapping[str, str]) -> tuple[str, str, bool]:
        """Attach weights and configuration to a cell's run, and make them the newest version of a registered model.

        Returns: The model's name, another one where somebody else's has that, the version, and whether it is new.
        """
        assert self._owner is not None
        name = own_model(self._store, name, self.experiment_id, self._owner)
        run = self._of(cell).run
        for path in (weights, cell.folder.path / CONFIG):
            self._store.log_file(run, path, MODEL)
        return name, *self._store.register(name, run, MODEL, tags)

    def _of(self, cell: MirroredCell) -> _Progress:
        if cell.signature not in self._progress:
            config = from_yaml(cell.folder.config())
            self._find_runs()
            run = self._known_runs.get(cell.signature)
            if run is None:
                run = self._create(
                    cell, _launch_of(cell.folder.attempts()[0].known_owner()), _begun(cell.folder), "RUNNING"
                )
                self._known_runs[cell.signature], last = run, {}
            else:
                last = self._last_steps(run, config.execution.trainer.num_workers)
            self._progress[cell.signature] = _Progress(run, config, _stride(config), last)
        return self._progress[cell.signature]

    def _create(self, cell: MirroredCell, launch_id: str, started: float | None, status: str) -> StoredRun:
        folder = cell.folder.path
        tags = {**cell.axes, **_SOURCE, SIGNATURE: cell.signature, FOLDER: str(folder)} | self._run_tags
        if launch_id:
            tags[PARENT] = self._launch(launch_id).id
        return self._store.create_run(self.experiment_id, folder.name.partition("-")[2], tags, started, status)

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
        """Find the runs of cells. Of two the older one counts: a server may have made one and not have said so."""
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
        """Make the run of a launch that is over, as it is unless `begin_launch` says otherwise."""
        begun = _launch_time(launch_id)
        tags = {LAUNCH: launch_id} | self._run_tags
        run = self._store.create_run(self.experiment_id, _launch_name(launch_id), tags, begun)
        self._store.set_status(run, "FINISHED", begun)
        return run

    def _log_result(self, cell: MirroredCell, known: _Progress) -> None:
        result, run, path = cell.folder.result() or {}, known.run, cell.folder.path
        rows = cell.folder.epochs()
        ended = rows[-1]["time"] if rows else _begun(cell.folder)  # the same for whoever repeats it
        final = {f"final/{name}": result.get(name) for name in FINAL}
        best = _class_ious(result.get("best_class_iou", ()), known.config, "final/best_class_iou/")
        self._store.log_rows(run, [_points(final | best, ended, result["step"])])
        for name in (CONFIG, RESULT):
            self._store.log_file(run, path / name)
        samples = path / "attempts" / str(result["attempt"]) / SAMPLES
        if samples.is_file():
            self._store.log_file(run, samples)
        self._log_model(run, path, known.config, result.get("model"))

    def _log_model(self, run: StoredRun, path: Path, config: TrainConfig, model: Mapping[str, Any] | None) -> None:
        tracking = config.execution.tracking
        if not model or tracking.model == "none":
            return
        is_small = model["bytes"] <= 1e6 * tracking.max_model_mb
        if tracking.model == "copy" and is_small:
            self._store.log_file(run, path / model["path"], MODEL)
        self._store.log_json(run, {**model, "folder": str(path)}, f"{MODEL}/reference.json")


def _new_rows(folder: RunFolder, known: _Progress) -> dict[str, list[Points]]:
    """Return by kind the rows after those that are mirrored, without the kinds that have none."""
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
    """Give the first row of each of the equal parts of a run."""
    if not stride:
        return
    place, begun = last // stride, _begun(folder)
    for row in folder.steps_after(last):
        if row["step"] // stride > place:
            place = row["step"] // stride
            numbers = {f"step/{name}": value for name, value in row.items() if name not in _NOT_METRICS}
            yield _points(numbers, row.get("time") or begun, row["step"])


def _system_rows(folder: RunFolder, last: Mapping[str, int]) -> dict[str, list[Points]]:
    """Return by worker what it took of its machine; the step of such a row is the seconds since the run began."""
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
    """Return the points of a row; what is unknown or not finite has none."""
    known = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
    return [Point(name, float(value), time, step) for name, value in known.items()]


def _class_ious(values: Sequence[float | None], config: TrainConfig, prefix: str) -> dict[str, float | None]:
    names = config.execution.class_names
    return {prefix + _class_name(number, names): value for number, value in enumerate(values)}


def _class_name(number: int, names: Sequence[str]) -> str:
    """Return what a class's curve is called; names that MLflow would write alike are told apart by their numbers."""
    if not names:
        return str(number)
    shown = [metric_name(name) for name in names]
    return names[number] if shown.count(shown[number]) == 1 else f"{names[number]} {number}"


def _tags_of_state(folder: RunFolder, state: FolderState) -> dict[str, str]:
    launches = dict.fromkeys(filter(None, (_launch_of(attempt.known_owner()) for attempt in folder.attempts())))
    return {
        LAUNCHES: " ".join(launches),
        FAILURE: state.failure or "",
        "rankmatch.host": state.host,
        "rankmatch.attempts": str(state.num_attempts),
        "mlflow.source.git.commit": state.commit,
        STATUS: state.status,
    }


def _mirrors_itself(folder: RunFolder, state: FolderState) -> bool:
    return state.status == "running" and MIRROR in folder.attempts()[-1].known_owner()


def _launch_of(owner: Mapping[str, Any]) -> str:
    """Return the user's launch that an attempt follows from; on Slurm a controller may have submitted it."""
    return str(owner.get("campaign") or owner.get("launch") or "")


def _launch_time(launch_id: str) -> float | None:
    try:
        begun = datetime.strptime(launch_id.partition("-")[0], "%Y%m%dT%H%M%S.%f")
    except ValueError:
        return None
    return begun.replace(tzinfo=UTC).timestamp()


def _launch_name(launch_id: str) -> str:
    begun = _launch_time(launch_id)
    return f"launch {datetime.fromtimestamp(begun, UTC):%m-%d %H:%M:%S}" if begun else f"launch {launch_id}"
