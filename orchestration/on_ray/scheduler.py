"""Trains the cells side by side under Ray Tune: on this machine in a Ray of our own, or in one that already runs.

The code that talks to Ray has a process of its own (`orchestration.on_ray.driver`), in its own session: the launcher
imports none of it, Ctrl-C reaches the launcher alone, and what hangs in Ray can be killed from outside.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orchestration
from orchestration.machine import provenance, scratch
from orchestration.on_ray.orders import DriverOrder, Sharing
from orchestration.on_ray.protocol import check_ray, kill_session
from orchestration.running.run_cell import record_loss
from orchestration.runs.failures import CancelledError, Failure
from orchestration.runs.folders import CellFolder, LaunchFolder
from orchestration.runs.jobs import CellJob, JobState, SchedulerError, StateLog
from orchestration.runs.patience import patiently
from orchestration.runs.run_folder import run_folder

DRIVER = "from orchestration.on_ray.driver import main; main()"
_PROBE = "from orchestration.on_ray.probe import main; main()"
_PROBE_S = 90.0
_TOKEN = "(the token of a Ray that asks for one: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
_ADDRESS = re.compile(r"(?!ray:)[^\s:/]+:\d{1,5}")


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of a Ray, found before the Ray is asked for any."""

    count: int
    place: str
    memory_gb: Sequence[float] = ()
    """Of each one that could be asked."""


class RayTuneScheduler:
    """Runs as many cells at once as the Ray holds, or as requested."""

    def __init__(
        self, *, max_concurrent: int | None = None, num_gpus_per_worker: float = 1.0, address: str = ""
    ) -> None:
        """Take options.

        Args:
            max_concurrent: Cells at a time.
            num_gpus_per_worker: Share of a GPU for each worker.
            address: `HOST:PORT` of a Ray that runs already, or `auto` for that of this node; empty: one of our own.
        """
        if max_concurrent is not None and max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1; got {max_concurrent}")
        if not (0 < num_gpus_per_worker <= 1):
            raise ValueError(f"num_gpus_per_worker must be above 0 and at most 1; got {num_gpus_per_worker}")
        if address and address != "auto" and not _ADDRESS.fullmatch(address):
            raise ValueError(f"--address must be HOST:PORT of a Ray's head, or auto; got {address!r}")
        self._num_gpus_per_worker, self._address = num_gpus_per_worker, address
        self._sharing = Sharing(max_concurrent, num_gpus_per_worker)

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse a Ray that cannot be used and cells that want more GPUs than it has; warn of too little memory."""
        check_ray()
        if not jobs:
            return
        if not self._address:
            _try_scratch()
        gpus = self._look(CellFolder(jobs[0].cell_dir).grid.path)
        for job in jobs:
            needed = job.num_workers * self._num_gpus_per_worker
            if (job.device == "cuda" or (job.device == "auto" and gpus.count)) and needed > gpus.count:
                raise ValueError(
                    f"trainer.num_workers={job.num_workers} with trainer.device={job.device} must need at most the "
                    f"{gpus.count} GPUs of {gpus.place}; got {needed:g} for {job.name}"
                )
        if warning := memory_warning(jobs, self._num_gpus_per_worker, gpus):
            sys.stderr.write(f"warning: {warning}\n")

    def _look(self, grid_dir: Path) -> Gpus:
        if not self._address:
            return Gpus(len(provenance.gpus()), "this machine", provenance.gpu_memory_gb())
        found = probe(self._address, grid_dir)
        return Gpus(found["num_gpus"], f"the Ray at {self._address}", found["gpu_memory_gb"])

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> "RayTuneJobs":
        """Start the driver; Ray takes some seconds to come up after it."""
        return self._start(jobs, launch_dir, owner, is_search=False)

    def search(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> "RayTuneJobs":
        """Start a search, whose file is in the launch's folder.

        Args:
            jobs: The first stands for the search itself and says what each point takes; the others are points to
                resume.
            launch_dir: As for `submit`.
            owner: As for `submit`.
        """
        return self._start(jobs, launch_dir, owner, is_search=True)

    def _start(
        self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any], *, is_search: bool
    ) -> "RayTuneJobs":
        launch_dir = launch_dir.resolve()
        scratch.sweep()
        place = None if self._address else scratch.make(launch=launch_dir.name)
        DriverOrder(
            with_whole_paths(jobs),
            {"campaign": launch_dir.name, **owner},
            self._sharing,
            self._address,
            is_search=is_search,
            ray_folder=str(place.ray) if place else "",
        ).to_file(LaunchFolder(launch_dir).ray_order_file)
        with LaunchFolder(launch_dir).ray_log.open("ab") as log:
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(launch_dir), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
        return RayTuneJobs(jobs, launch_dir, driver, place)


def with_whole_paths(jobs: Sequence[CellJob]) -> tuple[CellJob, ...]:
    """Return jobs with absolute paths, by which the driver finds their cells from another working directory."""
    return tuple(replace(job, cell_dir=CellFolder(job.cell_dir).whole_path) for job in jobs)


class RayTuneJobs:
    """The jobs of one launch and the process that drives Ray."""

    def __init__(
        self,
        jobs: Sequence[CellJob],
        launch_dir: Path,
        driver: subprocess.Popen[bytes],
        place: scratch.Scratch | None = None,
    ) -> None:
        """Take the jobs, the driver, and the folder of its own Ray."""
        self._jobs, self._launch, self._driver, self._place = list(jobs), LaunchFolder(launch_dir), driver, place
        self._cancelled = False

    def poll(self) -> dict[str, JobState]:
        """Return the state of every job.

        Raises:
            SchedulerError: Ray broke down with jobs unfinished.
        """
        has_exited = self._driver.poll() is not None  # asked before the states are read: no state comes after it
        states = self._states()
        if self._driver.returncode == 0:  # it has settled all, but a full disk may have kept it from saying so
            states |= {name: self._settled(name) for name, state in states.items() if not state.has_ended}
        if has_exited and not self._cancelled and not all(state.has_ended for state in states.values()):
            self._kill()
            raise SchedulerError(f"Ray broke down ({self._last_words()}); see {self._launch.ray_log}")
        return states

    def _states(self) -> dict[str, JobState]:
        """Return the states of the jobs, including points that a search has added."""
        return {job.name: JobState.PENDING for job in self._jobs} | StateLog(self._launch.path).read()

    def _settled(self, name: str) -> JobState:
        is_done = run_folder(self._launch.grid.path, name).has_result()
        return JobState.DONE if is_done else JobState.FAILED

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all jobs have ended and Ray is gone; false if the time runs out first."""
        try:
            self._driver.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._clear()
        return True

    def cancel(self, grace_s: float = 60.0) -> None:
        """Ask through a file that every training checks once a second, then end Ray by force."""
        self._cancelled = True
        try:
            patiently(self._launch.stop_file.touch)
            self._wait_for_jobs(grace_s)
        finally:
            self._kill()
            self._record_cancelled()

    def _wait_for_jobs(self, grace_s: float) -> None:
        """Wait for those that train; the ones that have not started have nothing to lose."""
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and not self.wait(0.2):
            if JobState.RUNNING not in patiently(self.poll).values():
                return

    def _kill(self) -> None:
        """End the driver, which ends Ray, then what is left of their session."""
        self._driver.terminate()
        self.wait(5.0)
        kill_session(self._driver.pid)
        self._driver.wait()
        self._clear()

    def _clear(self) -> None:
        if self._place:
            self._place.remove()

    def _record_cancelled(self) -> None:
        log = StateLog(self._launch.path)
        for name, state in patiently(self._states).items():
            if state is JobState.RUNNING:
                cell_dir = self._launch.grid.cell(name).path
                failure = Failure.of(CancelledError("ended by force"))
                patiently(partial(record_loss, cell_dir, failure, launch=self._launch.name))
            if not state.has_ended:
                log.write(name, JobState.STOPPED)

    def _last_words(self) -> str:
        text = self._launch.ray_log.read_text(errors="replace")
        return _last_line(text) or f"exit code {self._driver.returncode}"


def memory_warning(jobs: Sequence[CellJob], num_gpus_per_worker: float, gpus: Gpus) -> str:
    """Return a warning if workers that share a GPU may need more memory than it has; empty if not, or if unknown."""
    together = int(1 / num_gpus_per_worker + 1e-3)
    needs = sorted(job.gpu_memory_gb for job in jobs if job.device != "cpu" for _ in range(job.num_workers))
    needs = needs[-together:]  # the largest ones may meet
    if not gpus.memory_gb or sum(needs) <= min(gpus.memory_gb):
        return ""
    return (
        f"--gpus-per-worker {num_gpus_per_worker:g} puts {len(needs)} workers on a GPU, which may need about "
        f"{sum(needs):.0f} GB together; the smallest GPU of {gpus.place} has {min(gpus.memory_gb):.0f} GB"
    )


def probe(address: str, folder: Path) -> dict[str, Any]:
    """Ask the Ray at an address what it has, and whether its nodes see a folder.

    Raises:
        ValueError: It cannot be used; the message has the reason in one line.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), 10).close()
        except (OSError, OverflowError) as error:
            raise ValueError(f"--address must be where a Ray's head listens; got {address}: {error}") from None
    command = [sys.executable, "-c", _PROBE, address, str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_S, env=_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"--address must be that of a Ray that can be used; {address}: no answer in {_PROBE_S:.0f} s {_TOKEN}"
        ) from None
    if done.returncode:
        why = _last_line(done.stderr)
        hint = f" {_TOKEN}" if why.startswith("ConnectionError") else ""
        raise ValueError(f"--address must be that of a Ray that can be used; {address}: {why}{hint}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["blind"]:
        raise ValueError(
            f"--runs must be on a file system that all nodes of the Ray see and may write; {', '.join(found['blind'])} "
            f"cannot do so in {folder}"
        )
    return found


def _try_scratch() -> None:
    try:
        scratch.make().remove()
    except OSError as error:
        raise ValueError(error.strerror) from None


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def _environment() -> dict[str, str]:
    """Let the driver and its workers import this very code, wherever they start."""
    root = str(Path(orchestration.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
