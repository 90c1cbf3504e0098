"""An inline launch that is stopped by Ctrl-C, once and as often as somebody can press it."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from undisturbed import wait_until

from orchestration.running.inline import InlineJobs
from orchestration.running.run_cell import launcher
from orchestration.runs.jobs import CellJob, JobState
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.runs.states import CellState

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).with_name("small.yaml")


@pytest.mark.long
@pytest.mark.parametrize("presses", [1, 1000])
def test_launch_that_is_stopped_ends_without_an_abort(presses: int, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "orchestration" / "launch_grid.py"), "--grid", str(SMALL)]
    command += ["--cluster", "inline", "--runs", str(tmp_path), "trainer.epochs=2000", "method=rankmatch", "seed=0"]
    launch = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background has none
    )
    wait_until(lambda: any(folder.epochs() for folder in folders(tmp_path / "small").values()))
    for _ in range(presses):
        if launch.poll() is None:
            launch.send_signal(signal.SIGINT)
            time.sleep(0.002)
    printed, _ = launch.communicate(timeout=60)
    assert "terminate called" not in printed and "Aborted" not in printed
    assert launch.returncode in (130, -signal.SIGINT), printed
    [cell] = folders(tmp_path / "small").values()
    if presses == 1:
        assert launch.returncode == 130 and "Stopped. The same command resumes" in printed
        assert cell.attempts()[-1].events()[-1]["event"] == "stopped"
        assert cell.newest_checkpoint() is not None
    assert cell.state().status is CellState.INTERRUPTED


@pytest.mark.long
def test_launch_whose_terminal_is_closed_ends_with_checkpoints_and_its_table(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "orchestration" / "launch_grid.py"), "--grid", str(SMALL)]
    command += ["--cluster", "inline", "--runs", str(tmp_path), "trainer.epochs=2000", "method=rankmatch", "seed=0"]
    own_end, terminal = pty.openpty()
    launch = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(terminal)
    reader = threading.Thread(target=_read_until, args=(own_end, has_begun := threading.Event()))
    reader.start()
    wait_until(lambda: any(folder.epochs() for folder in folders(tmp_path / "small").values()))
    has_begun.set()
    reader.join()
    os.close(own_end)  # the kernel sends SIGHUP
    try:
        assert launch.wait(120) == 130
    finally:
        launch.kill()
        launch.wait()
    [cell] = folders(tmp_path / "small").values()
    assert cell.attempts()[-1].events()[-1]["event"] == "stopped" and cell.newest_checkpoint() is not None
    assert (tmp_path / "small" / "report.md").exists()


def _take_terminal() -> None:
    """Have this process be the first of its terminal, as a shell is; tests under nohup would ignore its end."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _read_until(terminal: int, over: threading.Event) -> None:
    """Read what a terminal shows, so that whoever writes to it does not wait."""
    while not over.is_set():
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 4096)


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    """A process that a shell started in the background ignores SIGINT, and so do tests in it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
def test_an_interrupted_wait_does_not_take_the_cell_for_ended(make_cell: Callable[..., Path]) -> None:
    """Python's `Thread.join` does, up to 3.12, once it was interrupted."""
    begun, let_go = threading.Event(), threading.Event()

    def train(config, attempt, resume_from, should_stop):
        begun.set()
        let_go.wait(30)
        raise ValueError("the end")

    jobs = InlineJobs([CellJob(cell := make_cell(), device="cpu")], launcher(), train)
    assert begun.wait(30)
    threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        jobs.wait(30)
    assert not jobs.wait(0) and jobs.poll() == {cell.name: JobState.RUNNING}
    let_go.set()
    assert jobs.wait(30) and jobs.poll() == {cell.name: JobState.FAILED}
    assert RunFolder(cell).state().status is CellState.FAILED
