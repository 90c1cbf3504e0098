"""A cluster that lies: a Slurm, its nodes and a login node, where launch, jobs and controllers run as they are."""

import io
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration_fakes import flags
from rich.console import Console
from simulation import shell, slurm_commands, training
from simulation.cells_away import CellsAway
from simulation.coroutines import START, Child, Hub, Killed, Process
from simulation.pilot import Pilots
from simulation.slurm_commands import Refused
from simulation.slurm_model import Job, Slurm
from simulation.training import Spent, Trainings
from simulation.weather import Weather
from submitit.core.utils import DelayedSubmission

from orchestration.launching.controller import Controller
from orchestration.on_slurm import pilot, submissions
from orchestration.on_slurm.job import CellTask, _Head
from orchestration.on_slurm.programs import SlurmError
from orchestration.on_slurm.signals import FOLLOW, make_folder
from orchestration.on_slurm.task import NoTask, comes
from orchestration.runs.folders import launch_with_jobs

DAY_S = 86_400.0
_HEADS_PAUSE_S, _PILOTS_PAUSE_S = 0.2, 0.5
"""So long a job's own process waits before it looks again, on a real Slurm."""
MOST_LATE_S = 60.0
"""How long after sbatch gave up slurmctld may take what it sent."""
GRID = Path(__file__).with_name("simulated.yaml")


class World:
    """Everything, from one seed."""

    def __init__(self, folder: Path, seed: int, *, cells_away: bool = False) -> None:
        self.folder, self.seed, self.chance = folder, seed, random.Random(seed)
        self.runs, self.logs = folder / "runs", folder / "logs"
        self.hub = Hub()
        self.weather = Weather(self.hub, random.Random(seed + 1))
        self.slurm = Slurm(self.hub, self._begin_job)
        self.slurm.sees_late, self.slurm.waits = self.weather.lag_of_accounting, self.weather.wait_in_queue
        self.cells_away = CellsAway(self) if cells_away else None
        self.num_typed = 0
        """Commands of users that have ended."""
        self.told: list[str] = []
        """What users were sent."""
        self.diary: list[str] = []
        """What happened, for whoever looks into a seed."""
        self.spent: list[Spent] = []
        """What attempts used of GPUs, as they wrote it."""
        self.broken: list[str] = []
        """What must not happen, seen from within."""
        self.trainings = Trainings(_die, self.broken.append, self._spend)
        self.pilots = Pilots(self)
        self.functions = folder / "functions.sh"
        shell.write_functions(self.functions)
        self.logs.mkdir()

    @property
    def grid_dir(self) -> Path:
        return self.runs / "simulated"

    def note(self, text: str) -> None:
        self.diary.append(f"{self.hub.now - START:>10.1f} {text.replace(str(self.folder), '')}")

    def tell(self, text: str) -> None:
        self.told.append(text)
        self.note(f"told: {text}")

    def _spend(self, spent: Spent) -> None:
        """Note what a training used while Slurm had its job: on a node that it gave up, processes may live on."""
        if any(self.hub.current in self.slurm.processes_of(job) for job in self.slurm.alive()):
            self.spent.append(spent)

    # the seams

    def run_program(self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> str:
        """Answer in the place of `programs.run`."""
        code, text = self.ask(command, timeout_s)
        if code == 124:
            raise SlurmError(f"{command[0]} did not answer within {timeout_s:.0f} s")
        if code:
            raise SlurmError(f"{command[0]} failed with exit code {code}: {text}")
        return text

    def ask(self, words: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """Have Slurm answer a process, or not; nobody who only looks from outside is lied to."""
        process = self.hub.current
        if process is None:
            return 0, slurm_commands.answer(self.slurm, words)
        process.wait(self.weather.latency())
        begins_later = any(word.startswith("--begin") for word in words)  # as controllers do
        fault = self.weather.of_command(words) or ("late" if self._loses_answer(words, begins_later) else "")
        if fault == "silent":
            self.note(f"{process.name}: {words[0]} does not answer")
            process.wait(timeout_s)
            return 124, ""
        if fault == "later":
            self.hub.after(timeout_s + self.chance.uniform(0, MOST_LATE_S), lambda: self._submit_late(words))
            process.wait(timeout_s)
            return 124, ""
        if fault == "refused":
            return 1, f"{words[0]}: error: Unable to contact slurm controller (connect failure)"
        try:
            text = slurm_commands.answer(self.slurm, words)
        except Refused as error:
            return 1, str(error)
        if words[0] in ("sbatch", "scancel") or "update" in words or "requeue" in words:
            self.note(f"{process.name}: {' '.join(words)} -> {text.strip()[:40]}")
        if words[0] == "sbatch" and self.weather.happens(0.02 if begins_later else 0.1, "killed after sbatch"):
            raise Killed
        if fault == "late":
            process.wait(timeout_s)
            return 124, ""
        process.wait(0.001)
        return 0, text

    def _submit_late(self, words: Sequence[str]) -> None:
        """Submit what sbatch gave up to wait for, if its script is still there."""
        with suppress(Refused, FileNotFoundError):
            self.note(f"late: {' '.join(words)} -> {slurm_commands.answer(self.slurm, words).strip()}")

    def _loses_answer(self, words: Sequence[str], begins_later: bool) -> bool:
        is_of_cells = words[0] == "sbatch" and not begins_later
        return is_of_cells and self.weather.happens(0.1, "sbatch submits and fails")

    def sleep(self, seconds: float) -> None:
        process = self.hub.current
        assert process is not None, "nobody who only looks may wait"
        # who looks often is woken when there is something to see
        process.wait({_HEADS_PAUSE_S: 3600.0, _PILOTS_PAUSE_S: 30.0}.get(seconds, seconds))

    # jobs

    def _begin_job(self, job: Job) -> Process:
        array, _, place = job.number.partition("_")
        environment = {
            "SLURM_JOB_ID": job.number if not place else f"{int(array) * 1000 + int(place)}",
            "SLURM_JOB_NAME": job.name, "RANKMATCH_JOB_NAME": job.name, "SLURMD_NODENAME": job.nodes[0],
            "SLURM_RESTART_COUNT": str(job.restarts), "SLURM_JOB_NUM_NODES": str(job.num_nodes),
            "SLURM_JOB_NODELIST": job.node, "SLURM_PROCID": "0",
            **({"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": place} if place else {}),
        }  # fmt: skip
        mark = f"{job.number}.{job.restarts}@{'+'.join(job.nodes)}"
        self.note(f"job {mark} {job.name} begins")

        def body() -> int:
            asked = flags(job.script.read_text())["output"].strip("'")
            log = Path(asked.replace("%A_%a", job.number).replace("%j", job.number))
            return shell.run(job.script, self.functions, environment, log, lambda words: self._of_shell(job, words))

        return self.hub.start(mark, job.nodes[0], environment, body)

    def _of_shell(self, job: Job, words: Sequence[str]) -> tuple[int, str]:
        """Do what the shell of a job would start."""
        process = self.hub.current
        assert process is not None
        if words[0] == "sleep":
            process.wait(float(words[1]))
            return 0, ""
        if words[0] == "rm":
            for name in words[2:]:
                Path(name).unlink(missing_ok=True)
            return 0, ""
        if words[0] == "timeout":
            self.tell(words[-1])
            return 0, ""
        if words[0] == "srun":
            others = self._lend_other_nodes(job, process)
            try:
                return self._as_program(process, lambda: self._head(job, Path(words[-1]))), ""
            finally:
                for other in others:
                    other.kill()
        if words[0] == shell.PYTHON:
            return self._as_program(process, lambda: Controller(Path(words[-2]), words[-1]).run()), ""
        return self.ask(words, 300.0 if words[0] == "sbatch" else 30.0)

    def _lend_other_nodes(self, job: Job, head: Process) -> list[Process]:
        """Start the tasks of a job's other nodes; where one dies, srun ends the job (`--kill-on-bad-exit`)."""
        start = job.started

        def lend() -> int:
            while True:
                self.sleep(DAY_S)

        def died() -> None:
            if job.started == start and job.head is head and head.lives:
                self.weather.num["node of several lost"] += 1
                head.throw(Killed())

        others = [self.hub.start(f"{head.name}/{name}", name, {}, lend) for name in job.nodes[1:]]
        for other in others:
            other.when_over(died)
        return others

    def _as_program(self, process: Process, run: Callable[[], int]) -> int:
        """Run a program in the shell's own coroutine; what kills it alone does not kill the shell."""
        try:
            return run()
        except Killed:
            if process.is_killed:
                raise
            self.note(f"{process.name}: its program is killed")
            return 137
        except SystemExit as error:
            return int(error.code or 0)
        except Exception:  # as Python does: a traceback, and exit code 1
            self.saw_error()
            return 1
        finally:
            process.handlers.clear()

    def saw_error(self) -> None:
        """Take an error that a program did not expect; only those of a file server are nobody's fault."""
        text = traceback.format_exc()
        self.note(f"error: {text.strip().splitlines()[-1]}")
        if "Stale file handle" not in text:
            self.broken.append(text[-3000:])

    def _head(self, job: Job, folder: Path) -> int:
        """Run a job's own process, as submitit's program does with the task of the job."""
        process = self.hub.current
        assert process is not None
        if self.weather.happens(0.05, "node starts no job"):
            return 1
        path = folder / f"{job.number}_submitted.pkl"
        try:
            if not comes(path, job.name):
                return 0
        except NoTask:
            return FOLLOW
        task = DelayedSubmission.load(path).function
        if submissions.is_withdrawn(folder.parent, job.name):
            self.broken.append(f"job {job.number} trains, and is withdrawn")
        job.head = process
        try:
            return _program_of(task).run()
        finally:
            job.head = None

    def popen(self, command: Sequence[str], **_: object) -> Child:
        """Answer in the place of the Popen of a job's training."""
        head, path, step_s = self.hub.current, Path(command[-2]), self.chance.uniform(240, 1200)
        assert head is not None
        process = self.hub.start(
            f"{head.name}/training", head.host, dict(head.environment),
            lambda: training.train_order(self.trainings, path, lambda: step_s, self.weather.end_of_attempt),
        )  # fmt: skip
        return Child(head, process)

    # users

    def user(self, name: str, act: Callable[[Console], object]) -> Process:
        """Have somebody type a command on the login node."""
        console = Console(file=io.StringIO(), width=200)

        def body() -> int:
            self.note(f"user: {name}")
            try:
                act(console)
            finally:
                self.num_typed += 1
                self.note(f"user: {name} ends")
            return 0

        return self.hub.start(f"{name}@login", "login", {}, body)


def _program_of(task: object) -> "_Head | pilot._Head | pilot._Node":
    if isinstance(task, CellTask):
        return _Head(task, make_folder(launch_with_jobs(Path(task.jobs_dir)).path))
    if isinstance(task, pilot.PilotHead):
        return pilot._Head(task, make_folder(Path(task.launch_dir)))
    assert isinstance(task, pilot.PilotNode)
    return pilot._Node(task, make_folder(Path(task.launch_dir)))


def _die() -> None:
    raise Killed
