"""An MLflow store in a file: whole or not there, whoever opens it first, and however often that was broken off."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestration.mirror import sqlite_file
from orchestration.mirror.mlflow_store import Store, StoreError

ROOT = Path(__file__).resolve().parents[3]


def open_at_once(uri: str, *names: str) -> dict[str, str]:
    command = [sys.executable, str(ROOT / "tests" / "mlflow_opener.py"), uri, *names]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_three_launches_that_open_a_new_store_at_once_all_get_it(tmp_path):
    path = tmp_path / "runs" / "mlflow.db"
    found = open_at_once(f"sqlite:///{path}", "a", "b", "c")
    assert sorted(found.values()) == ["1", "2", "3"]
    assert sorted(left.name for left in path.parent.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


@pytest.fixture
def half_made(tmp_path) -> Path:
    """What a launch leaves that was killed while MLflow made the schema; nobody has written to it for long."""
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name VARCHAR(256))")
        database.execute("CREATE TABLE params (key VARCHAR(250), value VARCHAR(250), run_uuid VARCHAR(32))")
        database.execute("INSERT INTO experiments VALUES (0, 'Default')")
        database.commit()
    os.utime(path, (0, 0))
    return path


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
def test_half_made_store_with_nothing_in_it_is_made_again(half_made):
    assert Store(f"sqlite:///{half_made}").experiment("a") == "1"
    assert Store(f"sqlite:///{half_made}").experiment("a") == "1"


def test_empty_file_becomes_a_store(tmp_path):
    (tmp_path / "mlflow.db").touch()
    os.utime(tmp_path / "mlflow.db", (0, 0))
    assert Store(f"sqlite:///{tmp_path / 'mlflow.db'}").experiment("a") == "1"


def test_half_made_store_with_something_in_it_is_left_alone_and_the_reason_told(half_made):
    with closing(sqlite3.connect(half_made)) as database:
        database.execute("INSERT INTO experiments VALUES (1, 'mine')")
        database.commit()
    os.utime(half_made, (0, 0))
    with pytest.raises(StoreError, match="holds something; move it away, and `rankmatch sync` writes all of it again"):
        Store(f"sqlite:///{half_made}")
    with closing(sqlite3.connect(half_made)) as database:
        assert database.execute("SELECT name FROM experiments").fetchall() == [("Default",), ("mine",)]


def test_file_that_is_no_database_is_told_in_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database\n" * 100)
    os.utime(tmp_path / "mlflow.db", (0, 0))
    with pytest.raises(StoreError, match="file is not a database"):
        Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_store_whose_folder_cannot_be_locked_is_opened_all_the_same(tmp_path, monkeypatch):
    def refuse(path, timeout_s):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sqlite_file.locks, "acquire", refuse)
    assert Store(f"sqlite:///{tmp_path / 'mlflow.db'}").experiment("a") == "1"
