"""Trains the cells side by side on this machine, under Ray Tune.

Ray lives in a process of its own (`orchestration.ray_driver`), in a session of its own: the launcher imports none of
it, Ctrl-C reaches the launcher alone, and what hangs in Ray can be killed from outside.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orchestration
from orchestration import files, provenance
from orchestration.failures import CancelledError, Failure
from orchestration.run_cell import record_loss
from orchestration.schedulers import CellJob, JobState, SchedulerError, StateLog

ORDER, STOP_FILE, LOG = "ray.json", "cancelled", "ray.log"
_DRIVER = "from orchestration.ray_driver import main; main()"


class RayTuneScheduler:
    """Runs as many cells at once as the machine holds, or as told."""

    def __init__(self, *, max_concurrent: int | None = None, num_gpus_per_worker: float = 1.0) -> None:
        if max_concurrent is not None and max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1; got {max_concurrent}")
        if not (0 < num_gpus_per_worker <= 1):
            raise ValueError(f"num_gpus_per_worker must be above 0 and at most 1; got {num_gpus_per_worker}")
        self._num_gpus_per_worker = num_gpus_per_worker
        self._options = {"max_concurrent": max_concurrent, "num_gpus_per_worker": num_gpus_per_worker}

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse cells that want more GPUs than this machine has."""
        num_gpus = len(provenance.gpus())
        for job in jobs:
            needed = job.num_workers * self._num_gpus_per_worker
            if (job.device == "cuda" or (job.device == "auto" and num_gpus)) and needed > num_gpus:
                raise ValueError(
                    f"trainer.num_workers={job.num_workers} with trainer.device={job.device} must need at most the "
                    f"{num_gpus} GPUs of this machine; got {needed:g} for {job.name}"
                )

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> "RayTuneJobs":
        """Start the driver; Ray takes some seconds to come up behind it."""
        launch_dir = launch_dir.resolve()
        order = {
            "jobs": [{**asdict(job), "cell_dir": str(job.cell_dir.resolve())} for job in jobs],
            "owner": dict(owner),
            "options": self._options,
        }
        files.replace(launch_dir / ORDER, json.dumps(order))
        with (launch_dir / LOG).open("ab") as log:
            driver = subprocess.Popen(
                [sys.executable, "-c", _DRIVER, str(launch_dir), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
        return RayTuneJobs(jobs, launch_dir, driver)


class RayTuneJobs:
    """The jobs of one launch and the process that drives Ray."""

    def __init__(self, jobs: Sequence[CellJob], launch_dir: Path, driver: subprocess.Popen[bytes]) -> None:
        self._jobs, self._launch_dir, self._driver = list(jobs), launch_dir, driver
        self._cancelled = False

    def poll(self) -> dict[str, JobState]:
        """Tell the state of every job.

        Raises:
            SchedulerError: Ray broke down with jobs unfinished.
        """
        has_exited = self._driver.poll() is not None  # asked before the states are read: none comes after it
        written = StateLog(self._launch_dir).read()
        states = {job.name: written.get(job.name, JobState.PENDING) for job in self._jobs}
        if has_exited and not self._cancelled and not all(state.has_ended for state in states.values()):
            raise SchedulerError(f"Ray broke down ({self._last_words()}); see {self._launch_dir / LOG}")
        return states

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all jobs have ended and Ray is gone; false if the time ran out before."""
        try:
            self._driver.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def cancel(self, grace_s: float = 60.0) -> None:
        """Ask through a file that every training looks for once a second, then end Ray by force."""
        self._cancelled = True
        (self._launch_dir / STOP_FILE).touch()
        try:
            self._wait_for_jobs(grace_s)
        finally:
            self._kill()
            self._record_cancelled()

    def _wait_for_jobs(self, grace_s: float) -> None:
        """Wait for those that train; the ones not begun have nothing to lose."""
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and not self.wait(0.2):
            if JobState.RUNNING not in self.poll().values():
                return

    def _kill(self) -> None:
        """End the driver, which ends Ray, then what is left of its daemons, all of one process group."""
        self._driver.terminate()
        self.wait(5.0)
        with suppress(ProcessLookupError):
            os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()
        shutil.rmtree(files.process_folder(self._driver.pid), ignore_errors=True)

    def _record_cancelled(self) -> None:
        log = StateLog(self._launch_dir)
        for job in self._jobs:
            state = log.read().get(job.name, JobState.PENDING)
            if state is JobState.RUNNING:
                record_loss(job.cell_dir, Failure.of(CancelledError("ended by force")))
            if not state.has_ended:
                log.write(job.name, JobState.STOPPED)

    def _last_words(self) -> str:
        lines = (self._launch_dir / LOG).read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {self._driver.returncode}")


def _environment() -> dict[str, str]:
    """Let the driver and its workers import this very code, wherever they start."""
    root = str(Path(orchestration.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
