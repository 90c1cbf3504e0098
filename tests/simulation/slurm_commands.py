"""Slurm's commands as the simulated Slurm answers them; whether it answers at all, `weather.py` says."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from orchestration_fakes import flags
from simulation.slurm_model import REMEMBERED_S, Job, Slurm, hosts


class Refused(Exception):  # noqa: N818
    """The command fails, with these words."""


def answer(slurm: Slurm, words: Sequence[str]) -> str:
    """Return what a command prints.

    Raises:
        Refused: It fails.
    """
    program, *rest = words
    options = {}
    for word in rest:
        key, mark, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            options[key] = value if mark else "yes"
    plain = [word for word in rest if not word.startswith("--")]
    text = _PROGRAMS[program](slurm, options, plain)
    slurm.schedule()
    return text


def _squeue(slurm: Slurm, options: dict[str, str], plain: Sequence[str]) -> str:
    names = options["name"].split(",") if "name" in options else None
    states = options.get("states", "").split(",")
    now = slurm.hub.now
    found = [
        job for job in slurm.jobs.values()
        if (names is None or job.name in names)
        and (job.is_alive or ("all" in states and job.ended is not None and now - job.ended < REMEMBERED_S))
        and (states in ([""], ["all"]) or job.state in states)
    ]  # fmt: skip
    return "".join(f"{_formatted(job, options['format'])}\n" for job in found)


def _formatted(job: Job, shape: str) -> str:
    excluded = ",".join(sorted(job.excluded)) or "(null)"
    fields = {"%i": job.number, "%A": job.array, "%F": job.array, "%T": job.state, "%N": job.node, "%r": job.reason,
              "%Q": "0" if job.is_held else "1", "%x": excluded, "%j": job.name}  # fmt: skip
    return "|".join(fields[part] for part in shape.split("|"))


def _sacct(slurm: Slurm, options: dict[str, str], plain: Sequence[str]) -> str:
    rows = [row for row in slurm.accounting if row.seen_from <= slurm.hub.now]
    if "name" in options:
        rows = [row for row in rows if row.name == options["name"]]
    else:
        arrays = options["jobs"].split(",")
        rows = [row for row in rows if row.number.partition("_")[0] in arrays]
    if options["format"] == "JobID":
        return "".join(f"{row.number}\n" for row in rows)
    return "".join(
        f"{row.number}|{row.state}|{_exit_code(row.code)}|{row.node or 'None assigned'}|{_time(row.end)}|{row.name}\n"
        for row in rows
    )


def _exit_code(code: int) -> str:
    return f"0:{-code}" if code < 0 else f"{code}:0"


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%dT%H:%M:%S")


def _scontrol(slurm: Slurm, options: dict[str, str], plain: Sequence[str]) -> str:
    if plain[0] == "update":
        return _update(slurm, dict(word.split("=", 1) for word in plain[1:]))
    if plain[0] == "requeue":
        for job in _of(slurm, plain[1]):
            slurm.requeue(job)
        return ""
    if plain[1] == "config":
        return "ClusterName             = here\nMaxArraySize            = 1001\n"
    if plain[1] == "hostnames":
        return "".join(f"{name}\n" for name in hosts(plain[2]))
    if plain[1] == "partition":
        return "PartitionName=main Default=YES MaxTime=UNLIMITED QoS=N/A\n"
    return "".join(_described(slurm, job) for job in _of(slurm, plain[2]))


def _of(slurm: Slurm, number: str) -> list[Job]:
    now = slurm.hub.now
    found = [job for job in slurm.known([number]) if job.ended is None or now - job.ended < REMEMBERED_S]
    if not found:
        raise Refused("slurm_load_jobs error: Invalid job id specified")
    return found


def _described(slurm: Slurm, job: Job) -> str:
    array = f" ArrayJobId={job.array} ArrayTaskId={job.number.partition('_')[2]}" if "_" in job.number else ""
    end = job.ended if job.ended is not None else job.started + job.limit_s
    state = "COMPLETING" if job.state == "RUNNING" and job.becomes else job.state
    preempted = _time(job.preempted) if job.preempted else "None"
    return (
        f"JobId={job.array}{array} JobName={job.name} JobState={state} ExitCode={_exit_code(job.code)} "
        f"NodeList={job.node} Restarts={job.restarts} EndTime={_time(end)} StartTime={_time(job.started)} "
        f"PreemptTime={preempted}\n"
    )


def _update(slurm: Slurm, fields: dict[str, str]) -> str:
    for number in fields["JobId"].split(","):
        found = [job for job in slurm.known([number]) if job.is_alive]
        if not found:
            raise Refused("Invalid job id specified")
        if "ArrayTaskThrottle" in fields:
            slurm.throttles[found[0].array] = int(fields["ArrayTaskThrottle"])
        pending = [job for job in found if job.state == "PENDING"]
        if not pending and "ArrayTaskThrottle" not in fields:
            raise Refused("Job is no longer pending execution")
        for job in pending:
            if "StartTime" in fields:
                job.begin = slurm.hub.now + float(fields["StartTime"].removeprefix("now").removeprefix("+") or 0)
                slurm.hub.at(job.begin, slurm.schedule)
            if "ExcNodeList" in fields:
                job.excluded = frozenset(filter(None, fields["ExcNodeList"].split(",")))
    return ""


def _sbatch(slurm: Slurm, options: dict[str, str], plain: Sequence[str]) -> str:
    begin_s = float(options.get("begin", "now").removeprefix("now").removeprefix("+") or 0)
    after = options.get("dependency", "") or flags(Path(plain[-1]).read_text()).get("dependency", "").strip("'")
    if str(slurm.next_number) in after.removeprefix("afterany:").split(":"):  # a number that was given before
        raise Refused("sbatch: error: Batch job submission failed: Job dependency problem")
    return slurm.submit(Path(plain[-1]), begin_s, after) + "\n"


def _scancel(slurm: Slurm, options: dict[str, str], plain: Sequence[str]) -> str:
    for job in slurm.alive():
        is_meant = job.name == options["name"] if "name" in options else {job.number, job.array} & {*plain}
        if is_meant and options.get("state", job.state) == job.state:
            slurm.terminate(job, "CANCELLED")
    return ""


def _sinfo(slurm: Slurm, options: dict[str, str], plain: Sequence[str]) -> str:
    states = {True: "idle", False: "down*"}
    return "".join(
        f"{node.name}|64|256000|gpu:a100:4(S:0-1)|avx512|{states[node.is_up]}|main*\n" for node in slurm.nodes.values()
    )


def _sacctmgr(slurm: Slurm, options: dict[str, str], plain: Sequence[str]) -> str:
    return ""


Program = Callable[[Slurm, dict[str, str], Sequence[str]], str]
_PROGRAMS: dict[str, Program] = {
    "squeue": _squeue, "sacct": _sacct, "scontrol": _scontrol, "sbatch": _sbatch, "scancel": _scancel,
    "sinfo": _sinfo, "sacctmgr": _sacctmgr,
}  # fmt: skip
