"""What must hold after every event of a history, and what must have come of it in the end."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from simulation.coroutines import Process

from orchestration.launching import overview
from orchestration.on_slurm import submissions
from orchestration.on_slurm.campaign_file import launches_of, name_of, open_campaigns
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.jobs import JobState, StateLog
from orchestration.runs.retries import decision_of
from orchestration.runs.run_folder import RunFolder, folders

if TYPE_CHECKING:
    from simulation.slurm_model import Job
    from simulation.world import World

EXPECTED = ("SchedulerError", "ValueError", "Stale file handle", "SlurmError", "Job dependency problem")
"""In which words a command may end."""

OVER = (JobState.DONE, JobState.FAILED, JobState.STOPPED, JobState.SUPERSEDED)
"""A pilot that is at work has nothing more to do with cells of these states."""

LOOK_AGAIN_S, HOUR_S = 600.0, 3600.0
"""So often somebody looks whether the user knows what to do, where nothing but the time has changed."""

LOOKED_S = 1800.0
"""So long ago whoever submits may have looked at what was used: sbatch is tried again while its time lasts."""


class Broken(AssertionError):  # noqa: N818
    """Something did not hold.

    Args:
        text: What.
        is_lost: It is that a cell was forgotten.
    """

    def __init__(self, text: str, *, is_lost: bool = False) -> None:
        super().__init__(text)
        self.is_lost = is_lost


class Invariants:
    """Watches a world from outside."""

    def __init__(self, world: "World", max_concurrent: int | None, budget_gpu_hours: float | None) -> None:
        self.world, self.max_concurrent, self.budget_gpu_hours = world, max_concurrent, budget_gpu_hours
        self.cancelled: set[str] = set()
        self.storm_ended: float | None = None
        self._submissions: dict[Path, Submission] = {}
        self._known: set[tuple[str, float]] = set()
        self._seen: tuple[object, ...] = ()
        self._looked: tuple[object, ...] = ()
        self._open: dict[str, str] = {}

    def check(self) -> None:
        """Look at everything after an event."""
        alive = self.world.slurm.alive()
        own = [job for job in alive if not job.is_controller]
        if not self._holds_for(own):  # one that was withdrawn ends at once, so it may be there
            own = [job for job in own if not self.is_withdrawn(job)]
            if not self._holds_for(own):
                self._broken(self._why_too_many(own))
        self._check_budget(own)
        if self.world.broken:
            self._broken(self.world.broken[0])
        stands = not any(job.node or not job.is_held for job in alive)
        if (stands or self._unattended(alive)) and self._has_changed(alive, stands=stands):
            self._check_somebody_is_due(alive, stands=stands)

    def _unattended(self, alive: list["Job"]) -> set[str]:
        """Return the open launches that have controllers, of which none is at work or will be; only users open some."""
        acting = {job.name for job in alive if job.is_controller and (job.node or not job.is_held)}
        looked = (acting, self.world.num_typed)
        if looked != self._looked and self.is_launched():
            opened = open_campaigns(self.world.grid_dir).values()
            self._open = {one.controllers_name: one.name for one in opened if one.config().controller}
        self._looked = looked
        return {name for controllers, name in self._open.items() if controllers not in acting}

    def _has_changed(self, alive: list["Job"], *, stands: bool) -> bool:
        """Return whether anything is other than when somebody last looked: only processes and Slurm change what is.

        While jobs run, only which ones there are counts, and the hour.
        """
        hub, numbers = self.world.hub, [job.number for job in alive]
        seen: tuple[object, ...] = (numbers, hub.now // HOUR_S)
        if stands:
            seen = (hub.num_turns, hub.now // LOOK_AGAIN_S, numbers, [(job.state, job.reason) for job in alive],
                    len(self.world.slurm.accounting), len(self.world.told), not hub.processes)  # fmt: skip
        if seen == self._seen:
            return False
        self._seen = seen
        return True

    def _check_budget(self, own: list["Job"]) -> None:
        """Nothing is submitted once a campaign has used its budget; who submits may have looked some minutes ago."""
        known, self._known = self._known, {(job.number, job.submitted) for job in own}
        if self.budget_gpu_hours is None:
            return
        for job in (one for one in own if (one.number, one.submitted) not in known):
            campaign = name_of(job.script.parent.parent)
            hours = self._hours_until(job.submitted - LOOKED_S, campaign)
            if hours > self.budget_gpu_hours:
                used = f"{hours:.2f} of {self.budget_gpu_hours:g} GPU-hours are used"
                self._broken(f"job {job.number} is submitted, and {used}")

    def _hours_until(self, time: float, campaign: str) -> float:
        return sum(one.gpu_hours for one in self.world.spent if one.campaign == campaign and one.time <= time)

    def _holds_for(self, jobs: list["Job"]) -> bool:
        cells, running = self._cells_of(jobs), self._running(jobs)
        return len({*cells}) == len(cells) and (self.max_concurrent is None or len(running) <= self.max_concurrent)

    def _cells_of(self, jobs: list["Job"]) -> list[str]:
        return [cell for job in jobs for cell in self.cells_of(job)]

    def _running(self, jobs: list["Job"]) -> list[str]:
        """Return what trains: jobs, and cells in pilots."""
        in_pilots = [cell.name for cell in self.world.pilots.training()]
        return [job.number for job in jobs if job.node and not self._is_of_pilot(job)] + in_pilots

    def _why_too_many(self, jobs: list["Job"]) -> str:
        twice = [cell for cell, count in Counter(self._cells_of(jobs)).items() if count > 1]
        if twice:
            return f"{twice} have two jobs at once: {[(job.number, job.state) for job in jobs]}"
        return f"{self._running(jobs)} run at once, and --max-concurrent is {self.max_concurrent}"

    def is_withdrawn(self, job: "Job") -> bool:
        """Return whether a job's cells were submitted anew."""
        return submissions.is_withdrawn(job.script.parent.parent, job.name)

    def cells_of(self, job: "Job") -> list[str]:
        """Return the cells that a job has: one, or all those of a pilot's head, and none of its nodes."""
        if job.name.endswith("-nodes"):
            return []
        if self._is_of_pilot(job):
            states = StateLog(job.script.parent.parent).read()
            return [cell for cell in self._submission(job).cells if states.get(cell) not in OVER]
        return [self._submission(job).cells[int(job.number.partition("_")[2] or 0)]]

    def _is_of_pilot(self, job: "Job") -> bool:
        return job.name.endswith("-nodes") or self._submission(job).is_pilot

    def _submission(self, job: "Job") -> Submission:
        if job.script not in self._submissions:
            launch = LaunchFolder(job.script.parent.parent)
            places = (launch.submission_file(job.name), launch.withdrawn_file(job.name))
            stored = next(filter(Path.exists, places), None)  # none: a head whose nodes were refused
            refused = Submission(job.name, [], nodes_name=f"{job.name}-nodes")
            self._submissions[job.script] = Submission.from_file(stored) if stored else refused
        return self._submissions[job.script]

    def _check_somebody_is_due(self, alive: list["Job"], *, stands: bool) -> None:
        """No controller of a launch will act, or no job at all: the user was told, or `status` says what to do."""
        if any(process.host == "login" for process in self.world.hub.processes.values()):
            return  # a user is at it
        if not self.is_launched() or not self._left():
            return
        campaigns = open_campaigns(self.world.grid_dir)
        if not campaigns:
            if stands:
                self._check_all_told()
            return
        names = self._unattended(alive) & {one.name for one in campaigns.values()}
        seen = overview.of_grid(self.world.grid_dir)
        silent = [name for name in names if not any(name in text for text in seen.notes)]
        if silent or (stands and not seen.notes):
            self._broken(f"nobody is due to act for {silent}, and status says nothing: {seen.lines}", is_lost=True)

    def _check_all_told(self) -> None:
        seen = overview.of_grid(self.world.grid_dir)
        said = " ".join([*self.world.told, *seen.lines])
        if "cells are done" not in said and "no launch is at work" not in said and not self._is_cancelled():
            self._broken(f"all launches are closed and nobody was told of {self._left()}: {seen.lines}", is_lost=True)

    def _is_cancelled(self) -> bool:
        return self.cancelled >= {*self._left()}

    def _left(self) -> list[str]:
        return [cell.path.name for cell in folders(self.world.grid_dir).values() if not cell.has_result()]

    def is_launched(self) -> bool:
        return bool(self.world.grid_dir.is_dir() and launches_of(self.world.grid_dir))

    def is_over(self) -> bool:
        """Return whether all launches are closed, and nobody is at work."""
        acts = any(not process.is_frozen for process in self.world.hub.processes.values())  # one may stay so for ever
        if acts or self.world.slurm.alive() or not self.is_launched():
            return False
        return not open_campaigns(self.world.grid_dir)

    def check_command(self, process: Process) -> None:
        """A command may end in a message, not in a traceback."""
        if process.trace:
            self.world.note(f"{process.name}: {process.trace.strip().splitlines()[-1]}")
        if process.trace and not any(word in process.trace.splitlines()[-1] for word in EXPECTED):
            self.world.broken.append(f"{process.name} ended in {process.trace[-3000:]}")

    def check_end(self) -> None:
        """Each cell is done, or given up and somebody was told, or cancelled."""
        if not self.is_over():
            state = "\n".join(overview.of_grid(self.world.grid_dir).lines) if self.is_launched() else ""
            alive = [(job.number, job.name, job.state, job.reason) for job in self.world.slurm.alive()]
            self._broken(f"it never ends: {alive}\n{state}", is_lost=True)
        for cell in folders(self.world.grid_dir).values():
            self._check_cell(cell)

    def _check_cell(self, cell: RunFolder) -> None:
        name = cell.path.name
        if cell.has_result() or name in self.cancelled:
            return
        kinds = [attempt.end().kind for attempt in cell.attempts()]
        said = [text for text in self.world.told if name in text or self._is_reason(text, cell)]
        rows = {row.cell.signature: row for row in overview.of_grid(GridFolder(self.world.grid_dir).path).rows}
        if not said:
            shown = rows[cell.signature].standing
            self._broken(f"{name} was forgotten after {kinds}; status says {shown}", is_lost=True)

    def _is_reason(self, text: str, cell: RunFolder) -> bool:
        """Return whether a notice is of what ended a cell: each cause is told once an hour, with the name of one cell.

        Cells that the budget stops need no attempt; of others that were given up, somebody tried to train them.
        """
        if "--budget-gpu-hours" in text:
            return "not tried again" in text
        if not (attempts := cell.attempts()):
            return False
        why = decision_of(cell, str(attempts[-1].known_owner().get("campaign", ""))).why
        return bool(why) and f"is not tried again: {why}" in text

    def _broken(self, text: str, *, is_lost: bool = False) -> None:
        raise Broken(text, is_lost=is_lost)
