"""A controller: a small job that takes a campaign's next step; another one follows it whatever happens to it.

Two of them wait in the queue while one is at work. They start by the clock, so that an end that nobody reports is
found too, and at once when a job calls one (`controller_script.wake`).
"""

import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from orchestration.launching import earlier_code
from orchestration.launching.hand_in import site_of
from orchestration.launching.step import Step, take_step
from orchestration.machine import clock, files, terminal
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.messages import Message
from orchestration.on_slurm import commands
from orchestration.on_slurm.campaign_file import Campaign, campaign_named
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.on_slurm.controller_script import (
    LONGEST_S,
    MAX_FAILURES,
    NUM_WAITING,
    REPORTED,
    SILENT,
)
from orchestration.on_slurm.notices import Notifier, harmless
from orchestration.on_slurm.standing_still import all_still, remedy
from orchestration.runs.folders import ControllersFolder, GridFolder, LaunchFolder
from orchestration.runs.jobs import SchedulerError
from rankmatch.durable import make_folder

KEPT_LOGS = 50
NUM_LOOKS, LOOK_AGAIN_S = 6, 10.0
OVERDUE_S = LONGEST_S + 2 * 3600.0
"""So long after one was at work the next one should have been, whatever their pace."""
RESERVE_S = 150.0
"""The part of a controller's time for what comes before and after its tries."""


@dataclass(slots=True)
class State(Message):
    """What controllers leave for their successors and for `status`."""

    ADVICE: ClassVar[str] = "the next controller writes it again"

    job: str = ""
    """The newest one."""
    time: float = 0.0
    error: str = ""
    """What keeps them from their step; empty: nothing does."""
    since: float = 0.0
    told: bool = False
    """Whether it was reported."""
    num_quiet: int = 0
    """How many in a row found no job running and nothing to do."""
    held: str = ""
    """The reason for which all jobs stand still, if it was told; empty once one does not."""

    @classmethod
    def read(cls, folder: ControllersFolder) -> "State":
        """Read the state; where the file is damaged, warn and return an empty one."""
        try:
            return cls.from_file(folder.state_file)
        except FileNotFoundError:
            return cls()
        except DamagedFileError as error:
            tell(error)
            return cls()

    def write(self, folder: ControllersFolder) -> None:
        """Store the state."""
        self.to_file(folder.state_file)


def begin(campaign: Campaign, grid_dir: Path, *, now: bool = False) -> list[str]:
    """Submit a campaign's missing controllers; return the numbers of their jobs.

    Args:
        campaign: The campaign that they resume.
        grid_dir: Folder of its grid.
        now: Start the first one at once.

    Raises:
        ValueError: Its sources are of an earlier version, whose controllers are others.
        SchedulerError: sbatch refused, or Slurm does not answer.
    """
    earlier_code.refuse(campaign, grid_dir)
    folder, every_s = campaign.controllers(grid_dir), 60 * campaign.config().controller_every_min
    make_folder(folder.path)
    files.replace(folder.script_file, _script(campaign, grid_dir))
    if now or not folder.failures_file.exists():  # a running controller looks after this itself, at its end
        files.replace(folder.failures_file, "0\n")
    numbers: list[str] = []
    try:
        numbers += commands.waiting_numbers(campaign.controllers_name)
        for place in range(len(numbers), NUM_WAITING):
            begin_s = place * every_s if now else (place + 1) * every_s
            numbers.append(commands.submit_script(folder.script_file, begin_s=begin_s, after="".join(numbers[-1:])))
    except SlurmError as error:
        if not numbers:
            raise SchedulerError(f"no controller was submitted: {error}") from None
        return numbers
    if now:
        with suppress(SlurmError):  # it has started meanwhile
            commands.begin_in(numbers[0], 1)
    return numbers


def end(campaign: Campaign) -> None:
    """End the waiting controllers of a campaign; a running one finds out by itself that the campaign is over."""
    with suppress(SlurmError):
        commands.cancel_waiting(campaign.controllers_name)


def mend(grid_dir: Path) -> str:
    """Return the command that resumes a grid."""
    return shlex.join(["rankmatch", "resume", "--grid", grid_dir.name, "--runs", str(GridFolder(grid_dir).runs.path)])


def _script(campaign: Campaign, grid_dir: Path) -> str:
    words = ["-m", earlier_code.CONTROLLER, str(grid_dir), campaign.name]
    said = (
        f"{campaign.grid_name}: a controller did not start, or was ended at work, "
        f"its log in {campaign.controllers(grid_dir).path} says why; "
        f"it is tried again less and less often, and in the end no more; once that is fixed: {mend(grid_dir)}"
    )
    name, folder, over = campaign.controllers_name, campaign.controllers(grid_dir), campaign.over(grid_dir)
    return site_of(campaign).controller_script(name, folder, over, words, said)


class Controller:
    """One controller at work."""

    def __init__(self, grid_dir: Path, name: str) -> None:
        self.grid_dir, self.launch_dir = grid_dir, GridFolder(grid_dir).launch(name).path
        self.campaign = campaign_named(grid_dir, name)
        self.folder = self.campaign.controllers(grid_dir)
        self.console, self.state = Console(width=200), State.read(self.folder)
        self.deadline = clock.monotonic() + max(30.0, 60 * self.campaign.config().controller_time_min - RESERVE_S)

    def run(self) -> int:
        """Take the step; return the exit code of the job."""
        self.state.job, self.state.time = os.environ.get("SLURM_JOB_ID", ""), clock.now()
        try:
            step = self._step()
            self._see_to_followers(step)
        except (ValueError, SchedulerError, SlurmError) as error:
            return self._failed(str(error))
        except Exception as error:  # also an error in the code: it is reported in words, and the next controller tries
            traceback.print_exc()
            return self._failed(f"{type(error).__name__}: {error}")
        return 0

    def _step(self) -> Step:
        """Try the step until it succeeds or the time is up; look again where a job is just ending."""
        import tenacity  # only controllers need it

        until, began = clock.monotonic() + self._left_s(), clock.monotonic()

        def one_try() -> Step:
            nonlocal began
            began = clock.monotonic()
            return take_step(self.launch_dir, self.console, wait_s=self._left_s())

        tries = tenacity.Retrying(
            sleep=clock.sleep,
            retry=tenacity.retry_if_exception_type((SchedulerError, OSError)),
            wait=tenacity.wait_exponential(multiplier=5, max=60),
            stop=lambda _: 2 * clock.monotonic() - began >= until,  # as sbatch may hang, for as long again
            before_sleep=lambda state: self._say(f"tried again: {state.outcome.exception() if state.outcome else ''}"),
            reraise=True,
        )
        step = Step()
        for _ in range(NUM_LOOKS):
            step = tries(one_try)
            if not step.presses:
                break
            clock.sleep(LOOK_AGAIN_S)
        return step

    def _left_s(self) -> float:
        return max(1.0, self.deadline - clock.monotonic())

    def _see_to_followers(self, step: Step) -> None:
        """Keep the controllers in the queue that are needed, and set when they start."""
        was_failing = bool(self.state.error)
        is_quiet = step.is_quiet and step.submitted is None and step.due_s is None
        was_quiet = self.state.num_quiet > 0
        self.state.num_quiet = self.state.num_quiet + 1 if is_quiet else 0
        if step.is_over:
            self._succeeded()
            end(self.campaign)
            self._say("nothing is left to be done")
            return
        self._tell_of_held(step.held)
        numbers = begin(self.campaign, self.grid_dir)
        self._succeeded()  # not before: a controller without a follower counts as failed
        for number in numbers[NUM_WAITING:]:
            commands.cancel([Job(number, self.campaign.controllers_name)])
        if self.state.num_quiet or was_quiet or was_failing or step.presses or step.due_s is not None:
            self._pace(numbers[:NUM_WAITING], step)
        with harmless("removing old logs"):
            self._remove_old_logs()

    def _succeeded(self) -> None:
        self.state.error, self.state.told = "", False
        files.replace(self.folder.failures_file, "0\n")
        self.state.write(self.folder)

    def _pace(self, numbers: list[str], step: Step) -> None:
        """Have the followers start sooner or later than they were submitted for."""
        every_s = 60 * self.campaign.config().controller_every_min
        pace_s = min(LONGEST_S, every_s << min(self.state.num_quiet, 8))
        first_s = min(pace_s, 60 if step.presses else LONGEST_S, round(step.due_s or LONGEST_S) + 1)
        for place, number in enumerate(numbers):
            with suppress(SlurmError):  # it starts at the time it was submitted for
                commands.begin_in(number, first_s + pace_s * place)

    def _failed(self, error: str) -> int:
        """Record what keeps the campaign from resuming, and report it once."""
        self._say(error)
        with harmless("counting the controllers that failed"):
            is_last = int(self.folder.failures_file.read_text()) > MAX_FAILURES
            if not self.state.error:
                self.state.since = self.state.time
            tries = "nobody tries again" if is_last else "it is tried again, less and less often"
            text = f"{self.campaign.grid_name} does not resume: {error}; {tries}; at once by: {mend(self.grid_dir)}"
            if is_last or not self.state.told:
                cause = f"stands {self.campaign.name} {is_last}"
                self.state.told = self._notifier.tell(cause, text, insists=True, is_last_word=is_last)
            self.state.error = error
            self.state.write(self.folder)
        return REPORTED

    def _tell_of_held(self, why: str) -> None:
        """Tell once for each reason, and again if jobs have moved meanwhile."""
        reason = why.partition(": ")[0].partition(",")[0]  # squeue adds the nodes, which differ from time to time
        if why and reason != self.state.held:
            text = f"{self.campaign.grid_name}: all that is left stands still, {why}"
            is_told = self._notifier.tell(f"held {self.campaign.name} {reason}", text)
            reason = reason if is_told else self.state.held
        self.state.held = reason

    @property
    def _notifier(self) -> Notifier:
        return Notifier.of(self.campaign.config(), self.grid_dir)

    def _say(self, text: str) -> None:
        with harmless("the log"):
            self.console.print(
                f"{clock.local():%Y-%m-%d %H:%M:%S} {text}", highlight=False, markup=False, soft_wrap=True
            )

    def _remove_old_logs(self) -> None:
        logs = sorted(self.folder.logs(), key=lambda path: path.stat().st_mtime)
        for path in logs[:-KEPT_LOGS]:
            path.unlink(missing_ok=True)


def standing(campaign: Campaign, launch_dir: Path, queue: Mapping[Job, QueuedJob]) -> list[str]:
    """Return what keeps a campaign from resuming by itself, and the command that fixes it."""
    grid_dir = LaunchFolder(launch_dir).grid.path
    mine = [job for job in queue.values() if job.job.name == campaign.controllers_name]
    state = State.read(campaign.controllers(grid_dir))
    why = f"since {_moment(state.since)}: {state.error}" if state.error else ""
    way = earlier_code.advice(campaign, grid_dir) or mend(grid_dir)
    if not mine and _is_due(launch_dir, queue):
        return []
    if not mine:
        last = f", the last one, job {state.job}, {why or _word_of(state.job, campaign)}" if state.job else ""
        return [f"no controller resumes launch {campaign.name}{last}; {way}"]
    if words := stands_still(campaign, queue) or _overdue(campaign, state, campaign.controllers(grid_dir), mine):
        return [words]
    if why:
        numbers = ", ".join(str(job.job) for job in mine)
        return [f"launch {campaign.name} does not resume {why}; jobs {numbers} try again, at once {way}"]
    num_failed = _num_failed(campaign.controllers(grid_dir)) - any(not job.is_waiting for job in mine)
    if num_failed >= SILENT:
        logs = campaign.controllers(grid_dir).path
        what = f"{num_failed} controllers in a row did not come to their end, their logs in {logs} say why"
        return [f"launch {campaign.name} does not resume: {what}; they try again, at once {way}"]
    return []


def will_act(campaign: Campaign, launch_dir: Path, queue: Mapping[Job, QueuedJob]) -> bool:
    """Return whether a controller takes a campaign's next step without the user."""
    is_there = any(job.job.name == campaign.controllers_name for job in queue.values())
    return not stands_still(campaign, queue) if is_there else _is_due(launch_dir, queue)


def _num_failed(folder: ControllersFolder) -> int:
    with suppress(OSError, ValueError):
        return int(folder.failures_file.read_text())
    return 0


def stands_still(campaign: Campaign, queue: Mapping[Job, QueuedJob]) -> str:
    """Return why none of a campaign's controllers will start, and what helps; nothing if one of them will."""
    first = all_still(job for job in queue.values() if job.job.name == campaign.controllers_name)
    return f"the controllers of launch {campaign.name} stand still, {remedy(first)}" if first else ""


def _overdue(campaign: Campaign, state: State, folder: ControllersFolder, mine: Sequence[QueuedJob]) -> str:
    """Report controllers that have been waiting for long, mostly for want of room; nothing if one is at work."""
    last = state.time or _written(folder.script_file)
    if state.time > clock.now():  # by a wrong clock
        last = _written(folder.state_file)
    if last is None or not all(job.is_waiting for job in mine) or clock.now() - last < OVERDUE_S:
        return ""
    waiting = ", ".join(f"job {job.job} waits: {job.reason}" for job in mine)
    return f"no controller of launch {campaign.name} was at work since {_moment(last)}; {waiting}; see squeue --start"


def _written(path: Path) -> float | None:
    with suppress(OSError):
        return path.stat().st_mtime
    return None


def _is_due(launch_dir: Path, queue: Mapping[Job, QueuedJob]) -> bool:
    """Return whether the single controller that earlier versions submitted after all jobs of a launch is there."""
    path = LaunchFolder(launch_dir).old_controller_file
    try:
        known = files.read_json(path) if path.exists() else {}
    except DamagedFileError as error:
        tell(error)
        return False
    return any(job.number == known.get("job_id") and "controller" in job.name for job in queue)


def _word_of(number: str, campaign: Campaign) -> str:
    job = Job(number, campaign.controllers_name)
    known = (commands.ended([job]) or {}).get(job)
    return f"is gone, Slurm says {known[-1].state}" if known else "is gone"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def main() -> None:
    """Run the controller of a grid's folder and a campaign, named by the program's arguments."""
    terminal.take_any_character()
    grid_dir, name = sys.argv[1:]
    sys.exit(Controller(Path(grid_dir), name).run())


if __name__ == "__main__":
    main()
