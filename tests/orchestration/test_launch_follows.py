"""How a launch follows its jobs while what it looks at is away, and how it ends when it cannot go on."""

import errno

import pytest
from rich.console import Console

from orchestration.launching import launch
from orchestration.runs import patience
from orchestration.runs.jobs import JobState, SchedulerError, StateLog


class Jobs:
    """Jobs that end after some looks; a look may raise."""

    def __init__(self, looks):
        self.looks, self.cancelled = list(looks), False

    def wait(self, timeout_s=None):
        return len(self.looks) <= 1

    def poll(self):
        look = self.looks.pop(0)
        if isinstance(look, BaseException):
            raise look
        return {"0123456789ab-c": look}

    def cancel(self, grace_s=60.0):
        self.cancelled = True


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(patience.clock, "sleep", lambda seconds: None)
    launch_dir = tmp_path / "launches" / "l"
    launch_dir.mkdir(parents=True)

    def begin(jobs):
        return launch.work(lambda owner: jobs, list, 1, launch_dir, {}, Console(quiet=True))

    return begin


def away():
    return OSError(errno.EIO, "Input/output error", "/runs/cells")


def test_file_server_that_is_away_for_seconds_ends_no_launch(work, capsys):
    jobs = Jobs([JobState.RUNNING, away(), away(), JobState.RUNNING, away(), JobState.DONE])
    assert work(jobs) is False
    assert not jobs.cancelled
    assert not jobs.looks
    assert capsys.readouterr().err.count("the cells continue, but cannot be looked at for now: [Errno 5]") == 1


def test_last_look_waits_for_the_file_server(work):
    jobs = Jobs([away()])
    jobs.wait = lambda timeout_s=None: True
    jobs.looks += [away(), JobState.DONE]
    assert work(jobs) is False
    assert not jobs.looks


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(3), KeyError("x")])
def test_whatever_ends_a_launch_lets_its_cells_write_their_checkpoints(error, work):
    jobs = Jobs([JobState.RUNNING, error, JobState.RUNNING])
    with pytest.raises(type(error)):
        work(jobs)
    assert jobs.cancelled


def test_scheduler_that_broke_down_is_not_asked_to_stop(work):
    jobs = Jobs([SchedulerError("Ray broke down"), JobState.RUNNING])
    with pytest.raises(SchedulerError):
        work(jobs)
    assert not jobs.cancelled


def test_state_that_cannot_be_written_ends_nobody(tmp_path, capsys):
    StateLog(tmp_path / "gone").write("c", JobState.RUNNING)
    assert "jobs.jsonl lacks that c is running: [Errno 2]" in capsys.readouterr().err
