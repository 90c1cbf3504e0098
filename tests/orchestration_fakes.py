"""Slurm's commands without Slurm: squeue, sacct, scontrol and scancel at the one seam to them, sbatch as a program."""

import os
import re
import stat
from pathlib import Path

import pytest

from orchestration.on_slurm import commands
from orchestration.on_slurm.commands import SlurmError


class FakeSlurm:
    """What Slurm would know; tests change it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.queued: dict[str, tuple[str, str]] = {}
        """State and node of each job."""
        self.accounted: dict[str, tuple[str, str]] | None = {}
        """State and node; None where accounting is switched off."""
        self.ended: dict[str, str] = {}
        """When jobs ended, as Slurm writes it."""
        self.lately: dict[str, str] = {}
        """State of elements of arrays that have ended, as slurmctld knows it for some minutes."""
        self.starts: list[tuple[str, str, str]] = []
        """Job, state and node of starts of jobs that were requeued."""
        self.node_has = "256000|gpu:a100:4(S:0-1)"
        """Its memory and GPUs, as sinfo writes them."""
        self.nodes = {f"n{number}": "idle" for number in range(10)}
        """State of each of the site's nodes, which have 64 CPUs, 256 GB and 4 GPUs."""
        self.features: dict[str, str] = {}
        """Of nodes that have more than the others' `avx512`."""
        self.names: dict[str, str] = {}
        """Numbers of the jobs of a name that is asked for."""
        self.strangers: dict[str, str] = {}
        """Names of jobs that have a number of one of ours."""
        self.reasons: dict[str, str] = {}
        """Why jobs wait."""
        self.held: set[str] = set()
        """The jobs that have no priority."""
        self.excluded: dict[str, str] = {}
        """Nodes that jobs which wait keep away from, beside what their scripts say."""
        self.users: dict[str, int] = {}
        """Whose jobs are not this user's."""
        self.controllers: dict[str, dict[str, str]] = {}
        """Of the jobs that wait to go on with a campaign, by number: their name, and what sbatch was given."""
        self.handed_in: list[str] = []
        """The numbers of all of them that there were."""
        self.throttles: dict[str, int] = {}
        """Of arrays, as scontrol was told."""
        self.cancelled: list[str] = []
        self.is_down = False
        self.max_array_size = 1001
        self.max_submit_jobs: dict[str, str] = {}
        """Of `user` and of `qos`, as sacctmgr writes it."""
        self.max_wall: dict[str, str] = {}
        """The same for the longest time limit."""
        self.partitions = "".join(
            f"PartitionName={name} Default={default} MaxTime=UNLIMITED QoS=N/A\n"
            for name, default in (("main", "YES"), ("gpu", "NO"), ("big", "NO"))
        )
        """As scontrol writes them."""

    def output(self, command: list[str]) -> str:
        if self.is_down:
            raise SlurmError(f"{command[0]} did not answer within 30 s")
        return {
            "squeue": self._squeue,
            "sacct": self._sacct,
            "sinfo": self._sinfo,
            "scontrol": self._scontrol,
            "scancel": self._scancel,
            "sacctmgr": self._sacctmgr,
        }[command[0]](command)

    def name_of(self, number: str) -> str:
        """The name that sbatch was given with a job."""
        if number in self.strangers:
            return self.strangers[number]
        if number in self.controllers:
            return self.controllers[number]["name"]
        script = self.folder / f"script.{number.partition('_')[0]}"
        return flags(script.read_text())["job-name"] if script.is_file() else "somebody-else's"

    @property
    def scripts(self) -> list[str]:
        """The scripts that sbatch was given, in order."""
        paths = sorted(self.folder.glob("script.*"), key=lambda path: int(path.suffix[1:]))
        return [path.read_text() for path in paths]

    def _squeue(self, command: list[str]) -> str:
        options = dict(word.removeprefix("--").split("=", 1) for word in command if "=" in word)
        if options["format"] == "%A":
            return "".join(f"{number}\n" for number, job in self.controllers.items() if job["name"] == options["name"])
        if options["format"] == "%F":
            return self.names.get(options["name"], "") or self._submitted_as(options["name"])
        if options["format"] == "%i" and "name" in options:
            return self.names.get(options["name"], "")
        if options["format"] == "%i":
            return "\n".join([*self.queued, *self.controllers])
        jobs = {
            job: row
            for job, row in {**dict.fromkeys(self.controllers, ("PENDING", "")), **self.queued}.items()
            if str(self.users.get(job, os.getuid())) in options.get("user", str(os.getuid())).split(",")
            and self.name_of(job) in options.get("name", self.name_of(job)).split(",")
        }
        return "".join(
            f"{job}|{state}|{node}|{self.reasons.get(job, 'None')}|{0 if job in self.held else 1}|"
            f"{self._excluded(job)}|{self.name_of(job)}\n"
            for job, (state, node) in jobs.items()
        )

    def _excluded(self, job: str) -> str:
        array = job.partition("_")[0]
        script = self.folder / f"script.{array}"
        asked = flags(script.read_text()).get("exclude", "").strip("'") if script.is_file() else ""
        return self.excluded.get(job, self.excluded.get(array, asked))

    def _submitted_as(self, name: str) -> str:
        found = [str(place) for place, script in enumerate(self.scripts, 1) if flags(script)["job-name"] == name]
        return "\n".join(found)

    def _sacct(self, command: list[str]) -> str:
        if self.accounted is None:
            raise SlurmError("sacct failed with exit code 1: Slurm accounting storage is disabled")
        rows = [*self.starts, *((job, state, node) for job, (state, node) in self.accounted.items())]
        names = [word.removeprefix("--name=") for word in command if word.startswith("--name=")]
        rows = [row for row in rows if not names or self.name_of(row[0]) in names]
        return "".join(
            f"{job}|{state}|1:0|{node}|{self.ended.get(job, 'Unknown')}|{self.name_of(job)}\n"
            for job, state, node in rows
        )

    def _sacctmgr(self, command: list[str]) -> str:
        return (self.max_wall if "MaxWall" in command[-1] else self.max_submit_jobs).get(command[4], "")

    def _sinfo(self, command: list[str]) -> str:
        return "".join(
            f"{name}|64|{self.node_has}|{self.features.get(name, 'avx512')}|{state}|main*\n"
            for name, state in self.nodes.items()
        )

    def submit_controller(self, script: Path, *, begin_s: int, after: str = "") -> str:
        """Take a controller as sbatch would; its numbers are not those of cells."""
        if self.is_down or (self.folder / "refuses").exists():
            raise SlurmError("sbatch failed with exit code 1: sbatch: error: Invalid account")
        number = str(9001 + len(self.handed_in))
        self.controllers[number] = {
            "name": flags(script.read_text())["job-name"],
            "begin": f"now+{max(1, begin_s)}",
            **({"dependency": f"afterany:{after}"} if after else {}),
        }
        self.handed_in.append(number)
        return number

    def _scontrol(self, command: list[str]) -> str:
        if "update" in command:
            number, (field, _, value) = command[-2].removeprefix("JobId="), command[-1].partition("=")
            if field == "ArrayTaskThrottle":
                self.throttles[number] = int(value)
            elif field == "ExcNodeList":
                self.excluded |= dict.fromkeys(number.split(","), value)
            else:
                self.controllers[number]["begin"] = value
            return ""
        if "hostnames" in command:
            return "\n".join(_hosts(command[-1]))
        if "partition" in command:
            return self.partitions
        if "job" in command:
            known = {job: state for job, state in self.lately.items() if job.partition("_")[0] == command[-1]}
            return "".join(
                f"JobId=99 ArrayJobId={command[-1]} ArrayTaskId={job.partition('_')[2]} JobName={self.name_of(job)} "
                f"JobState={state} ExitCode=0:125 NodeList=n1 EndTime={self.ended.get(job, 'Unknown')}\n"
                for job, state in known.items()
            )
        return f"ClusterName             = here\nMaxArraySize            = {self.max_array_size}\n"

    def _scancel(self, command: list[str]) -> str:
        names = [word.removeprefix("--name=") for word in command if word.startswith("--name=")]
        for number in [number for number, job in self.controllers.items() if job["name"] in names or number in command]:
            del self.controllers[number]
        self.cancelled += command[2:]
        return ""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "fake"
    folder.mkdir()
    write_programs(folder)
    fake = FakeSlurm(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(commands, "output", fake.output)
    monkeypatch.setattr(commands, "submit_script", fake.submit_controller)
    return fake


def write_programs(folder: Path) -> None:
    """Write an sbatch that keeps the scripts it is given, and an srun."""
    sbatch = f"""#!/bin/sh
n=$(($(ls {folder}/script.* 2>/dev/null | wc -l) + 1))
least=$(cat {folder}/refuses_cells 2>/dev/null)
if [ -e {folder}/refuses ] || [ -e {folder}/refuses_cells -a $n -ge ${{least:-1}} ]; then
  echo "sbatch: error: Invalid account" >&2; exit 1
fi
if [ -e {folder}/refuses_asking ] && grep -q -e "$(cat {folder}/refuses_asking)" "$2"; then
  echo "sbatch: error: Batch job submission failed: Requested node configuration is not available" >&2; exit 1
fi
if [ -e {folder}/silent ] || grep -q -e "$(cat {folder}/silent_asking 2>/dev/null || echo nothing-asks-this)" "$2"; then
  echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1
fi
cp "$2" {folder}/script.$n
env > {folder}/env.$n
cat {folder}/banner 2>/dev/null
echo "$n"
"""
    for name, text in (("sbatch", sbatch), ("srun", "#!/bin/sh\n")):
        path = folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IEXEC)


def _hosts(expression: str) -> list[str]:
    """Spell out `n1,n[3-4]`."""
    found = []
    for stem, inside in re.findall(r"([^,\[]+)(?:\[([^\]]+)\])?", expression):
        spans = [part.partition("-") for part in inside.split(",")] if inside else []
        found += [f"{stem}{place}" for first, _, last in spans for place in range(int(first), int(last or first) + 1)]
        found += [] if inside else [stem]
    return found


def flags(script: str) -> dict[str, str]:
    """Return the sbatch flags of a script."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.M))
