"""One store for several runs folders and people: nobody's launch touches what another's shows."""

import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestration.grids.cells import to_yaml
from orchestration.mirror.grid_mirror import GridMirror
from orchestration.mirror.mlflow_store import Store, StoredRun, StoreError
from orchestration.mirror.ownership import Owner, own_model, owner_of
from orchestration.mirror.tracking import LAUNCH, SIGNATURE, Launch, Mirror, MirroredCell
from orchestration.runs import hints
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import TrainConfig

GRID, SIGNED = "small", "0123456789ab"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('shared')}/mlflow.db"


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch):
    """Be somebody."""
    return lambda name: monkeypatch.setenv("LOGNAME", name)


def grid_of(folder: Path, name: str) -> Path:
    """Make the folder of a grid with one cell that trains, and a launch."""
    grid_dir = folder / name
    cell = RunFolder(grid_dir / "cells" / f"{SIGNED}-rankmatch-s0")
    cell.create(to_yaml(TrainConfig()), {"seed": "0"})
    cell.claim({"launch": f"launch-{folder.name}"})
    (grid_dir / "launches" / f"launch-{folder.name}").mkdir(parents=True)
    return grid_dir


def mirror_of(uri: str, grid_dir: Path) -> GridMirror:
    (folder,) = (grid_dir / "cells").iterdir()
    launch = Launch(f"launch-{grid_dir.parent.name}")
    return GridMirror(uri, grid_dir, [MirroredCell(RunFolder(folder), {"seed": "0"}, SIGNED)], launch)


def launched(uri: str, grid_dir: Path) -> GridMirror:
    mirror = mirror_of(uri, grid_dir)
    assert mirror.begin({SIGNED}) == {}
    assert mirror.warning == ""
    mirror.sync()
    return mirror


def sync_again_and_again(uri: str, grid_dir: Path) -> None:
    mirror = launched(uri, grid_dir)
    for _ in range(5):
        mirror.sync()


def test_launches_of_two_grids_write_one_new_file_at_once(tmp_path):
    uri, context = f"sqlite:///{tmp_path / 'mlflow.db'}", multiprocessing.get_context("fork")
    grids = [grid_of(tmp_path / "a", name) for name in ("first", "second")]
    processes = [context.Process(target=sync_again_and_again, args=(uri, grid)) for grid in grids]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [set(runs_of(uri, grid)) for grid in grids] == [{SIGNED, "launch-a"}] * 2


def test_run_that_a_server_made_twice_since_its_answer_was_lost_is_one_again(uri, tmp_path, request, monkeypatch):
    grid_dir, create_run = grid_of(tmp_path / "a", request.node.name), Store.create_run

    def create_twice(*arguments):
        first = create_run(*arguments)
        create_run(*arguments)
        return first

    with monkeypatch.context() as patch:
        patch.setattr(Store, "create_run", create_twice)
        launched(uri, grid_dir)
    mirror = launched(uri, grid_dir)
    assert len(Store(uri).runs(mirror.open().experiment_id, "")) == 2


def test_store_that_cannot_be_written_stops_no_launch_and_is_told_in_few_words(tmp_path, monkeypatch):
    uri, grid_dir = f"sqlite:///{tmp_path / 'mlflow.db'}", grid_of(tmp_path / "a", GRID)
    Store(uri)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON experiments BEGIN SELECT RAISE(ABORT, 'full'); END")
        database.commit()
    mirror = mirror_of(uri, grid_dir)
    assert mirror.begin({SIGNED}) == {}
    assert mirror.warning.endswith("full") and "SQL:" not in mirror.warning


def runs_of(uri: str, grid_dir: Path) -> dict[str, StoredRun]:
    """Return what the experiment of a grid shows: its launches and cells."""
    mirror = mirror_of(uri, grid_dir)
    mirror._launch = None
    found = Store(uri).runs(mirror.open().experiment_id, "")
    return {run.tags.get(LAUNCH) or run.tags[SIGNATURE]: run for run in found}


def test_second_users_launch_of_a_grid_has_an_experiment_of_its_own_and_leaves_the_first_one_running(
    uri, user, tmp_path, request
):
    name = request.node.name
    user("alice")
    first = launched(uri, grid_of(tmp_path / "a", name))
    user("bob")
    second = launched(uri, grid_of(tmp_path / "b", name))
    for folder, person in (("a", "alice"), ("b", "bob")):
        runs = runs_of(uri, tmp_path / folder / name)
        assert sorted(runs) == sorted([SIGNED, f"launch-{folder}"])
        assert {run.status for run in runs.values()} == {"RUNNING"}
        assert {run.tags["mlflow.user"] for run in runs.values()} == {person}
    bobs = owner_of(tmp_path / "b").runs_id
    assert first.where() == hints.command("ui", tmp_path / "a" / name)
    assert second.open().experiment_id != first.open().experiment_id
    second.uri = "http://alice:secret@mlflow:5000"
    assert second.where() == f"http://alice@mlflow:5000 (experiment '{name} (bob {bobs[:6]})')"


def test_runs_folder_that_was_moved_keeps_its_experiment_and_a_copy_gets_another_one(uri, tmp_path, request):
    name = request.node.name
    launched(uri, grid_of(tmp_path / "a", name))
    shutil.copytree(tmp_path / "a", tmp_path / "copy", symlinks=True)
    known, copy = owner_of(tmp_path / "a").runs_id, owner_of(tmp_path / "copy").runs_id
    assert known != copy
    (tmp_path / "a").rename(tmp_path / "moved")
    assert [owner_of(tmp_path / folder).runs_id for folder in ("moved", "copy")] == [known, copy]
    assert set(runs_of(uri, tmp_path / "moved" / name)) == {SIGNED, "launch-a"}
    assert runs_of(uri, tmp_path / "copy" / name) == {}


def earlier(uri: str, grid_dir: Path) -> str:
    """Write what versions before this one wrote: into the experiment that is named after the grid, without an owner."""
    store = Store(uri)
    mirror = Mirror(store, store.experiment(grid_dir.name))
    (cell,) = mirror_of(uri, grid_dir)._cells
    mirror.begin_launch(Launch(f"launch-{grid_dir.parent.name}"))
    mirror.sync([cell])
    return mirror.experiment_id


def test_experiment_of_an_earlier_version_is_taken_over_by_whom_all_of_it_comes_from(uri, tmp_path, request):
    ours, theirs = (grid_of(tmp_path / folder, request.node.name) for folder in ("a", "b"))
    known = earlier(uri, ours)
    assert launched(uri, theirs).open().experiment_id != known
    assert launched(uri, ours).open().experiment_id == known
    assert set(runs_of(uri, ours)) == {SIGNED, "launch-a"}


def test_experiment_in_which_an_earlier_version_mixed_two_runs_folders_is_nobodys(uri, tmp_path, request):
    grids = [grid_of(tmp_path / folder, request.node.name) for folder in ("a", "b")]
    known = earlier(uri, grids[0])
    assert earlier(uri, grids[1]) == known
    names = {mirror._experiment for mirror in (launched(uri, grid) for grid in grids)}
    assert len(names) == 2 and request.node.name not in names
    assert [set(runs_of(uri, grid)) for grid in grids] == [{SIGNED, "launch-a"}, {SIGNED, "launch-b"}]


def test_store_in_the_runs_folder_itself_is_its_own_wherever_that_was_moved_from(tmp_path):
    grid_dir = grid_of(tmp_path / "a", GRID)
    known = earlier(f"sqlite:///{tmp_path / 'a' / 'mlflow.db'}", grid_dir)
    shutil.rmtree(grid_dir / "launches")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b" / GRID / "launches" / "launch-b").mkdir(parents=True)
    mirror = launched(f"sqlite:///{tmp_path / 'b' / 'mlflow.db'}", tmp_path / "b" / GRID)
    assert mirror.open().experiment_id == known


def test_registered_model_belongs_to_one_runs_folder_too(uri):
    store, ours, theirs = Store(uri), Owner("0123456789", "alice"), Owner("9876543210", "bob")
    assert [own_model(store, "m", "1", owner) for owner in (ours, theirs, ours, theirs)] == [
        "m", "m.bob-987654", "m", "m.bob-987654",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": 1}', '{"id": 5, "path": "/a"}', '{"id": "5a", "path": null}', "[]"]
)
def test_damaged_id_of_a_runs_folder_is_named_with_what_to_do_and_stops_no_launch(uri, tmp_path, text):
    grid_dir = grid_of(tmp_path / "a", GRID)
    path = tmp_path / "a" / "runs.json"
    path.write_text(text)
    mirror = mirror_of(uri, grid_dir)
    assert mirror.begin({SIGNED}) == {}
    assert mirror.warning.startswith(f"{path} is damaged: it") and "or remove it" in mirror.warning
    with pytest.raises(StoreError, match="is damaged"):
        mirror.sync()
    assert path.read_text() == text
    path.unlink()
    mirror.sync()
