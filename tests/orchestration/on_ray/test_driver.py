"""What the process between a launcher and Ray decides of cells whose tries ended: without a Ray."""

import errno
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestration.failures import Failure
from orchestration.on_ray import driver
from orchestration.on_ray.shares import Node, Share
from orchestration.run_cell import record_failure
from orchestration.run_folder import RunFolder
from orchestration.schedulers import LAUNCH_STOP, CellJob, StateLog

LAUNCH = "l"


class Launch:
    """One cell in the queue of a launch on nodes `a` and `b`."""

    def __init__(self, folder: Path, monkeypatch, nodes: Any = None) -> None:
        monkeypatch.setattr(driver, "nodes", lambda: (Node(1, 0, "a", "id-a"), Node(1, 0, "b", "id-b")))
        self.dir = folder / LAUNCH
        self.dir.mkdir()
        self.cell = RunFolder(folder / "0123456789ab-c")
        self.cell.create("", {})
        owner = {"campaign": LAUNCH}
        self.queue = driver._Queue([Share(CellJob(self.cell.path), 1.0, 0.0)], self.dir, owner, None)
        self.judge = driver._Judge(self.queue, nodes)

    def dies(self, number: int, *, on: str = "", of: Exception | None = None) -> dict[str, Any]:
        """Begin a try, on a host or not even that, and have its process die; return what the try was given."""
        config = self.queue.suggest(str(number))
        if on:
            attempt = self.cell.claim({"campaign": LAUNCH})
            attempt.event("started", step=0, host=on)
            if of is not None:
                record_failure(attempt, Failure.of(of))
        trial = SimpleNamespace(config=config, trial_id=str(number), get_pickled_error=lambda: None)
        self.judge.on_trial_error(0, [], trial)
        self.queue.on_trial_complete(str(number), error=True)
        return config

    @property
    def state(self) -> str:
        return str(StateLog(self.dir).read()[self.cell.path.name])


def test_lost_cell_shuns_the_hosts_it_was_lost_on_and_is_given_up_by_the_policy(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    assert launch.dies(1, on="a")["shunned"] == ()
    assert launch.state == "pending"
    assert launch.dies(2, on="b")["shunned"] == ("id-a",)
    assert launch.dies(3, on="b")["shunned"] == ()  # it was lost on both
    assert launch.state == "failed"
    assert launch.queue.suggest("4") == driver.Searcher.FINISHED


def test_cell_that_a_file_server_failed_is_tried_again_when_its_time_has_come(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    launch.dies(1, on="a", of=OSError(errno.ESTALE, "Stale file handle"))
    assert launch.state == "pending"
    assert launch.queue.suggest("2") is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 121)
    launch.dies(3, on="b", of=OSError(errno.EIO, "Input/output error"))
    assert launch.queue.suggest("4") is None
    (launch.dir / LAUNCH_STOP).touch()  # what waits is handed out to end at once
    assert launch.queue.suggest("5") is not None


def test_try_without_a_trace_ends_the_cell_at_once(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    launch.dies(1)
    assert launch.state == "failed"


def test_nothing_is_tried_again_once_the_launch_is_told_to_end(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    (launch.dir / LAUNCH_STOP).touch()
    launch.dies(1, on="a")
    assert launch.state == "failed"


def test_in_a_pilot_a_cell_has_three_tries_that_may_be_lost_before_they_begin(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch, SimpleNamespace(has_lost=lambda owner: True))
    launch.dies(1)
    launch.dies(2)
    assert launch.state == "pending"
    launch.dies(3)
    assert launch.state == "failed"


def test_in_a_pilot_a_lost_node_is_a_node_failure_and_leaving_nodes_get_no_cell(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch, SimpleNamespace(has_lost=lambda owner: True))
    launch.dies(1, on="a")
    assert launch.cell.attempts()[0].events()[-1]["kind"] == "node failure"
    launch.queue.leaving = lambda: ("id-b",)
    assert launch.queue.suggest("2")["shunned"] == ("id-b",)  # a is shunned only where another one can hold the cell


def test_queue_waits_while_there_is_no_room(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    launch.queue.room = lambda: 0
    assert launch.queue.suggest("1") is None


@pytest.mark.parametrize(("num_workers", "bundle"), [(1, {"CPU": 2.0}), (2, {"memory": 1.0})])
def test_cell_of_several_workers_takes_no_cpu_while_it_waits_for_them(num_workers, bundle):
    share = Share(CellJob(Path("c"), num_workers=num_workers), 2.0, 0.0)
    assert driver._resources({"share": share, "shunned": ("x",)}).bundles == [bundle]
