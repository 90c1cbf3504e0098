"""An MLflow store: SQLite, PostgreSQL or a server; the one place that talks to it, and where its limits are known.

Whatever goes wrong with it is a `StoreError`, whose text holds no password.
"""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from orchestration.mirror import sqlite_file

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
SECRET_VARIABLES = (URI_VARIABLE, "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
SQLITE, SERVERS = "sqlite:", ("http:", "https:")
MAX_KEY, MAX_PARAM_VALUE, MAX_TAG_VALUE, MAX_PARAMS, MAX_METRICS = 250, 6000, 8000, 100, 1000
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
_SETTINGS = {
    # A dead server would hold the caller up for minutes with every call.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "PGCONNECT_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOUD = ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool")
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has the page show an experiment as trainings; it takes those of unknown kind for conversations with models."""
_LOCK = 0x7261_6E6B_6D61
"""The key of the lock in a PostgreSQL database that is held while it is opened."""
_PASSES_BY = re.compile("database is locked|readonly database|out-of-date database schema|unable to open")
_ANEW = "move it away, and `rankmatch sync` writes all of it again from the run folders"
_FORBIDDEN = re.compile(r"[^\w\-./ :]")


class StoreError(Exception):
    """The store did not do what it was asked; nothing but the mirror is affected."""


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
    """A run as the store has it; `tags` and `params` are kept up to date by what is logged through it."""

    id: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    artifacts: str = ""
    """Where its files are, as a URI."""


class Store:
    """A connection to a store; each process, and each thread, opens its own."""

    def __init__(self, uri: str) -> None:
        """Open a store, which makes the schema of a database that has none.

        Raises:
            StoreError: It does not answer.
            ValueError: The driver of the database is not installed.
        """
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # errors with their tracebacks are raised as well
        with _answers():
            self._client = _opened_file(uri) if uri.startswith(SQLITE) else _opened(uri)

    def experiment(self, name: str, artifacts: Path | None = None) -> str:
        """Return the id of an experiment, which is made if it is not there; `artifacts` gets its files.

        Raises:
            ValueError: An experiment of that name was deleted, which keeps the name blocked.
        """
        # Not set_experiment: of several processes at once its losers write to experiment 0 without a word.
        with _answers():
            found = self._client.get_experiment_by_name(name)
            if found is None:
                place = artifacts.resolve().as_uri() if artifacts else None
                made: str = self._client.create_experiment(name, artifact_location=place, tags=_KIND)
                return made
        if found.lifecycle_stage != "active":
            raise ValueError(
                f"experiment {name!r} was deleted in MLflow, which blocks the name; "
                "restore it, remove it for good (mlflow gc), or take another name"
            )
        known: str = found.experiment_id
        return known

    def describe(self, experiment_id: str, text: str) -> None:
        """Show a text (Markdown) above the runs of an experiment."""
        with _answers():
            self._client.set_experiment_tag(experiment_id, NOTE, text[:MAX_TAG_VALUE])

    def runs(self, experiment_id: str, query: str) -> list[StoredRun]:
        """Return the runs that a query of MLflow's finds, oldest first."""
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
        """Make a run."""
        start_time = None if started is None else milliseconds(started)
        with _answers():
            run = _stored(self._client.create_run(experiment_id, start_time, _fitting(tags), name))
            if status != run.status:
                self._client.update_run(run.id, status)
        run.status = status
        return run

    def log_params(self, run: StoredRun, params: Mapping[str, str]) -> None:
        """Log the parameters that a run does not have; those that it has cannot change."""
        from mlflow.entities import Param

        new = {name[:MAX_KEY]: value[:MAX_PARAM_VALUE] for name, value in params.items()}
        missing = [Param(name, value) for name, value in new.items() if name not in run.params]
        with _answers():
            for first in range(0, len(missing), MAX_PARAMS):
                self._client.log_batch(run.id, params=missing[first : first + MAX_PARAMS])
        run.params |= new

    def log_rows(self, run: StoredRun, rows: Iterable[Sequence[Point]]) -> None:
        """Log points in few calls, those of one row in the same one, so that they are there together or not at all."""
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
        """Set the status; one that ends a run with the time of its end."""
        with _answers():
            if status in ("RUNNING", "SCHEDULED"):
                self._client.update_run(run.id, status)
            else:
                self._client.set_terminated(run.id, status, None if ended is None else milliseconds(ended))
        run.status = status

    def log_file(self, run: StoredRun, path: Path, folder: str = "") -> None:
        """Attach a file; one of that name is replaced."""
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

    def register(self, name: str, run: StoredRun, folder: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        """Make a folder of a run's files the newest version of a registered model.

        Returns: The version, and whether it is new: the newest one is kept if it is of the same run.
        """
        with _answers():
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            found = self._client.search_model_versions(f"name = '{name}'")
            newest = max(found, key=lambda version: int(version.version), default=None)
            if newest is not None and newest.run_id == run.id:
                return str(newest.version), False
            made = self._client.create_model_version(name, f"{run.artifacts}/{folder}", run.id, _fitting(tags))
            return str(made.version), True


def metric_name(name: str) -> str:
    """Return a name that MLflow takes for a metric."""
    return _FORBIDDEN.sub("_", name)[:MAX_KEY]


def is_written_by_jobs(uri: str) -> bool:
    """Tell whether many processes may write a store at once; SQLite has one writer."""
    return not uri.startswith(SQLITE)


def artifacts_folder(uri: str, runs: Path, experiment: str) -> Path | None:
    """Return where the files of an experiment go; None leaves that to a server."""
    return None if uri.startswith(SERVERS) else runs / "artifacts" / experiment


def without_password(uri: str) -> str:
    """Return a URI with the password taken out, wherever it stands."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if "password" not in name]
    if ":" not in user and len(query) == len(parse_qsl(parts.query)):
        return uri
    shown = f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"  # urlunsplit would drop an empty host
    return shown + (f"?{urlencode(query)}" if query else "")


def _without_secrets(text: str) -> str:
    """Take out of a message what must not be seen."""
    text = re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)
    secrets = [os.environ.get(name, "") for name in SECRET_VARIABLES[1:]]
    secrets.append(urlsplit(os.environ.get(URI_VARIABLE, "")).password or "")
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


@contextmanager
def _answers() -> Iterator[None]:
    """Turn whatever a store raises into a `StoreError` of one line."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError) as error:
        text = " ".join(_without_secrets(str(error)).split())
        raise StoreError(f"{type(error).__name__}: {text[:500]}") from None


def _opened_file(uri: str) -> "MlflowClient":
    """Open an SQLite database. MLflow's own way lets several processes that make one at once leave half of it."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    path = Path(uri.partition("///")[2]).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite_file.alone(path):
        sqlite_file.make(path, _make_schema)
        last_written = path.stat().st_mtime
        try:
            return MlflowClient(uri, uri)
        except (MlflowException, SQLAlchemyError) as error:
            if _PASSES_BY.search(str(error)):
                raise
            if not sqlite_file.remake(path, _make_schema, last_written):
                raise OSError(f"{path} is half made or damaged, and holds something; {_ANEW} ({error})") from None
        return MlflowClient(uri, uri)


def _make_schema(path: Path) -> None:
    """Do what MLflow's client does to an empty database; it would keep the file open."""
    import sqlalchemy
    from mlflow.store.db import utils

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    try:
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()


def _opened(uri: str) -> "MlflowClient":
    """Open a server or another database, one process at a time: an empty one gets its schema."""
    from mlflow.tracking import MlflowClient

    with nullcontext() if uri.startswith(SERVERS) else _alone(uri):
        return MlflowClient(uri, uri)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Connect once, since MLflow tries for half an hour where a database is gone; hold a lock of its meanwhile."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the driver of {urlsplit(uri).scheme} must be installed (rankmatch[postgres]); there is no {error.name}"
        ) from None
    except sqlalchemy.exc.NoSuchModuleError:
        raise ValueError(
            "the MLflow store must be sqlite:///FILE, postgresql://, http:// or https://; "
            f"got {without_password(uri)!r}"
        ) from None
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sqlalchemy.text(f"SET lock_timeout = '{sqlite_file.LOCK_S:.0f}s'"))
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_LOCK})"))
            yield
    finally:
        engine.dispose()


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
    """Return a time as MLflow has it."""
    return round(1000 * seconds)
