"""An SQLite database that many processes want at once: it is made whole beside its place, and opened one at a time."""

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import filelock

from orchestration import files
from rankmatch import locks

LOCK_S = 120.0
"""All of MLflow's migrations take seconds on a disk, and may take a minute on a slow file system."""
QUIET_S = 20.0
"""A database that is only half there counts as given up when nobody has written to it for so long."""
_SCHEMA = ("alembic_version", "workspaces")
"""Tables that tell of no run."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only one of us to open a database: MLflow changes the schema of one that an earlier version made.

    Raises:
        OSError: Somebody else has been at it for minutes.
    """
    try:
        lock = locks.acquire(path.with_name(f".{path.name}.lock"), LOCK_S)
    except filelock.Timeout:
        raise OSError(f"{path} has been opened by somebody else for {LOCK_S:.0f} s") from None
    except OSError:  # the folder is read only for us, so no schema is changed either
        yield
        return
    try:
        yield
    finally:
        lock.release()


def make(path: Path, build: Callable[[Path], None]) -> None:
    """Make a database where none is: whole, so that nobody ever sees half of one; the first one stays."""
    if path.exists():
        return
    with _draft(path) as draft:
        build(draft)
        with suppress(FileExistsError):
            files.put(draft, path)


def remake(path: Path, build: Callable[[Path], None], last_written: float) -> bool:
    """Make a database again, in its place, that cannot be opened, unless something is in it; tell whether it was made.

    Args:
        path: Of the database.
        build: Makes one.
        last_written: When that was, in seconds since 1970, before it was tried to open it.

    Raises:
        sqlite3.Error: Somebody holds it.
    """
    if not is_void(path):
        return False
    time.sleep(max(0.0, last_written + QUIET_S - time.time()))  # somebody may be at it, MLflow's own page for one
    if not is_void(path):
        return False
    with _draft(path) as draft:
        build(draft)
        with closing(sqlite3.connect(draft)) as whole, closing(sqlite3.connect(path)) as place:
            whole.backup(place)
    return True


def is_void(path: Path) -> bool:
    """Tell whether a database holds nothing but a schema and what is in every new one."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return not any(_holds(database, table) for table in tables if table not in _SCHEMA)
    except sqlite3.Error:
        return False


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _holds(database: sqlite3.Connection, table: str) -> bool:
    own = "WHERE experiment_id != 0" if table == "experiments" else ""
    return database.execute(f'SELECT 1 FROM "{table}" {own} LIMIT 1').fetchone() is not None
