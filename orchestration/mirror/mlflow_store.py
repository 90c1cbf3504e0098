"""An MLflow store: SQLite, PostgreSQL or a server. Only this module talks to it and knows its limits.

All its errors are `StoreError`s, whose text contains no password.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestration.mirror.opening import client_of
from orchestration.mirror.store_uri import without_secrets

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow.entities import Experiment, Run

MAX_KEY, MAX_PARAM_VALUE, MAX_TAG_VALUE, MAX_PARAMS, MAX_METRICS = 250, 6000, 8000, 100, 1000
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the page show an experiment as trainings; by default it takes unknown ones for conversations with models."""
_PLACES = (
    ("experiments", "artifact_location", "experiment_id = :experiment"),
    ("runs", "artifact_uri", "experiment_id = :experiment"),
    ("logged_models", "artifact_location", "experiment_id = :experiment"),
    ("model_versions", "source", "run_id IN ({runs})"),
    ("model_versions", "storage_location", "run_id IN ({runs})"),
    ("tags", "value", "key = 'rankmatch.folder' AND run_uuid IN ({runs})"),
)
"""Where MLflow's database stores paths: table, column, and the condition for the rows of an experiment."""
_FORBIDDEN = re.compile(r"[^\w\-./ :]")


class StoreError(Exception):
    """The store failed; only the mirror is affected."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric."""

    name: str
    value: float
    time: float
    """Seconds since 1970. A point that is logged again with the same time stays one point."""
    step: int


@dataclass(slots=True)
class StoredRun:
    """A run in the store; `tags` and `params` follow what is logged through it."""

    id: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    artifacts: str = ""
    """URI of its files."""


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """An experiment in the store."""

    id: str
    name: str
    tags: Mapping[str, str]
    artifacts: str
    """URI for its runs' files."""
    is_deleted: bool

    def checked(self) -> Self:
        """Return the experiment unless it was deleted.

        Raises:
            ValueError: It was deleted.
        """
        if self.is_deleted:
            raise ValueError(
                f"experiment {self.name!r} was deleted in MLflow, which blocks the name; "
                "restore it, remove it for good (mlflow gc), or take another name"
            )
        return self


class Store:
    """A connection to a store; each process, and each thread, opens its own."""

    def __init__(self, uri: str) -> None:
        """Open a store; an empty database gets its schema.

        Raises:
            StoreError: It does not answer.
            ValueError: The driver of the database is not installed.
        """
        self.uri = uri
        with _answers():
            self._client = client_of(uri)

    def experiments(self, name: str, value: str) -> list[StoredExperiment]:
        """Return the experiments with a tag, including deleted ones."""
        from mlflow.entities import ViewType

        with _answers():
            found = self._client.search_experiments(ViewType.ALL, filter_string=f"tags.`{name}` = '{value}'")
        return list(map(_stored_experiment, found))

    def make_experiment(
        self, name: str, artifacts: Path | None = None, tags: Mapping[str, str] | None = None
    ) -> StoredExperiment:
        """Return the experiment with a name, whoever made it and even if it was deleted; create it if there is none.

        Args:
            name: Of the experiment.
            artifacts: Folder for the files of a new one; None lets the store decide.
            tags: Of a new one.
        """
        from mlflow.exceptions import MlflowException

        place = artifacts.resolve().as_uri() if artifacts else None
        with _answers():
            found = self._client.get_experiment_by_name(name)
            if found is None:
                # Not set_experiment: if several processes call it at once, the losers silently write to experiment 0.
                try:
                    made = self._client.create_experiment(name, artifact_location=place, tags=_KIND | dict(tags or {}))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    found = self._client.get_experiment_by_name(name)
                    if found is None:  # MLflow uses this error for everything that a database refuses
                        raise
                else:
                    found = self._client.get_experiment(made)
        return _stored_experiment(found)

    def experiment(self, name: str, artifacts: Path | None = None) -> str:
        """Return the id of an experiment; see `make_experiment`.

        Raises:
            ValueError: One with that name was deleted, which blocks the name.
        """
        return self.make_experiment(name, artifacts).checked().id

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment."""
        with _answers():
            for name, value in tags.items():
                self._client.set_experiment_tag(experiment_id, name, value)

    def move(self, experiment_id: str, old: Path, new: Path) -> None:
        """Change the folder of an experiment's files in a database.

        MLflow has no call for this. Other experiments, and files elsewhere, are not changed.
        """
        import sqlalchemy as sql
        from mlflow.tracking._tracking_service import utils

        # URIs of files, and the path that this project stores in a tag
        starts = [(f"{old.as_uri()}/", f"{new.as_uri()}/"), (f"{old}/", f"{new}/")]
        runs = "SELECT run_uuid FROM runs WHERE experiment_id = :experiment"
        with _answers(), self._client._tracking_client.store.engine.begin() as connection:
            for table, column, which in _PLACES:
                for before, after in starts:
                    statement = (
                        f"UPDATE {table} SET {column} = :after || substr({column}, :rest) "  # noqa: S608 (own names)
                        f"WHERE substr({column}, 1, :length) = :before AND {which.format(runs=runs)}"
                    )
                    values = {"before": before, "after": after, "length": len(before), "rest": len(before) + 1}
                    connection.execute(sql.text(statement), values | {"experiment": int(experiment_id)})
        utils._artifact_repos_cache.clear()  # this process may have written to a run at its old place

    def describe(self, experiment_id: str, text: str) -> None:
        """Show a text (Markdown) above the runs of an experiment."""
        with _answers():
            self._client.set_experiment_tag(experiment_id, NOTE, text[:MAX_TAG_VALUE])

    def runs(self, experiment_id: str, query: str) -> list[StoredRun]:
        """Return the runs found by an MLflow query, oldest first."""
        found: list[StoredRun] = []
        token: str | None = None
        with _answers():
            while True:
                page = self._client.search_runs(
                    [experiment_id], query, order_by=["attributes.start_time ASC"], page_token=token
                )
                found.extend(map(_stored, page))
                token = page.token
                if not token:
                    return found

    def create_run(
        self, experiment_id: str, name: str, tags: Mapping[str, str], started: float | None, status: str = "RUNNING"
    ) -> StoredRun:
        """Create a run."""
        start_time = None if started is None else milliseconds(started)
        with _answers():
            run = _stored(self._client.create_run(experiment_id, start_time, _fitting(tags), name))
            if status != run.status:
                self._client.update_run(run.id, status)
        run.status = status
        return run

    def delete_run(self, run: StoredRun) -> None:
        """Delete a run, as its page does: it can be restored until `mlflow gc`."""
        with _answers():
            self._client.delete_run(run.id)

    def log_params(self, run: StoredRun, params: Mapping[str, str]) -> None:
        """Log the parameters that a run does not have yet; existing ones cannot change."""
        from mlflow.entities import Param

        new = {name[:MAX_KEY]: value[:MAX_PARAM_VALUE] for name, value in params.items()}
        missing = [Param(name, value) for name, value in new.items() if name not in run.params]
        with _answers():
            for first in range(0, len(missing), MAX_PARAMS):
                self._client.log_batch(run.id, params=missing[first : first + MAX_PARAMS])
        run.params |= new

    def log_rows(self, run: StoredRun, rows: Iterable[Sequence[Point]]) -> None:
        """Log points in few calls, those of one row in the same call, so that they appear together or not at all."""
        with _answers():
            for batch in _batches(rows):
                self._client.log_batch(run.id, metrics=batch)

    def set_tags(self, run: StoredRun, tags: Mapping[str, str]) -> None:
        """Set the tags that differ."""
        from mlflow.entities import RunTag

        changed = {name: value for name, value in _fitting(tags).items() if run.tags.get(name) != value}
        if changed:
            with _answers():
                self._client.log_batch(run.id, tags=[RunTag(name, value) for name, value in changed.items()])
            run.tags |= changed

    def set_status(self, run: StoredRun, status: str, ended: float | None = None) -> None:
        """Set the status; a final one also sets the time of the end."""
        with _answers():
            if status in ("RUNNING", "SCHEDULED"):
                self._client.update_run(run.id, status)
            else:
                self._client.set_terminated(run.id, status, None if ended is None else milliseconds(ended))
        run.status = status

    def log_file(self, run: StoredRun, path: Path, folder: str = "") -> None:
        """Attach a file, replacing one with the same name."""
        with _answers():
            self._client.log_artifact(run.id, str(path), folder or None)

    def log_json(self, run: StoredRun, content: Mapping[str, Any], name: str) -> None:
        """Attach a JSON file."""
        with _answers():
            self._client.log_text(run.id, json.dumps(content, indent=1) + "\n", name)

    def history(self, run: StoredRun, name: str) -> list[tuple[int, float]]:
        """Return step and value of every point of a metric, by step."""
        with _answers():
            return sorted((point.step, point.value) for point in self._client.get_metric_history(run.id, name))

    def make_model(self, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags of a registered model, whoever made it; create it if there is none."""
        from mlflow.exceptions import MlflowException

        with _answers():
            try:
                self._client.create_registered_model(name, dict(tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            return dict(self._client.get_registered_model(name).tags)

    def tag_model(self, name: str, tags: Mapping[str, str]) -> None:
        """Set tags of a registered model."""
        with _answers():
            for key, value in tags.items():
                self._client.set_registered_model_tag(name, key, value)

    def experiments_of_model(self, name: str) -> set[str]:
        """Return the ids of the experiments from which the versions of a registered model come."""
        with _answers():
            versions = self._client.search_model_versions(f"name = '{name}'")
            return {self._client.get_run(str(version.run_id)).info.experiment_id for version in versions}

    def register(self, name: str, run: StoredRun, folder: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        """Make a folder of a run's files the newest version of a registered model.

        Returns: The version, and whether it is new: the newest one is kept if it comes from the same run.
        """
        with _answers():
            found = self._client.search_model_versions(f"name = '{name}'")
            newest = max(found, key=lambda version: int(version.version), default=None)
            if newest is not None and newest.run_id == run.id:
                return str(newest.version), False
            made = self._client.create_model_version(name, f"{run.artifacts}/{folder}", run.id, _fitting(tags))
            return str(made.version), True


def metric_name(name: str) -> str:
    """Return a metric name that MLflow accepts."""
    return _FORBIDDEN.sub("_", name)[:MAX_KEY]


@contextmanager
def _answers() -> Iterator[None]:
    """Turn all exceptions of a store into a `StoreError` of one line."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError) as error:
        text = " ".join(without_secrets(str(error)).split()).partition(" [SQL:")[0]
        raise StoreError(f"{type(error).__name__}: {text[:500]}") from None


def _stored_experiment(found: "Experiment | None") -> StoredExperiment:
    assert found is not None
    is_deleted = found.lifecycle_stage != "active"
    return StoredExperiment(found.experiment_id, found.name, dict(found.tags), found.artifact_location, is_deleted)


def _stored(run: "Run") -> StoredRun:
    return StoredRun(
        run.info.run_id, run.info.status, dict(run.data.tags), dict(run.data.params), run.info.artifact_uri
    )


def _batches(rows: Iterable[Sequence[Point]]) -> Iterator[list[Any]]:
    from mlflow.entities import Metric

    batch: list[Metric] = []
    for row in rows:
        points = [Metric(metric_name(p.name), p.value, milliseconds(p.time), p.step) for p in row]
        if len(batch) + len(points) > MAX_METRICS:
            yield batch
            batch = []
        batch += points
    if batch:
        yield batch


def _fitting(tags: Mapping[str, str]) -> dict[str, str]:
    return {name[:MAX_KEY]: value[:MAX_TAG_VALUE] for name, value in tags.items()}


def milliseconds(seconds: float) -> int:
    """Return a time in MLflow's unit."""
    return round(1000 * seconds)
