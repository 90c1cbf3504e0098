"""Open an MLflow store, safely even if several processes are the first to open it at once."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestration.mirror import sqlite_file
from orchestration.mirror.store_uri import SERVERS, sqlite_file_of, without_password

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow.tracking import MlflowClient

_SETTINGS = {
    # Otherwise a dead server would delay every call by minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "PGCONNECT_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOUD = ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool")
_LOCK = 0x7261_6E6B_6D61
"""Key of the lock held in a PostgreSQL database while it is opened."""
_PASSES_BY = re.compile("database is locked|readonly database|out-of-date database schema|unable to open")
_ANEW = "move it away, and `rankmatch sync` writes all of it again from the run folders"


def client_of(uri: str) -> "MlflowClient":
    """Connect to a store; an empty database gets its schema.

    Raises:
        ValueError: The driver of the database is not installed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised anyway
    path = sqlite_file_of(uri)
    return _opened(uri) if path is None else _opened_file(uri, path)


def _opened_file(uri: str, path: Path) -> "MlflowClient":
    """Open an SQLite database; by MLflow's own way, several processes at once can leave a new one half made."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

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
    """Create the schema as MLflow's client does; the client itself would keep the file open."""
    import sqlalchemy
    from mlflow.store.db import utils

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    try:
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()


def _opened(uri: str) -> "MlflowClient":
    """Open a server or another database, one process at a time; an empty one gets its schema."""
    from mlflow.tracking import MlflowClient

    with nullcontext() if uri.startswith(SERVERS) else _alone(uri):
        return MlflowClient(uri, uri)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Connect only once, because MLflow retries for half an hour if a database is gone; hold the database's lock."""
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
