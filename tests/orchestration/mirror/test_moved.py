"""A runs folder that was moved or copied: MLflow is written where it lies now, and nothing where it lay."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from own_grid import DONE, OwnGrid

from orchestration.mirror import moved


@pytest.fixture
def whole(own_launched: OwnGrid, tmp_path: Path) -> OwnGrid:
    """A grid with its MLflow store, as it lies after a launch."""
    own = own_launched.copied(tmp_path / "first")
    own("sync", "--grid", "membranes")
    own("register", "--grid", "membranes")
    launch_dir = next((own.runs / "membranes" / "launches").iterdir())
    known = {"schema": 1, "uri": f"sqlite:///{own.runs / 'mlflow.db'}", "had_password": False}
    (launch_dir / "mlflow.json").write_text(json.dumps(known))
    return own


def paths_in(runs: Path) -> list[str]:
    """Return what the store says of places of files, but of the experiment that MLflow makes itself."""
    asked = ("SELECT artifact_location FROM experiments WHERE experiment_id > 0", "SELECT artifact_uri FROM runs",
             "SELECT source FROM model_versions", "SELECT storage_location FROM model_versions",
             "SELECT value FROM tags WHERE key = 'rankmatch.folder'")  # fmt: skip
    with closing(sqlite3.connect(runs / "mlflow.db")) as store:
        return [row[0] for query in asked for row in store.execute(query) if row[0]]


def content(folder: Path) -> dict[str, tuple[int, float]]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".lock", "-shm", "-wal")))
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime) for path in files}


def trained_again(own: OwnGrid) -> None:
    """Have a cell that MLflow gets files of."""
    own("drop", DONE, "--grid", "membranes")
    own("launch", "--grid", "membranes", "--cluster", "inline", code=1)
    own("sync", "--grid", "membranes")


def test_moved_folder_writes_where_it_lies_now(whole: OwnGrid, tmp_path: Path) -> None:
    first = whole.runs
    whole.runs = first.rename(tmp_path / "moved & more")
    trained_again(whole)
    assert not first.exists()
    assert not [path for path in paths_in(whole.runs) if str(first) in path]
    (reference, *_) = whole.runs.glob("artifacts/membranes/*/artifacts/model/reference.json")
    assert json.loads(reference.read_text())["folder"].startswith(str(whole.runs))
    names = {path.name for path in whole.runs.glob("artifacts/membranes/*/artifacts/*")}
    assert {"config.yaml", "result.json", "report.md"} <= names
    known = json.loads((whole.runs / "runs.json").read_text())
    assert (known["path"], known["earlier_paths"]) == (str(whole.runs), [str(first)])


def test_copy_writes_into_itself_and_leaves_the_first_one_as_it_is(whole: OwnGrid, tmp_path: Path) -> None:
    first = whole.runs
    whole.runs = tmp_path / "copy"
    shutil.copytree(first, whole.runs, symlinks=True)
    before = content(first)
    trained_again(whole)
    assert content(first) == before
    assert not [path for path in paths_in(whole.runs) if str(first) in path]
    ids = [json.loads((runs / "runs.json").read_text())["id"] for runs in (first, whole.runs)]
    assert ids[0] != ids[1]
    with closing(sqlite3.connect(whole.runs / "mlflow.db")) as store:
        assert [row[0] for row in store.execute("SELECT name FROM experiments WHERE experiment_id > 0")] == [
            "membranes"
        ]


def test_folder_that_was_moved_before_it_noted_its_places_is_told_by_what_came_along(whole: OwnGrid) -> None:
    first = whole.runs
    whole.runs = first.rename(first.with_name("later"))
    known = json.loads((whole.runs / "runs.json").read_text())
    (whole.runs / "runs.json").write_text(json.dumps(known | {"path": str(whole.runs)}))
    assert whole("sync", "--grid", "membranes") == "MLflow is up to date"
    assert not first.exists() and not [path for path in paths_in(whole.runs) if str(first) in path]


def test_store_elsewhere_stays_where_it_is(tmp_path: Path) -> None:
    runs, earlier = tmp_path / "now", [tmp_path / "then"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mlflow.db").write_bytes(b"")
    for uri in (f"sqlite:///{tmp_path}/other/mlflow.db", "http://mlflow:5000", "postgresql://host/name"):
        assert moved.uri_here(uri, runs, earlier) == uri
    assert moved.uri_here(f"sqlite:///{tmp_path}/then/mlflow.db", runs, earlier) == f"sqlite:///{runs}/mlflow.db"
