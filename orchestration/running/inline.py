"""Trains the cells in this process, one after another: nothing to start, nothing to install."""

import atexit
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestration.machine import provenance
from orchestration.running.run_cell import Trainer, run_cell, train_inline
from orchestration.runs.jobs import CellJob, JobState, SchedulerError

ENDED_BY_USER = 130
"""The exit code of what Ctrl-C ended, by the shells' rule."""


class InlineScheduler:
    """Runs one job at a time on a thread, so that the caller can look at the run folders meanwhile."""

    def __init__(self, train: Trainer = train_inline) -> None:
        self._train = train

    def check(self, jobs: Sequence[CellJob]) -> None:
        """Refuse cells that want several workers, or a GPU where there is none."""
        for job in jobs:
            if job.device == "cuda" and not provenance.gpus():
                raise ValueError(
                    f"trainer.device must be cpu or auto on a machine without a GPU; got 'cuda' for {job.name}"
                )
            if job.num_workers > 1:
                raise ValueError(
                    f"trainer.num_workers must be 1 with --cluster inline; got {job.num_workers} for {job.name}"
                )

    def submit(self, jobs: Sequence[CellJob], launch_dir: Path, owner: Mapping[str, Any]) -> "InlineJobs":
        """Start the first job.

        Raises:
            ValueError: A cell wants what `check` refuses.
        """
        self.check(jobs)
        return InlineJobs(jobs, owner, self._train)


class InlineJobs:
    """The jobs of one launch and the thread that runs them."""

    def __init__(self, jobs: Sequence[CellJob], owner: Mapping[str, Any], train: Trainer) -> None:
        self._states = {job.name: JobState.PENDING for job in jobs}
        self._asked_to_stop = threading.Event()
        self._ended = threading.Event()
        """Not `Thread.join`: an interrupted one has Python 3.11 and 3.12 take the thread for one that has ended."""
        # A daemon: whatever hangs in a cell must not keep the program from ending.
        threading.Thread(target=self._work, args=(list(jobs), owner, train), daemon=True).start()
        atexit.register(self._end_at_once)

    def poll(self) -> dict[str, JobState]:
        """Return the state of every job."""
        if self._ended.is_set() and not all(state.has_ended for state in self._states.values()):
            raise SchedulerError("the training thread broke down; its error is above")
        return dict(self._states)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all jobs have ended; false if the time runs out first."""
        return self._ended.wait(timeout_s)

    def cancel(self, grace_s: float = 60.0) -> None:
        """Stop at the next step edge, however long that takes: a thread cannot be ended by force.

        Raises:
            KeyboardInterrupt: The user asked twice more; the program then ends at once.
        """
        del grace_s
        self._asked_to_stop.set()
        try:
            self.wait()
        except KeyboardInterrupt:
            sys.stderr.write("still stopping: the step that runs is ended first; Ctrl-C again ends at once\n")
            self.wait()

    def _end_at_once(self) -> None:
        """End the process while a thread trains: Python would unwind it within C++, which aborts with a core dump."""
        if not self._ended.is_set():
            sys.stdout.flush()
            sys.stderr.write("ended while a cell trained; the same command resumes from its newest checkpoint\n")
            sys.stderr.flush()
            os._exit(ENDED_BY_USER)

    def _work(self, jobs: list[CellJob], owner: Mapping[str, Any], train: Trainer) -> None:
        try:
            self._work_through(jobs, owner, train)
        finally:
            self._ended.set()

    def _work_through(self, jobs: list[CellJob], owner: Mapping[str, Any], train: Trainer) -> None:
        for job in jobs:
            if self._asked_to_stop.is_set():
                self._states[job.name] = JobState.STOPPED
                continue
            self._states[job.name] = JobState.RUNNING
            self._states[job.name] = run_cell(
                job.cell_dir, train=train, owner=job.owner(owner), should_stop=self._asked_to_stop.is_set
            )
