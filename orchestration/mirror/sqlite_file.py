"""An SQLite database for many processes: created completely beside its place, and opened by one process at a time."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import filelock

from orchestration.machine import files
from rankmatch import locks
from rankmatch.durable import draft_of

LOCK_S = 120.0
"""Seconds to wait: MLflow's migrations take seconds on a disk, but may take a minute on a slow file system."""
QUIET_S = 20.0
"""A half-made database counts as abandoned after this long without a write."""
_SCHEMA = ("alembic_version", "workspaces")
"""Tables that do not depend on any run."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Open a database as the only process of ours: MLflow migrates the schema of an earlier version.

    Raises:
        OSError: Another process has held it for minutes.
    """
    try:
        lock = locks.acquire(files.lock_of(path), LOCK_S)
    except filelock.Timeout:
        text = f"{path} has been opened by somebody else for {LOCK_S:.0f} s{locks.hint(files.lock_of(path))}"
        raise OSError(text) from None
    except OSError:  # the folder is read-only for us, so we do not change the schema either
        yield
        return
    try:
        yield
    finally:
        lock.release()


def make(path: Path, build: Callable[[Path], None]) -> None:
    """Create a database if there is none, atomically; the first one stays."""
    if path.exists():
        return
    with draft_of(path) as draft:
        build(draft)
        with suppress(FileExistsError):
            files.put(draft, path)


def remake(path: Path, build: Callable[[Path], None], last_written: float) -> bool:
    """Recreate a database that cannot be opened, unless it has content; return whether it was recreated.

    Args:
        path: Of the database.
        build: Creates a database.
        last_written: Time of its last write before the attempt to open it, in seconds since 1970.

    Raises:
        sqlite3.Error: Another process holds it.
    """
    if not is_void(path):
        return False
    time.sleep(max(0.0, last_written + QUIET_S - time.time()))  # a user may be at work, such as MLflow's page
    if not is_void(path):
        return False
    with draft_of(path) as draft:
        build(draft)
        with closing(sqlite3.connect(draft)) as whole, closing(sqlite3.connect(path)) as place:
            whole.backup(place)
    return True


def is_void(path: Path) -> bool:
    """Return whether a database contains only a schema and what every new one contains."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return not any(_holds(database, table) for table in tables if table not in _SCHEMA)
    except sqlite3.Error:
        return False


def _holds(database: sqlite3.Connection, table: str) -> bool:
    own = "WHERE experiment_id != 0" if table == "experiments" else ""
    return database.execute(f'SELECT 1 FROM "{table}" {own} LIMIT 1').fetchone() is not None
