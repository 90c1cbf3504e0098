"""What the process between a launcher and Ray decides of cells whose tries ended: without a Ray."""

import errno
import os
import pickle
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError
from ray.tune.execution import tune_controller

from orchestration.machine import files, own_files
from orchestration.on_ray import driver, memory
from orchestration.on_ray.memory import KilledForMemoryError
from orchestration.on_ray.shares import Node, Share
from orchestration.on_ray.stop import StopAsked
from orchestration.running.run_cell import record_failure
from orchestration.runs import patience
from orchestration.runs.failures import Failure
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.jobs import CellJob, StateLog
from orchestration.runs.run_folder import RunFolder

LAUNCH = "l"


class Launch:
    """One cell in the queue of a launch on nodes `a` and `b`."""

    def __init__(self, folder: Path, monkeypatch, nodes: Any = None) -> None:
        monkeypatch.setattr(driver, "nodes", lambda: (Node(1, 0, "a", "id-a"), Node(1, 0, "b", "id-b")))
        self.dir = folder / LAUNCH
        self.dir.mkdir()
        self.cell = RunFolder(GridFolder(folder).cells_dir / "0123456789ab-c")
        self.cell.create("", {})
        owner = {"campaign": LAUNCH}
        self.queue = driver._Queue([Share(CellJob(self.cell.path), 1.0, 0.0)], self.dir, owner, None)
        self.judge = driver._Judge(self.queue, nodes)

    def dies(
        self, number: int, *, on: str = "", of: Exception | None = None, by: Exception | None = None
    ) -> dict[str, Any]:
        """Begin a try, on a host or not even that, and have it fail of something, or its process die by something.

        Returns what the try was given.
        """
        config = self.queue.suggest(str(number))
        if on:
            attempt = self.cell.claim({"campaign": LAUNCH})
            attempt.event("started", step=0, host=on)
            if of is not None:
                record_failure(attempt, Failure.of(of))
        died = self.dir / "error.pkl"
        died.write_bytes(pickle.dumps(by))
        trial = SimpleNamespace(config=config, trial_id=str(number), pickled_error_file=str(died) if by else None)
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
    LaunchFolder(launch.dir).stop_file.touch()  # what waits is handed out to end at once
    assert launch.queue.suggest("5") is not None


def test_try_that_ended_before_it_began_is_written_down_with_its_cause_and_the_policy_ends_the_cell(
    tmp_path, monkeypatch, clock
):
    launch = Launch(tmp_path, monkeypatch)
    launch.dies(1, by=ImportError("libcudart.so.12: cannot open shared object file"))
    assert launch.state == "pending"
    assert launch.cell.state().failure == "never began: libcudart.so.12: cannot open shared object file"
    for number in range(2, 6):
        assert launch.state == "pending" and launch.queue.suggest(str(number)) is None
        clock.s += 60.0 * 2 ** (number - 2) + 1
        launch.dies(number)
    assert launch.state == "failed"
    assert [end.kind for end in launch.cell.ends(LAUNCH)] == ["never began"] * 5


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_error_of_a_try_that_others_can_have_written_is_not_read_but_the_cell_is_settled(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    monkeypatch.setattr(own_files, "_is_within_closed", lambda *_: False)  # pytest's own folder is closed
    with modes_of_a_group():
        launch.dies(1, on="a", by=RuntimeError("of a stranger"))
    assert launch.state == "pending"
    failure = launch.cell.state().failure or ""
    assert "the process that trained is gone, and why is not known: " in failure
    assert "error.pkl can be written by others (mode 664)" in failure


def test_error_of_a_try_is_known_in_a_launch_that_a_group_shares(monkeypatch):
    with modes_of_a_group(), tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place).chmod(0o775)  # as pytest's own folders are closed
        launch = Launch(Path(place), monkeypatch)
        launch.dir.chmod(0o2770)
        launch.dies(1, by=RuntimeError("no such actor"))
        assert launch.state == "pending"
        assert launch.cell.state().failure == "never began: no such actor"


@contextmanager
def modes_of_a_group():
    before = os.umask(0o002)
    try:
        yield
    finally:
        os.umask(before)


def test_cell_whose_folder_cannot_be_written_waits_for_room_as_for_a_file_server(tmp_path, monkeypatch, capfd, clock):
    launch = Launch(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", full)
        for number in range(1, 7):
            launch.dies(number)
            assert launch.state == "pending"
            assert launch.queue.suggest("0") is None
            clock.s += 3601.0
        assert "cannot be written" in capfd.readouterr().err
    launch.dies(7, on="a", of=OSError(errno.EIO, "Input/output error"))  # there is room: what is written down counts
    clock.s += 3601.0
    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", full)
        for number in range(8, 15):
            launch.dies(number)
            clock.s += 3601.0
    assert launch.state == "failed"
    assert launch.queue.suggest("0") == driver.Searcher.FINISHED


def test_full_disk_keeps_the_driver_from_saying_how_a_cell_stands_and_from_nothing_else(tmp_path, monkeypatch, capfd):
    launch = Launch(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", full)
        patch.setattr(files, "append_row", full)
        launch.dies(1)
    assert "jobs.jsonl lacks that 0123456789ab-c is pending: [Errno 28]" in capfd.readouterr().err
    assert launch.queue.suggest("2") is None


class Away:
    """A file server that answers some questions with errors, then is back."""

    def __init__(self, num_errors: int, does: Any) -> None:
        self.num_errors, self.does = num_errors, does

    def __call__(self, *arguments: Any) -> Any:
        if self.num_errors:
            self.num_errors -= 1
            raise OSError(errno.EIO, "Input/output error")
        return self.does(*arguments)


def test_file_server_that_is_away_for_seconds_delays_the_next_cell_and_its_end(tmp_path, monkeypatch, capfd, clock):
    launch = Launch(tmp_path, monkeypatch)
    monkeypatch.setattr(patience.clock, "sleep", lambda seconds: None)
    launch.queue.room = Away(1, lambda: 1)
    assert launch.queue.suggest("1") is None
    with monkeypatch.context() as patch:
        patch.setattr(driver, "failed_hosts", Away(1, driver.failed_hosts))
        assert launch.queue.suggest("1") is None
    clock.s += 6.0
    with monkeypatch.context() as patch:
        patch.setattr(driver, "decision_of", Away(3, driver.decision_of))
        launch.dies(1, on="a")
    assert launch.state == "pending"
    assert launch.queue.suggest("2") is not None
    said = capfd.readouterr().err
    assert "its launch cannot be looked at" in said
    assert "0123456789ab-c waits, as its folder cannot be read: [Errno 5]" in said


def test_file_server_that_is_away_ends_no_training_that_looks_whether_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(patience.clock, "sleep", lambda seconds: None)
    monkeypatch.setattr(Path, "exists", Away(2, lambda: False))
    assert StopAsked(LaunchFolder(tmp_path).stop_file, None)() is False


def test_file_server_that_stays_away_leaves_a_cell_that_failed_waiting(tmp_path, monkeypatch, clock):
    launch = Launch(tmp_path, monkeypatch)
    monkeypatch.setattr(patience.clock, "sleep", lambda seconds: None)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "decision_of", Away(1000, driver.decision_of))
        launch.dies(1, on="a")
    assert launch.state == "pending"
    assert launch.queue.suggest("2") is None
    clock.s += 121.0
    assert launch.queue.suggest("2") is not None


def out_of_memory(own: float, node: str = "id-b") -> Exception:
    """What Ray 2.60 raises for a process that it ended, of a machine with 23.54 GB."""
    return KilledForMemoryError(
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: "
        f"{node}) was 22.62GB used / 23.54GB limit (0.96)\nOOM kill reason: Memory usage 24287052672B exceeded "
        "threshold of 24012000000B (95.0% of 25276502016B limit)\nConsidered workers: [\nSelected to kill: (Task: job "
        "ID=01000000, task name=ImplicitFunc.train, required resources={CPU: 1}, pid=20092, "
        f"actual memory used={own}GB, worker ID=0e2b)\n]\nTop 10 memory users: PID\tMEM(GB)\tCOMMAND\n"
        "18574\t18.86\t/usr/lib/R/bin/exec/R --no-save\n20092\t2.07\tray::_train_cell\n"
    )


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


@pytest.mark.parametrize("on", ["b", ""])
def test_cell_whose_machine_others_filled_waits_for_room_and_the_record_says_who_they_are(
    on, tmp_path, monkeypatch, clock
):
    launch, room = Launch(tmp_path, monkeypatch), [False]
    launch.queue.watch(lambda: room[0])
    launch.dies(1, on=on, by=out_of_memory(own=2.07))
    assert launch.state == "pending"
    assert launch.cell.state().failure == (
        "machine out of memory: Ray ended it, as its machine ran out of memory: 22.62 of 23.54 GB were in use, "
        "2.07 by it; the most by /usr/lib/R/bin/exec/R --no-save (18.86 GB), ray::_train_cell (2.07 GB)"
    )
    clock.s = 61.0
    assert launch.queue.suggest("2") is None
    room[0] = True
    assert launch.queue.suggest("2")["shunned"] == ("id-b",)


def test_cell_that_is_killed_for_others_memory_again_and_again_waits_longer_each_time_and_is_given_up(
    tmp_path, monkeypatch, clock
):
    launch = Launch(tmp_path, monkeypatch)
    launch.queue.watch(lambda: False)
    for number in range(7):
        launch.dies(number, on="a", by=out_of_memory(own=2.0))
        clock.s += 60.0 * 2**number + 3599.0
        assert launch.state == "failed" or launch.queue.suggest("x") is None
        clock.s += 2.0
    assert launch.state == "failed"
    assert launch.queue.suggest("10") == driver.Searcher.FINISHED


def test_cell_that_fills_its_machine_alone_is_not_tried_again(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    launch.dies(1, on="a", by=out_of_memory(own=20.0))
    assert launch.state == "failed"
    assert launch.cell.state().failure_class == "out of host memory"


@pytest.mark.parametrize(("num_running", "kind"), [(1, "out of host memory"), (2, "machine out of memory")])
def test_kernels_kill_for_memory_blames_the_cell_only_if_it_was_alone(num_running, kind, tmp_path, monkeypatch):
    counts = iter([0, 1])
    monkeypatch.setattr(driver, "num_oom_kills", lambda: next(counts))
    monkeypatch.setattr(driver._Queue, "num_running", num_running)
    launch = Launch(tmp_path, monkeypatch)
    launch.dies(1, on="a")
    assert launch.cell.state().failure_class == kind


def test_tune_takes_a_kill_for_memory_as_the_death_of_its_process():
    assert tune_controller.RayActorManager is not memory._Actors
    memory.survive_kills()
    try:
        made, seen = memory._Actors.__new__(memory._Actors), []
        made._failed_actor_ids, made._cleanup_actor = set(), lambda tracked_actor: None
        actor = SimpleNamespace(actor_id=1, _on_error=lambda actor, error: seen.append(error))
        made._actor_task_failed(
            SimpleNamespace(_tracked_actor=actor, _on_error=None), OutOfMemoryError("low on memory")
        )
        assert tune_controller.RayActorManager is memory._Actors
        assert isinstance(pickle.loads(pickle.dumps(seen[0])), KilledForMemoryError)
        assert str(seen[0]) == "low on memory"
    finally:
        tune_controller.RayActorManager = memory.RayActorManager


def test_nothing_is_tried_again_once_the_launch_is_told_to_end(tmp_path, monkeypatch):
    launch = Launch(tmp_path, monkeypatch)
    LaunchFolder(launch.dir).stop_file.touch()
    launch.dies(1, on="a")
    assert launch.state == "failed"


def test_in_a_pilot_a_cell_has_five_tries_that_may_be_lost_before_they_begin(tmp_path, monkeypatch, clock):
    launch = Launch(tmp_path, monkeypatch, SimpleNamespace(has_lost=lambda owner: True))
    for number in range(1, 5):
        launch.dies(number)
        clock.s += 60.0 * 2 ** (number - 1) + 1
        assert launch.state == "pending"
    launch.dies(5)
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
