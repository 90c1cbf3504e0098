"""The MLflow mirror of run folders: what it shows is read from them, so it can be deleted and made again."""

import json
import logging
import math
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orchestration.run_folder import CONFIG, RESULT, FolderState, RunFolder
from orchestration.values import flatten

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

SIGNATURE, LAUNCH, STATUS, LAST_STEP = (f"rankmatch.{name}" for name in ("signature", "launch", "status", "last_step"))
STATUSES = {"running": "RUNNING", "interrupted": "KILLED", "failed": "FAILED", "done": "FINISHED"}
FINAL = ("best_miou", "best_epoch", "last_miou", "duration_s", "num_present_classes", "attempt")
"""Numbers of the result; logged as `final.<name>`, apart from the curves."""
MAX_KEY, MAX_PARAM_VALUE, MAX_TAG_VALUE, MAX_PARAMS, MAX_METRICS = 250, 6000, 8000, 100, 1000
_NOT_METRICS = ("step", "time", "num_epochs", "num_steps")
_SQLITE = "sqlite:///"
SYNC_EVERY_S = 5.0
FINISH_TIMEOUT_S = 120

MirroredCell = tuple[RunFolder, Mapping[str, str], str]
"""A run folder, the cell's axes and its signature."""


class Mirror:
    """An experiment with one MLflow run for each cell; only one process may write it at a time."""

    def __init__(self, tracking_uri: str, experiment_name: str) -> None:
        """Open the store and the experiment, and make them if they are not there.

        Raises:
            ValueError: An experiment of that name was deleted, which keeps the name blocked.
        """
        self._client = _open(tracking_uri)
        self.experiment_id = self._find_experiment(tracking_uri, experiment_name)
        self._runs: dict[str, Run] | None = None
        self._seen: dict[str, tuple[str, float]] = {}

    def sync(self, cells: Iterable[MirroredCell]) -> None:
        """Bring the runs up to date with run folders, given with the cells' axes and signatures.

        What is mirrored already is not written again; a cell that was never begun gets no run.
        """
        for folder, axes, signature in cells:
            state = folder.state()
            seen = (state.status, state.updated)
            if state.status == "missing" or self._seen.get(signature) == seen:
                continue
            self._sync_cell(folder, state, axes, signature)
            self._seen[signature] = seen

    def log_launch(self, launch_id: str, paths: Sequence[Path]) -> None:
        """Attach files (tables, a report) to the run that stands for a launch."""
        found = self._search(f"tags.`{LAUNCH}` = '{launch_id}'")
        run = found[0] if found else self._create_run(launch_id, {LAUNCH: launch_id}, None)
        for path in paths:
            self._client.log_artifact(run.info.run_id, str(path))
        self._client.set_terminated(run.info.run_id, "FINISHED")

    def _find_experiment(self, tracking_uri: str, name: str) -> str:
        # Not set_experiment: of several processes at once its losers write to experiment 0 without a word.
        found = self._client.get_experiment_by_name(name)
        if found is None:
            made: str = self._client.create_experiment(name, artifact_location=_artifacts(tracking_uri, name))
            return made
        if found.lifecycle_stage != "active":
            raise ValueError(
                f"experiment {name!r} was deleted in MLflow ({tracking_uri}), which blocks the name; "
                "restore it, remove it for good (mlflow gc), or take another name"
            )
        known: str = found.experiment_id
        return known

    def _sync_cell(self, folder: RunFolder, state: FolderState, axes: Mapping[str, str], signature: str) -> None:
        run = self._run_of(folder, axes, signature)
        tags, run_id = run.data.tags, run.info.run_id
        if tags.get(STATUS) == "done":
            return
        last_step = int(tags.get(LAST_STEP, -1))
        for row in folder.epochs():
            if row["step"] > last_step:
                self._log_row(run, row)
        if state.status == "done":
            self._log_result(folder, run_id, state)
        if tags.get(STATUS) != state.status:
            self._set_status(run_id, state)
            self._set_tag(run, STATUS, state.status)

    def _run_of(self, folder: RunFolder, axes: Mapping[str, str], signature: str) -> "Run":
        if self._runs is None:
            self._runs = {run.data.tags[SIGNATURE]: run for run in self._search(f"tags.`{SIGNATURE}` LIKE '%'")}
        if signature not in self._runs:
            tags = {key[:MAX_KEY]: text[:MAX_TAG_VALUE] for key, text in axes.items()}
            started = folder.attempts()[0].owner()["started"]
            self._runs[signature] = self._create_run(folder.path.name, {**tags, SIGNATURE: signature}, started)
        run = self._runs[signature]
        if STATUS not in run.data.tags:
            self._log_config(folder, run)
        return run

    def _create_run(self, name: str, tags: Mapping[str, str], started: str | None) -> "Run":
        start_time = _milliseconds(datetime.fromisoformat(started).timestamp()) if started else None
        return self._client.create_run(self.experiment_id, start_time, dict(tags), name)

    def _search(self, query: str) -> "list[Run]":
        found: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = self._client.search_runs([self.experiment_id], query, page_token=token or None)
            found.extend(page)
            token = page.token or None
        return found

    def _log_config(self, folder: RunFolder, run: "Run") -> None:
        from mlflow.entities import Param

        known = run.data.params
        params = [Param(key, value) for key, value in _params(folder.config()).items() if key not in known]
        for first in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(run.info.run_id, params=params[first : first + MAX_PARAMS])
        self._client.log_artifact(run.info.run_id, str(folder.path / CONFIG))

    def _log_row(self, run: "Run", row: Mapping[str, Any]) -> None:
        """Log an epoch and, in the same call, how far the mirror is."""
        from mlflow.entities import RunTag

        numbers = {name: value for name, value in row.items() if name not in _NOT_METRICS}
        metrics = _metrics(numbers, _milliseconds(row["time"]), row["step"])
        tag = RunTag(LAST_STEP, str(row["step"]))
        for first in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(run.info.run_id, metrics[first : first + MAX_METRICS], tags=[tag])
        run.data.tags[LAST_STEP] = tag.value

    def _log_result(self, folder: RunFolder, run_id: str, state: FolderState) -> None:
        result = folder.result() or {}
        final = {f"final.{name}": result.get(name) for name in FINAL}
        self._client.log_batch(run_id, _metrics(final, _milliseconds(state.updated), state.step))
        for name in (CONFIG, RESULT):
            self._client.log_artifact(run_id, str(folder.path / name))

    def _set_status(self, run_id: str, state: FolderState) -> None:
        status = STATUSES[state.status]
        if status == "RUNNING":
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status, _milliseconds(state.updated))

    def _set_tag(self, run: "Run", key: str, value: str) -> None:
        self._client.set_tag(run.info.run_id, key, value)
        run.data.tags[key] = value


class MirrorThread(threading.Thread):
    """Mirrors cells beside the work of a launch, so that a slow or dead store costs the training nothing.

    An error of the store does not end the launch: `finish` returns it. Launching again writes what is missing.
    """

    def __init__(self, tracking_uri: str, experiment_name: str, cells: Sequence[MirroredCell]) -> None:
        super().__init__(name="mlflow-mirror", daemon=True)
        self._store, self._cells = (tracking_uri, experiment_name), cells
        self._ended = threading.Event()
        self._launch: tuple[str, Sequence[Path]] | None = None
        self._error = "the mirror ended early"

    def run(self) -> None:
        """Sync every few seconds, and once more after `finish` was called."""
        from mlflow.exceptions import MlflowException

        try:
            mirror = Mirror(*self._store)
            while not self._ended.wait(SYNC_EVERY_S):
                mirror.sync(self._cells)
            mirror.sync(self._cells)
            if self._launch and self._launch[0]:
                mirror.log_launch(*self._launch)
            self._error = ""
        except (MlflowException, OSError, ValueError) as error:
            self._error = f"{type(error).__name__}: {error}"

    def finish(self, launch_id: str, files: Sequence[Path]) -> str:
        """Wait for the last sync, which attaches files to the launch's run; return what went wrong, if anything."""
        self._launch = (launch_id, files)
        self._ended.set()
        self.join(FINISH_TIMEOUT_S)
        return f"the store did not answer within {FINISH_TIMEOUT_S} s" if self.is_alive() else self._error


def _open(tracking_uri: str) -> "MlflowClient":
    """Open a store, which makes its schema, without the migration's lines on the console."""
    # A dead server would hold the caller up for minutes with every call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if tracking_uri.startswith(_SQLITE):
        Path(tracking_uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri)


def _artifacts(tracking_uri: str, experiment_name: str) -> str | None:
    """Place the artifacts of a local store beside it, and leave the place to a server."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    return (Path(tracking_uri.removeprefix(_SQLITE)).resolve().parent / "artifacts" / experiment_name).as_uri()


def _params(config_yaml: str) -> dict[str, str]:
    """Flatten a configuration into what MLflow takes as parameters."""
    tree = yaml.load(config_yaml, yaml.BaseLoader)  # noqa: S506 (the base loader makes text only, so 1_16 stays 1_16)
    return {key[:MAX_KEY]: _as_text(value)[:MAX_PARAM_VALUE] for key, value in flatten(tree).items()}


def _as_text(value: Any) -> str:  # noqa: ANN401 (a YAML value)
    return value if isinstance(value, str) else json.dumps(value)


def _metrics(numbers: Mapping[str, Any], timestamp: int, step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    known = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
    return [Metric(name[:MAX_KEY], float(value), timestamp, step) for name, value in known.items()]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
