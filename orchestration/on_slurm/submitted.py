"""The handle of what one launch submitted to Slurm."""

from collections.abc import Sequence

from orchestration.machine import clock
from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import Job
from orchestration.on_slurm.queue_state import state_of
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.jobs import CellJob, JobState
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import at_end


class SlurmJobs:
    """What was submitted by one launch."""

    def __init__(self, jobs: Sequence[CellJob], submissions: Sequence[Submission]) -> None:
        self.submissions = list(submissions)
        self._folders = {job.name: RunFolder(job.cell_dir) for job in jobs}
        self._jobs = {name: job for submission in submissions for name, job in submission.jobs().items()}

    @property
    def job_ids(self) -> list[Job]:
        """All that was submitted, a pilot's nodes too."""
        return [job for one in self.submissions for job in (one.job, one.nodes) if job]

    @property
    def names(self) -> list[str]:
        """The names of the cells' folders."""
        return list(self._folders)

    def poll(self) -> dict[str, JobState]:
        """Return the state of every job: first by its run folder, then by squeue.

        Raises:
            SchedulerError: squeue does not answer.
        """
        with commands.answers():
            queued = commands.queue()
        return {name: _state(folder, queued.get(self._jobs[name])) for name, folder in self._folders.items()}

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all jobs have ended; false if the time runs out first."""
        deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        while not all(state.has_ended for state in self.poll().values()):
            if deadline is not None and clock.monotonic() >= deadline:
                return False
            clock.sleep(2.0 if deadline is None else min(2.0, max(0.0, deadline - clock.monotonic())))
        return True


def _state(folder: RunFolder, queued: commands.QueuedJob | None) -> JobState:
    if folder.has_result():
        return JobState.DONE
    if queued is not None:
        return state_of(queued)
    return at_end(folder.look().status)
