"""A Slurm of some nodes: its queue, its accounting, and what it does to jobs; it draws nothing and decides nothing."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestration_fakes import flags
from simulation.coroutines import Hub, Process

ALIVE = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING")
KILL_WAIT_S, REQUEUE_S, REMEMBERED_S = 30.0, 120.0, 300.0
SLOTS = 2
"""Jobs on a node."""


@dataclass
class Start:
    """A row of accounting: one start of a job."""

    number: str
    name: str
    state: str
    code: int
    node: str
    end: float
    seen_from: float
    """When accounting has it."""


@dataclass
class Job:
    """A job, or an element of an array."""

    number: str
    name: str
    script: Path
    submitted: float
    begin: float = 0.0
    after: str = ""
    state: str = "PENDING"
    node: str = ""
    reason: str = "None"
    restarts: int = 0
    started: float = 0.0
    limit_s: float = 3600.0
    is_held: bool = False
    excluded: frozenset[str] = frozenset()
    may_requeue: bool = True
    ended: float | None = None
    code: int = 0
    preempted: float | None = None
    becomes: str = ""
    """The state in which it ends once its processes are gone."""
    shell: Process | None = None
    head: Process | None = None

    @property
    def array(self) -> str:
        return self.number.partition("_")[0]

    @property
    def is_controller(self) -> bool:
        return "controller" in self.name

    @property
    def is_alive(self) -> bool:
        return self.state in ALIVE


@dataclass
class Node:
    """A node; Slurm learns only later that it is gone."""

    name: str
    is_up: bool = True


@dataclass
class Slurm:
    """slurmctld."""

    hub: Hub
    begin_job: Callable[[Job], Process]
    """Starts the shell of a job on its node."""
    nodes: dict[str, Node] = field(default_factory=lambda: {f"n{place}": Node(f"n{place}") for place in range(1, 5)})
    jobs: dict[str, Job] = field(default_factory=dict)
    throttles: dict[str, int] = field(default_factory=dict)
    accounting: list[Start] = field(default_factory=list)
    next_number: int = 1
    sees_late: Callable[[], float] = lambda: 1.0
    """How long accounting takes to learn of an end."""
    waits: Callable[[], float] = lambda: 0.0
    """How long a job that could begin waits for its turn."""

    def submit(self, script: Path, begin_s: float, after: str) -> str:
        """Take a script, as an array if it says so; return the number."""
        asked, number = flags(script.read_text()), str(self.next_number)
        self.next_number += 1
        last, _, most = asked.get("array", "").partition("-")[2].partition("%")
        numbers = [f"{number}_{place}" for place in range(int(last) + 1)] if "array" in asked else [number]
        self.throttles[number] = int(most or 1)
        for one in numbers:
            self.jobs[one] = Job(
                one, asked["job-name"], script, self.hub.now, self.hub.now + begin_s + self.waits(),
                after or asked.get("dependency", "").strip("'"), limit_s=60.0 * int(asked["time"]),
                excluded=frozenset(filter(None, asked.get("exclude", "").strip("'").split(","))),
                may_requeue="no-requeue" not in asked,
            )  # fmt: skip
            self.hub.at(self.jobs[one].begin, self.schedule)
        return number

    def alive(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.is_alive]

    def schedule(self) -> None:
        """Start what can start."""
        busy = {name: 0 for name in self.nodes}
        for job in self.alive():
            if job.node:
                busy[job.node] += not job.is_controller
        for job in self.alive():
            if job.state != "PENDING":
                continue
            job.reason = self._reason(job)
            if job.reason != "None":
                continue
            free = [
                node.name for node in self.nodes.values()
                if node.is_up and node.name not in job.excluded and (job.is_controller or busy[node.name] < SLOTS)
            ]  # fmt: skip
            if not free:
                job.reason = "Resources"
                continue
            job.node = min(free, key=lambda name: busy[name])
            busy[job.node] += not job.is_controller
            self._start(job)

    def _reason(self, job: Job) -> str:
        if job.is_held:
            return "JobHeldUser"
        if job.after and not self._is_satisfied(job.after):
            return "Dependency"
        if job.begin > self.hub.now:
            return "BeginTime"
        if "_" in job.number and self._num_running(job.array) >= self.throttles[job.array]:
            return "JobArrayTaskLimit"
        return "None"

    def _num_running(self, array: str) -> int:
        return sum(job.array == array and bool(job.node) for job in self.alive())

    def _is_satisfied(self, after: str) -> bool:
        if "?" in after:
            return any(self._is_satisfied(one) for one in after.split("?"))
        numbers = after.removeprefix("afterany:").split(":")
        return not any(job.number in numbers or job.array in numbers for job in self.alive())

    def _start(self, job: Job) -> None:
        job.state, job.started, job.preempted, job.becomes = "RUNNING", self.hub.now, None, ""
        shell = job.shell = self.begin_job(job)
        job.head = None
        shell.when_over(lambda: self._shell_ended(job, shell))
        start = job.started
        warn, limit = job.limit_s - 120.0, job.limit_s
        self.hub.after(max(1.0, warn), lambda: self._if_same(job, start, lambda: self.signal(job, 12)))
        self.hub.after(limit, lambda: self._if_same(job, start, lambda: self.terminate(job, "TIMEOUT")))

    def _if_same(self, job: Job, start: float, act: Callable[[], None]) -> None:
        if job.started == start and job.state in ("RUNNING", "SUSPENDED"):
            act()

    def signal(self, job: Job, number: int) -> None:
        if job.head:
            job.head.hear(number)

    def terminate(self, job: Job, becomes: str, grace_s: float = KILL_WAIT_S) -> None:
        """Tell a job to end, and kill it after its grace."""
        if job.state == "PENDING":
            self._over(job, becomes, 0)
            return
        job.becomes = becomes
        start = job.started
        self.resume(job)
        self.signal(job, 15)
        self.hub.after(grace_s, lambda: self._if_same(job, start, lambda: job.shell and job.shell.kill()))

    def preempt(self, job: Job, mode: str, grace_s: float) -> None:
        """Take a job's node away."""
        job.preempted = self.hub.now
        if mode == "SUSPEND":
            job.state = "SUSPENDED"
            for process in self.processes_of(job):
                process.freeze()
        else:
            self.terminate(job, "REQUEUED" if mode == "REQUEUE" and job.may_requeue else "PREEMPTED", grace_s)

    def resume(self, job: Job) -> None:
        if job.state == "SUSPENDED":
            job.state = "RUNNING"
            for process in self.processes_of(job):
                process.thaw()

    def processes_of(self, job: Job) -> list[Process]:
        mark = f"{job.number}.{job.restarts}@"
        return [one for one in self.hub.processes.values() if one.name.startswith(mark)]

    def lose_node(self, name: str, *, processes_live: bool, after_s: float) -> None:
        """Cut a node off; its processes may live on, and what ran there is given up once Slurm notices."""
        node = self.nodes[name]
        lost = [(job, job.started) for job in self.alive() if job.node == name]
        if not processes_live:
            node.is_up = False
        for job, _ in lost:
            for process in [] if processes_live else self.processes_of(job):
                process.kill()
        for job, start in lost:
            self.hub.after(after_s, lambda job=job, start=start: self._given_up(job, start))

    def _given_up(self, job: Job, start: float) -> None:
        if job.started == start and job.state in ("RUNNING", "SUSPENDED", "COMPLETING") and job.node:
            job.shell = None  # what it says later counts for nothing
            self._over(job, "NODE_FAIL_REQUEUED" if job.may_requeue else "NODE_FAIL", 1)

    def requeue(self, job: Job) -> None:
        """Put a job back into the queue, as its owner asked."""
        job.becomes = "REQUEUED"
        if job.state == "PENDING":
            return
        if job.shell:
            shell = job.shell
            self.hub.after(1.0, shell.kill)

    def _shell_ended(self, job: Job, shell: Process) -> None:
        if job.shell is not shell:
            return
        for process in self.processes_of(job):
            process.kill()
        code = shell.code or 0
        if not self.nodes[job.node].is_up:
            return  # Slurm has not heard of it
        self._over(job, job.becomes or ("COMPLETED" if code == 0 else "FAILED"), code)

    def _over(self, job: Job, state: str, code: int) -> None:
        late = self.hub.now + self.sees_late()
        word = "NODE_FAIL" if state == "NODE_FAIL_REQUEUED" else state
        if job.node or state != "REQUEUED":
            self.accounting.append(Start(job.number, job.name, word, code, job.node, self.hub.now, late))
        if state in ("REQUEUED", "NODE_FAIL_REQUEUED"):
            job.state, job.node, job.restarts, job.becomes = "PENDING", "", job.restarts + 1, ""
            job.begin, job.shell = self.hub.now + REQUEUE_S, None
            self.hub.at(job.begin, self.schedule)
            return
        job.state, job.ended, job.code, job.node, job.shell = state, self.hub.now, code, "", None
        job.reason = "None"

    def crash(self, seconds: float) -> None:
        """Kill slurmctld: what was submitted in its last seconds is forgotten, and the numbers are used again."""
        since = self.hub.now - seconds
        lost = [job for job in self.jobs.values() if job.submitted > since and job.state == "PENDING"]
        for job in lost:
            del self.jobs[job.number]
        left = [int(job.array) for job in self.jobs.values()]
        if lost:
            self.next_number = max(left, default=0) + 1

    def known(self, numbers: Iterable[str]) -> list[Job]:
        """Return the jobs of some numbers, of arrays all elements."""
        wanted = {*numbers}
        return [job for job in self.jobs.values() if {job.number, job.array} & wanted]


def hosts(expression: str) -> list[str]:
    """Spell out `n1,n2`."""
    return [name for name in re.split(",", expression) if name]
