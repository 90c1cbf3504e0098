import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration import tracking
from orchestration.cells import to_yaml
from orchestration.run_folder import Attempt, RunFolder
from orchestration.tracking import Mirror
from rankmatch.config import NumericsConfig, TrainConfig

pytestmark = []

RESULT = {"step": 30, "num_steps": 30, "epoch": 3, "num_epochs": 3, "best_miou": 0.3, "best_epoch": 3, "last_miou": 0.3}
AXES = {"method": "rankmatch", "split": "1_16"}
SIGNATURE = "0123456789ab"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('runs')}/mlflow.db"


@pytest.fixture
def mirror(store: str, request: pytest.FixtureRequest) -> Mirror:
    return Mirror(store, request.node.name)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / f"{SIGNATURE}-rankmatch")
    made.create(to_yaml(TrainConfig(numerics=NumericsConfig(split="1_16"))), AXES)
    return made


def train(attempt: Attempt, first_step: int, epochs: range) -> None:
    attempt.event("started", step=first_step)
    for epoch in epochs:
        row = {"epoch": epoch, "num_epochs": 3, "num_steps": 30, "miou": epoch / 10, "class_iou_4": None}
        attempt.recorder()(10 * epoch - 1, row)


def runs_of(mirror: Mirror) -> list[Any]:
    return list(mirror._client.search_runs([mirror.experiment_id]))


def sync(mirror: Mirror, folder: RunFolder) -> Any:
    mirror.sync([(folder, AXES, SIGNATURE)])
    (run,) = runs_of(mirror)
    return run


def history(mirror: Mirror, run: Any, name: str = "miou") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mirror._client.get_metric_history(run.info.run_id, name)]


def test_resumed_cell_is_mirrored_once(mirror: Mirror, store: str, folder: RunFolder) -> None:
    train(folder.claim({}), 0, range(1, 3))
    run = sync(mirror, folder)
    assert (run.info.status, history(mirror, run)) == ("RUNNING", [(9, 0.1), (19, 0.2)])
    second = folder.claim({})
    train(second, 10, range(2, 4))
    later = Mirror(store, "test_resumed_cell_is_mirrored_once")
    for _ in range(2):
        run = sync(later, folder)
        assert history(later, run) == [(9, 0.1), (19, 0.2), (29, 0.3)]
    second.publish(RESULT)
    for each in (mirror, later, later):
        run = sync(each, folder)
    assert (run.info.status, history(mirror, run)) == ("FINISHED", [(9, 0.1), (19, 0.2), (29, 0.3)])
    assert history(mirror, run, "final.best_miou") == [(30, 0.3)]


def test_run_shows_configuration_axes_and_files(mirror: Mirror, folder: RunFolder, store: str) -> None:
    attempt = folder.claim({})
    train(attempt, 0, range(1, 4))
    attempt.publish(RESULT)
    run = sync(mirror, folder)
    assert run.data.params["numerics.split"] == "1_16"
    assert run.data.params["numerics.trainer.epochs"] == "80"
    assert {**AXES, "rankmatch.signature": SIGNATURE}.items() <= run.data.tags.items()
    assert "class_iou_4" not in run.data.metrics
    assert run.info.run_name == folder.path.name
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert sorted(path.name for path in artifacts.iterdir()) == ["config.yaml", "result.json"]
    assert artifacts.is_relative_to(Path(store.removeprefix("sqlite:///")).parent)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda attempt: attempt.event("failed", kind="disk full", message=""), "FAILED"),
        (lambda attempt: attempt.event("stopped", step=10), "KILLED"),
    ],
)
def test_status_follows_the_folder(
    mirror: Mirror, folder: RunFolder, end: Callable[[Attempt], None], status: str
) -> None:
    attempt = folder.claim({})
    train(attempt, 0, range(1, 2))
    end(attempt)
    assert sync(mirror, folder).info.status == status
    folder.claim({})
    assert sync(mirror, folder).info.status == "RUNNING"


def test_cell_that_never_began_gets_no_run(mirror: Mirror, folder: RunFolder) -> None:
    mirror.sync([(folder, AXES, SIGNATURE)])
    assert runs_of(mirror) == []


def test_deleted_experiment_is_refused(store: str) -> None:
    mirror = Mirror(store, "gone")
    assert Mirror(store, "gone").experiment_id == mirror.experiment_id
    mirror._client.delete_experiment(mirror.experiment_id)
    with pytest.raises(ValueError, match="experiment 'gone' was deleted"):
        Mirror(store, "gone")


def test_sync_that_died_halfway_is_finished_by_the_next(mirror: Mirror, folder: RunFolder, store: str) -> None:
    attempt = folder.claim({})
    train(attempt, 0, range(1, 3))
    run = sync(mirror, folder)
    mirror._client.set_tag(run.info.run_id, "rankmatch.last_step", "9")  # as if it died before the tag
    train(attempt, 0, range(3, 4))
    again = Mirror(store, "test_sync_that_died_halfway_is_finished_by_the_next")
    assert history(again, sync(again, folder)) == [(9, 0.1), (19, 0.2), (29, 0.3)]


def test_files_of_a_launch_hang_on_one_run(mirror: Mirror, tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "report.md").write_text(text)
        mirror.log_launch("l1", [tmp_path / "report.md"])
    (run,) = runs_of(mirror)
    assert (run.info.status, run.data.tags["rankmatch.launch"]) == ("FINISHED", "l1")
    assert (Path(run.info.artifact_uri.removeprefix("file://")) / "report.md").read_text() == "second"


def test_cells_and_launches_have_runs_of_their_own(mirror: Mirror, folder: RunFolder) -> None:
    mirror.log_launch("l1", [])
    folder.claim({})
    mirror.sync([(folder, AXES, SIGNATURE)])
    assert len(runs_of(mirror)) == 2


def test_opening_a_new_store_says_nothing_on_the_console(tmp_path: Path) -> None:
    code = f"from orchestration.tracking import Mirror; Mirror('sqlite:///{tmp_path}/new/mlflow.db', 'a')"
    root = Path(tracking.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert (done.stdout, done.stderr) == ("", "")
