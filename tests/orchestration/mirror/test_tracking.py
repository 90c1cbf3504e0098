import errno
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.grids.cells import to_yaml
from orchestration.machine import files
from orchestration.mirror import tracking
from orchestration.mirror.mlflow_store import NOTE, PARENT, Point, Store, StoredRun, StoreError
from orchestration.mirror.tracking import Launch, Mirror, MirroredCell
from orchestration.runs.attempt import Attempt
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import DatasetConfig, NumericsConfig, TrainConfig
from rankmatch.execution import ExecutionConfig, TrackingExecution, TrainerExecution

RESULT = {"step": 30, "num_steps": 30, "epoch": 3, "num_epochs": 3, "best_miou": 0.3, "best_epoch": 3, "last_miou": 0.3}
AXES = {"method": "rankmatch", "split": "1_16"}
SIGNATURE = "0123456789ab"
NAMES = ["road", "side walk", "sky (high)", "a", "b", "c"]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('runs')}/mlflow.db"


@pytest.fixture
def open_mirror(uri: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Mirror]:
    def opened() -> Mirror:
        store = Store(uri)
        return Mirror(store, store.experiment(request.node.name, tmp_path / "artifacts"))

    return opened


@pytest.fixture
def mirror(open_mirror: Callable[[], Mirror]) -> Mirror:
    return open_mirror()


def make_folder(tmp_path: Path, *, num_workers: int = 2, **tracking_settings: Any) -> RunFolder:
    made = RunFolder(tmp_path / "grid" / "cells" / f"{SIGNATURE}-rankmatch-1_16-s0")
    execution = ExecutionConfig(
        class_names=NAMES,
        trainer=TrainerExecution(num_workers=num_workers),
        tracking=TrackingExecution(**tracking_settings),
    )
    made.create(
        to_yaml(
            TrainConfig(numerics=NumericsConfig(split="1_16", dataset=DatasetConfig(name="mine")), execution=execution)
        ),
        AXES,
    )
    return made


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path)


def train(attempt: Attempt, first_step: int, last_step: int) -> None:
    """Write ten steps an epoch, as if trained; later attempts have slightly other numbers."""
    attempt.event("started", step=first_step)
    with attempt.recorder() as report:
        for step in range(first_step, last_step):
            report(step, {"loss": step + attempt.number / 100, "learning_rate": 0.1})
            if step % 10 == 9:
                epoch = step // 10 + 1
                row = {"epoch": epoch, "num_epochs": 3, "num_steps": 30, "miou": epoch / 10, "class_iou_1": 0.5}
                report(step, {**row, "class_iou_4": None})
    row = {"time": time.time(), "cpu_percent": 50.0, "memory_gb": 1.0}
    files.append(attempt.path / "system-0.jsonl", files.to_line(row))


def cell_of(folder: RunFolder) -> MirroredCell:
    return MirroredCell(folder, AXES, SIGNATURE)


def runs_of(mirror: Mirror) -> list[StoredRun]:
    return mirror._store.runs(mirror.experiment_id, f"tags.`{tracking.SIGNATURE}` LIKE '%'")


def sync(mirror: Mirror, folder: RunFolder) -> StoredRun:
    mirror.sync([cell_of(folder)])
    (run,) = runs_of(mirror)
    return run


def history(mirror: Mirror, run: StoredRun, name: str = "miou") -> list[tuple[int, float]]:
    return mirror._store.history(run, name)


def launches_of(mirror: Mirror) -> list[StoredRun]:
    return mirror._store.runs(mirror.experiment_id, f"tags.`{tracking.LAUNCH}` LIKE '%'")


def files_of(run: StoredRun) -> list[str]:
    root = Path(run.artifacts.removeprefix("file://"))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_resumed_cell_is_mirrored_once(open_mirror: Callable[[], Mirror], folder: RunFolder) -> None:
    mirror = open_mirror()
    train(folder.claim({}), 0, 25)
    run = sync(mirror, folder)
    assert (run.status, history(mirror, run)) == ("RUNNING", [(9, 0.1), (19, 0.2)])
    second = folder.claim({})
    train(second, 10, 30)
    later = open_mirror()
    for _ in range(2):
        run = sync(later, folder)
        assert history(later, run) == [(9, 0.1), (19, 0.2), (29, 0.3)]
        assert [step for step, _ in history(later, run, "step/loss")] == list(range(30))
    second.publish(RESULT)
    for each in (mirror, later, later):
        run = sync(each, folder)
    assert (run.status, history(mirror, run)) == ("FINISHED", [(9, 0.1), (19, 0.2), (29, 0.3)])
    assert [step for step, _ in history(later, run, "step/loss")] == list(range(30))
    assert history(mirror, run, "final/best_miou") == [(30, 0.3)]
    assert run.tags["rankmatch.attempts"] == "2"


def test_step_curve_has_as_many_points_as_wanted(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "num_steps", lambda config: 1000)
    folder = make_folder(tmp_path, step_points=100)
    attempt = folder.claim({})
    train(attempt, 0, 4)
    sync(mirror, folder)
    train(attempt, 4, 35)
    steps = [step for step, _ in history(mirror, sync(mirror, folder), "step/loss")]
    assert steps == [0, 10, 20, 30]


def test_no_steps_are_shown_where_none_are_wanted(mirror: Mirror, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, step_points=0)
    train(folder.claim({}), 0, 10)
    assert history(mirror, sync(mirror, folder), "step/loss") == []


def test_run_shows_configuration_axes_classes_and_files(mirror: Mirror, folder: RunFolder) -> None:
    attempt = folder.claim({"launch": "20261124T101500.000000-7", "commit": "c0ffee"})
    train(attempt, 0, 30)
    (attempt.path / "samples.png").write_bytes(b"picture")
    (attempt.path / "best.pt").write_bytes(b"weights")
    model = {"path": "attempts/1/best.pt", "sha256": "f00d", "bytes": 7}
    attempt.publish({**RESULT, "best_class_iou": [0.1, None, 0.7], "model": model})
    run = sync(mirror, folder)
    assert (run.params["split"], run.params["trainer.epochs"]) == ("1_16", "80")
    assert {**AXES, "rankmatch.signature": SIGNATURE, "mlflow.source.git.commit": "c0ffee"}.items() <= run.tags.items()
    assert history(mirror, run, "class_iou/side walk") == [(9, 0.5), (19, 0.5), (29, 0.5)]
    assert history(mirror, run, "class_iou/b") == []
    assert history(mirror, run, "final/best_class_iou/sky _high_") == [(30, 0.7)]
    assert [value for _, value in history(mirror, run, "system/cpu_percent")] == [50.0]
    assert files_of(run) == ["config.yaml", "model/reference.json", "result.json", "samples.png"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": "copy"}, ["model/best.pt", "model/reference.json"]),
        ({"model": "copy", "max_model_mb": 0.000001}, ["model/reference.json"]),
        ({"model": "none"}, []),
    ],
)
def test_model_is_copied_only_on_demand_and_only_a_small_one(
    mirror: Mirror, tmp_path: Path, settings: dict[str, Any], expected: list[str]
) -> None:
    folder = make_folder(tmp_path, **settings)
    attempt = folder.claim({})
    train(attempt, 0, 10)
    (attempt.path / "best.pt").write_bytes(b"weights")
    attempt.publish({**RESULT, "model": {"path": "attempts/1/best.pt", "sha256": "f00d", "bytes": 7}})
    assert [name for name in files_of(sync(mirror, folder)) if name.startswith("model")] == expected


def test_cell_hangs_below_the_launch_that_began_it_and_names_the_others(mirror: Mirror, folder: RunFolder) -> None:
    first, second = "20261124T101500.000000-7", "20261125T090000.000000-8"
    mirror.begin_launch(Launch(first))
    train(folder.claim({"launch": "step", "campaign": first}), 0, 10)
    sync(mirror, folder)
    mirror.begin_launch(Launch(second))
    train(folder.claim({"launch": second}), 10, 20)
    run = sync(mirror, folder)
    parents = {parent.tags[tracking.LAUNCH]: parent for parent in launches_of(mirror)}
    assert run.tags[PARENT] == parents[first].id
    assert run.tags["rankmatch.launches"] == f"{first} {second}"
    assert (parents[first].status, parents[second].status) == ("KILLED", "RUNNING")
    assert parents[first].tags["mlflow.runName"] == "launch 11-24 10:15:00"
    assert run.tags["mlflow.runName"].startswith("rankmatch-1_16-s0 ")


def test_run_is_named_and_described_so_that_a_person_finds_it(mirror: Mirror, folder: RunFolder) -> None:
    train(folder.claim({}), 0, 10)
    run = sync(mirror, folder)
    assert run.tags["mlflow.runName"] == "rankmatch-1_16-s0 resnet50 s0"
    grid_dir = folder.path.parents[1]
    assert f"`{grid_dir / 'report.html'}`" in run.tags[NOTE]
    command = f"rankmatch launch --grid grid --runs {grid_dir.parent} method=rankmatch split=1_16"
    assert f"Command: `{command}`" in run.tags[NOTE]


def test_end_of_a_launch_shows_its_tables(mirror: Mirror, tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "report.md").write_text(text)
        mirror.end_launch("l1", "FINISHED", [tmp_path / "report.md"], f"# {text}")
    (run,) = launches_of(mirror)
    assert (run.status, run.tags[NOTE], files_of(run)) == ("FINISHED", "# second", ["report.md"])
    assert (Path(run.artifacts.removeprefix("file://")) / "report.md").read_text() == "second"
    experiment = mirror._store._client.get_experiment(mirror.experiment_id)
    assert experiment.tags[NOTE].endswith("# second")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda attempt: attempt.event("failed", kind="disk full", message="no room"), "FAILED"),
        (lambda attempt: attempt.event("stopped", step=10), "KILLED"),
    ],
)
def test_status_follows_the_folder(
    mirror: Mirror, folder: RunFolder, end: Callable[[Attempt], None], status: str
) -> None:
    attempt = folder.claim({})
    train(attempt, 0, 10)
    end(attempt)
    run = sync(mirror, folder)
    failure = "disk full: no room" if status == "FAILED" else None
    assert (run.status, run.tags.get("rankmatch.failure")) == (status, failure)
    folder.claim({})
    run = sync(mirror, folder)
    assert (run.status, run.tags.get("rankmatch.failure")) == ("RUNNING", "" if failure else None)


def test_each_worker_shows_what_it_takes(open_mirror: Callable[[], Mirror], folder: RunFolder) -> None:
    attempt = folder.claim({"started": "2026-11-24T10:00:00+00:00"})
    begun = 1795514400.0
    for worker in (0, 1):
        for second in (30, 60):
            row = {"time": begun + second + worker, "cpu_percent": 10.0 * worker, "gpu_percent": 90.0}
            files.append(attempt.path / f"system-{worker}.jsonl", files.to_line(row))
    for _ in range(2):
        mirror = open_mirror()
        run = sync(mirror, folder)
    assert history(mirror, run, "system/gpu_percent") == [(30, 90.0), (60, 90.0)]
    assert history(mirror, run, "system/worker_1/cpu_percent") == [(31, 10.0), (61, 10.0)]


def test_cell_that_never_began_gets_no_run(mirror: Mirror, folder: RunFolder) -> None:
    mirror.sync([cell_of(folder)])
    assert runs_of(mirror) == []


def test_cell_that_cannot_be_read_for_now_keeps_the_others_from_nothing_and_is_said(
    mirror: Mirror, folder: RunFolder, monkeypatch
) -> None:
    train(folder.claim({}), 0, 10)
    away = RunFolder(folder.path.with_name("ffffffffffff-away"))
    away.create("numerics: {}\n", {})
    away.claim({})
    read = files.read_bytes

    def stale(path: str) -> bytes:
        if "away" in path:
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return read(path)

    monkeypatch.setattr(files, "read_bytes", stale)
    with pytest.raises(StoreError, match="away/.* cannot be read for now: Stale file handle"):
        mirror.sync([MirroredCell(away, {}, "f" * 12), cell_of(folder)])
    (run,) = runs_of(mirror)
    assert history(mirror, run) == [(9, 0.1)]


def test_run_that_was_made_before_its_job_is_found_by_it(open_mirror: Callable[[], Mirror], folder: RunFolder) -> None:
    launcher, job = open_mirror(), open_mirror()
    assert not job.find(SIGNATURE)
    for _ in range(2):
        launcher.schedule([cell_of(folder)], "l1")
    (run,) = runs_of(launcher)
    assert run.status == "SCHEDULED"
    assert job.find(SIGNATURE)
    attempt = folder.claim({"launch": "l1", tracking.MIRROR: launcher.experiment_id})
    train(attempt, 0, 10)
    job.sync_cell(cell_of(folder), folder.state())
    assert history(job, sync(job, folder)) == [(9, 0.1)]


def test_cell_whose_job_writes_is_left_to_it_while_it_runs(mirror: Mirror, folder: RunFolder) -> None:
    attempt = folder.claim({tracking.MIRROR: mirror.experiment_id})
    train(attempt, 0, 10)
    mirror.sync([cell_of(folder)])
    assert runs_of(mirror) == []
    attempt.event("stopped", step=10)
    assert history(mirror, sync(mirror, folder)) == [(9, 0.1)]


def test_two_who_write_the_same_rows_leave_each_point_once(
    open_mirror: Callable[[], Mirror], folder: RunFolder
) -> None:
    attempt = folder.claim({})
    train(attempt, 0, 20)
    first = open_mirror()
    run = sync(first, folder)
    second = open_mirror()
    second.find(SIGNATURE)
    known = second._of(cell_of(folder))
    known.last.clear()  # as if it had looked before the first one wrote
    second.sync_cell(cell_of(folder), folder.state())
    for name, number in (("miou", 2), ("step/loss", 20), ("system/cpu_percent", 1)):
        assert Counter(history(first, run, name)).most_common(1)[0][1] == 1
        assert len(history(first, run, name)) == number


def test_sync_that_died_halfway_is_finished_by_the_next(open_mirror: Callable[[], Mirror], folder: RunFolder) -> None:
    attempt, mirror = folder.claim({}), open_mirror()
    train(attempt, 0, 20)
    run = sync(mirror, folder)
    times = [row["time"] for row in folder.epochs()]
    # the next attempt's row at step 29 with another time: what is there counts, whoever wrote it
    mirror._store.log_rows(run, [[Point("epoch", 3.0, times[-1], 29), Point("miou", 0.3, times[-1], 29)]])
    train(attempt, 20, 30)
    again = open_mirror()
    assert history(again, sync(again, folder)) == [(9, 0.1), (19, 0.2), (29, 0.3)]


def test_mirror_can_be_deleted_and_made_again(tmp_path: Path, folder: RunFolder) -> None:
    attempt = folder.claim({"launch": "l1"})
    train(attempt, 0, 30)
    attempt.publish(RESULT)
    curves = []
    for name in ("one", "two"):
        store = Store(f"sqlite:///{tmp_path / name}.db")
        mirror = Mirror(store, store.experiment("grid", tmp_path / name))
        run = sync(mirror, folder)
        assert [(parent.tags[tracking.LAUNCH], parent.status) for parent in launches_of(mirror)] == [("l1", "FINISHED")]
        curves.append([history(mirror, run, metric) for metric in ("miou", "step/loss", "final/best_miou")])
    assert curves[0] == curves[1]


def test_deleted_experiment_is_refused(uri: str) -> None:
    store = Store(uri)
    experiment = store.experiment("gone")
    assert store.experiment("gone") == experiment
    store._client.delete_experiment(experiment)
    with pytest.raises(ValueError, match="experiment 'gone' was deleted"):
        store.experiment("gone")


def test_opening_a_new_store_says_nothing_on_the_console(tmp_path: Path) -> None:
    code = f"from orchestration.mirror.mlflow_store import Store; Store('sqlite:///{tmp_path}/new/mlflow.db').experiment('a')"
    root = Path(tracking.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert (done.stdout, done.stderr) == ("", "")


def test_class_names_that_mlflow_would_write_alike_are_told_apart() -> None:
    config = TrainConfig(numerics=NumericsConfig(dataset=DatasetConfig(num_classes=3)))
    config.execution.class_names = ["car (parked)", "car [parked]", "road"]
    assert tracking._class_ious([0.1, 0.2, 0.3], config, "x/") == {
        "x/car (parked) 0": 0.1,
        "x/car [parked] 1": 0.2,
        "x/road": 0.3,
    }
