"""A Slurm of some nodes: its queue, its accounting, and what it does to jobs; it draws nothing and decides nothing."""

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
    num_nodes: int = 1
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
    def nodes(self) -> list[str]:
        """The nodes that it has; the first one runs its script."""
        return hosts(self.node)

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
    _alive: list[Job] = field(default_factory=list)
    """Those that may have ended since somebody looked: one that has ended stays so."""
    throttles: dict[str, int] = field(default_factory=dict)
    accounting: list[Start] = field(default_factory=list)
    crashes_within_s: float = 0.0
    """Once something is submitted, slurmctld is killed, and forgets this much time; 0: it is not."""
    next_number: int = 1
    given_again: set[int] = field(default_factory=set)
    """Numbers that the next jobs get although earlier ones had them."""
    num_given_again: int = 0
    sees_late: Callable[[], float] = lambda: 1.0
    """How long accounting takes to learn of an end."""
    waits: Callable[[], float] = lambda: 0.0
    """How long a job that could begin waits for its turn."""

    def submit(self, script: Path, begin_s: float, after: str) -> str:
        """Take a script, as an array if it says so; return the number."""
        asked, number = flags(script.read_text()), str(self.next_number)
        self.next_number += 1
        self.num_given_again += int(number) in self.given_again
        last, _, most = asked.get("array", "").partition("-")[2].partition("%")
        numbers = [f"{number}_{place}" for place in range(int(last) + 1)] if "array" in asked else [number]
        self.throttles[number] = int(most or 1)
        for one in numbers:
            self.jobs[one] = Job(
                one, asked["job-name"], script, self.hub.now, self.hub.now + begin_s + self.waits(),
                after, limit_s=60.0 * int(asked["time"]),
                excluded=frozenset(filter(None, asked.get("exclude", "").strip("'").split(","))),
                may_requeue="no-requeue" not in asked, num_nodes=int(asked.get("nodes", "1")),
            )  # fmt: skip
            self._alive.append(self.jobs[one])
            self.hub.at(self.jobs[one].begin, self.schedule)
        if self.crashes_within_s:
            within_s, self.crashes_within_s = self.crashes_within_s, 0.0
            self.hub.after(within_s / 4, lambda: self.crash(within_s))
        return number

    def alive(self) -> list[Job]:
        self._alive = [job for job in self._alive if job.is_alive and self.jobs.get(job.number) is job]
        return self._alive

    def schedule(self) -> None:
        """Start what can start."""
        busy = {name: 0 for name in self.nodes}
        for job in self.alive():
            for name in job.nodes:
                busy[name] += not job.is_controller
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
            if len(free) < job.num_nodes:
                job.reason = "Resources"
                continue
            job.node = listed(sorted(free, key=lambda name: busy[name])[: job.num_nodes])
            for name in job.nodes:
                busy[name] += not job.is_controller
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
        kind, *numbers = after.split(":")
        if kind == "after":
            return not any({job.number, job.array} & {*numbers} and not job.started for job in self.alive())
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
        lost = [(job, job.started) for job in self.alive() if name in job.nodes]
        if not processes_live:
            node.is_up = False
        for job, _ in lost:
            for process in [] if processes_live else self.processes_of(job):
                if process.host == name:
                    process.kill()
        for job, start in lost:
            self.hub.after(after_s, lambda job=job, start=start: self._given_up(job, start, name))

    def _given_up(self, job: Job, start: float, lost: str) -> None:
        if job.started == start and job.state in ("RUNNING", "SUSPENDED", "COMPLETING") and job.node:
            job.shell = None  # what it says later counts for nothing
            for process in self.processes_of(job):
                if process.host != lost:
                    process.kill()
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
        if not all(self.nodes[name].is_up for name in job.nodes):
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
        before = self.next_number
        if lost:
            self.next_number = max(left, default=0) + 1
        self.given_again |= {*range(self.next_number, before)}

    def known(self, numbers: Iterable[str]) -> list[Job]:
        """Return the jobs of some numbers, of arrays all elements."""
        wanted = {*numbers}
        return [job for job in self.jobs.values() if {job.number, job.array} & wanted]


def hosts(expression: str) -> list[str]:
    """Spell out `n1`, or `n[1,3]`."""
    head, mark, places = expression.rstrip("]").partition("[")
    return [f"{head}{place}" for place in places.split(",")] if mark else [name for name in [expression] if name]


def listed(names: Iterable[str]) -> str:
    """Write nodes as Slurm does, `n1` or `n[1,3]`."""
    one, *more = sorted(names)
    return f"n[{','.join(name[1:] for name in (one, *more))}]" if more else one
