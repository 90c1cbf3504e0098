"""Which nodes of a pilot cells are kept from, as their time is over before a checkpoint is reached: without a Ray."""

import json
import time
from pathlib import Path

import pytest

from orchestration.on_ray import driver
from orchestration.on_ray.orders import NodeNote
from orchestration.on_ray.shares import Node, Share
from orchestration.on_ray.time_left import MARGIN, START_S, EpochTimes, NodeTimes
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.jobs import CellJob
from orchestration.runs.run_folder import RunFolder

HOUR = 3600.0
ROW = {"step": 9, "time": 1.0, "epoch": 1, "num_epochs": 5, "num_steps": 50, "miou": 0.1, "best_miou": 0.1}


def cell(grid_dir: Path, digit: str, epoch_s: float | None = None) -> RunFolder:
    folder = RunFolder(GridFolder(grid_dir).cells_dir / f"{digit * 12}-c")
    folder.create("", {})
    if epoch_s is not None:
        attempt = folder.claim({"campaign": "l"})
        attempt.event("started", step=0)
        attempt.epochs_file.write_text(json.dumps(ROW | {"duration_s": epoch_s - 100, "evaluation_s": 100.0}) + "\n")
    return folder


def nodes(launch_dir: Path, **left_of: tuple[float | None, float | None]) -> NodeTimes:
    """Describe nodes by the seconds that they have left, and that they had in all."""
    for name, (left_s, lasts_s) in left_of.items():
        folder = LaunchFolder(launch_dir).job_named(name)
        folder.path.mkdir(parents=True)
        NodeNote(None if left_s is None else time.time() + left_s, {}, lasts_s).to_file(folder.node_file)
    return NodeTimes(launch_dir, lambda: {name: f"id-{name}" for name in [*left_of, "unknown"]})


def test_cell_needs_the_time_of_its_own_epoch_or_of_the_longest_seen(tmp_path):
    times = EpochTimes()
    new, short, long = cell(tmp_path, "a"), cell(tmp_path, "b", 600.0), cell(tmp_path, "c", HOUR)
    assert times.needed_s(new.path) == 0
    for one in (short, long):
        times.learn(one.path)
    assert times.needed_s(short.path) == START_S + MARGIN * 600
    assert times.needed_s(new.path) == START_S + MARGIN * HOUR


def test_node_whose_time_is_over_too_soon_is_avoided_unless_it_never_had_enough(tmp_path):
    times = nodes(
        tmp_path / "l",
        short=(HOUR / 2, 24 * HOUR),
        fresh=(23 * HOUR, 24 * HOUR),
        brief=(HOUR / 2, HOUR / 2),
        endless=(None, None),
        earlier=(60.0, None),  # of a version that did not note how long it lasts
    )
    assert times.ending(HOUR) == ("id-short",)
    assert times.ending(0.0) == ()


@pytest.mark.parametrize(
    ("left_a", "left_b", "given"),
    [(HOUR / 2, 23 * HOUR, ["id-a"]), (HOUR / 2, HOUR / 2, None), (23 * HOUR, 23 * HOUR, [])],
    ids=["one ends too soon", "both do", "none does"],
)
def test_cell_goes_to_a_node_where_it_reaches_a_checkpoint_or_waits_for_one(
    left_a, left_b, given, tmp_path, monkeypatch
):
    monkeypatch.setattr(driver, "nodes", lambda: (Node(1, 0, "a", "id-a"), Node(1, 0, "b", "id-b")))
    launch_dir = LaunchFolder(tmp_path / "launches" / "l").path
    launch_dir.mkdir(parents=True)
    share = Share(CellJob(cell(tmp_path, "a", HOUR).path), 1.0, 0.0)
    queue = driver._Queue([share], launch_dir, {"campaign": "l"}, None)
    queue.ending = nodes(launch_dir, a=(left_a, 24 * HOUR), b=(left_b, 24 * HOUR)).ending
    config = queue.suggest("1")
    if given is None:
        assert config is None and queue.num_running == 0
        LaunchFolder(launch_dir).stop_file.touch()  # what waits is handed out to end at once
        assert queue.suggest("2") is not None
    else:
        assert list(config["shunned"]) == given
