"""A short job that checks a node, with the same flags, setup and Python as the jobs that train."""

import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from orchestration.checkup import folder, software
from orchestration.checkup.finding import Finding, Look, Verdict, fault, findings_of, good, note
from orchestration.machine import files, provenance
from orchestration.on_slurm import batch, cluster, commands, guarded_shell, sbatch_flags
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, SlurmError, SlurmRefusal
from orchestration.on_slurm.resources import Resources
from orchestration.runs.folders import LaunchFolder

MINUTES = 10
"""Importing torch and Ray takes minutes where their files come from a server that has not read them lately."""
WAIT_S = 900.0
POLL_S = 2.0
GONE_S = 20.0
"""A file of a node may be seen here so long after its job has ended."""
LEAVES_S = 60.0
"""What ends a job may take so long on its node; after that it is cancelled."""
_WORD, _ANSWER = "word", "answer.json"


@dataclass(frozen=True, slots=True)
class NodeLook:
    """The checks that the job makes."""

    folder: str
    word: str

    def __call__(self) -> None:
        """Write what is found on this node into the folder."""
        place = Path(self.folder)
        looks: list[tuple[str, Look]] = [
            ("runs folder", partial(self._sees, place)),
            ("clock", partial(folder.clock, place)),
            ("torch", software.torch),
            ("Ray", software.ray),
            ("shared memory", folder.shared_memory),
            ("temporary files", folder.temporary_folder),
        ]
        found = [asdict(one) for subject, look in looks for one in findings_of(subject, look)]
        files.replace(place / _ANSWER, json.dumps({"host": socket.gethostname(), "findings": found}))

    def _sees(self, place: Path) -> Iterator[Finding]:
        if (place / _WORD).read_text(encoding="utf-8") == self.word:
            yield good("runs folder", "is seen")


def from_a_node(config: ClusterConfig, runs: Path) -> Iterator[Finding]:
    """Submit the job, wait for its answer, and yield what it found; nothing of it stays."""
    place = Path(tempfile.mkdtemp(prefix=".rankmatch-doctor-", dir=folder.nearest(runs.resolve())))
    name, is_over = f"rankmatch-doctor-{place.name[-8:]}", False
    try:
        (place / _WORD).write_text(place.name, encoding="utf-8")
        try:
            job = _batch(config, name).submit([NodeLook(str(place), place.name)], place)
        except SlurmError as error:
            is_over = isinstance(error, SlurmRefusal)  # else the job may be in the queue
            yield fault("job", f"sbatch does not take it: {error}", "every launch on this site", "the site's file")
            return
        is_over = yield from _answer(job, place)
    finally:
        if not is_over:
            _cancel(name)
        shutil.rmtree(place, ignore_errors=True)
        if place.exists():
            sys.stderr.write(f"what the doctor's job wrote could not be removed and stays: {place}\n")


def _cancel(name: str) -> None:
    """End the job by its name, which no other has: its number may not be known yet."""
    try:
        commands.cancel_all(name)
    except SlurmError as error:
        sys.stderr.write(f"the doctor's job may still be in the queue, scancel --name={name} ends it: {error}\n")


def _batch(config: ClusterConfig, name: str) -> batch.Batch:
    gpus = 0 if config.gpu_flag == "none" else 1
    minutes = min(MINUTES, config.max_time_min or MINUTES)
    asked = Resources(1, config.cpus_per_worker, gpus, config.mem_gb_per_worker, minutes)
    flags = sbatch_flags.training_flags(config, asked)
    flags.pop("signal", None)  # before so short a limit it would come at once, and submitit ends what runs then
    exports = {"PYTHONPATH": str(provenance.ROOT), "PYTHONSAFEPATH": "1"}
    setup = ["export SLURM_EXPORT_ENV=ALL", *cluster.shell_setup(config, exports)]
    cpus = [f"--cpus-per-task={flags['cpus-per-task']}"] if "cpus-per-task" in flags else []
    return batch.Batch(
        name=name,
        python=cluster.python_command(config, sys.executable),
        flags=flags,
        setup=guarded_shell.before(setup),
        teardown=guarded_shell.after(),
        srun=[*cpus, *cluster.srun_words(config)],
    )


def _answer(job: Job, place: Path) -> Generator[Finding, None, bool]:
    """Yield what the job found; return whether it has ended or is about to."""
    deadline, over_since, waits_for = time.monotonic() + WAIT_S, None, ""
    while time.monotonic() < deadline:
        if (place / _ANSWER).exists():
            told = files.read_json(place / _ANSWER, ("host", "findings"))
            yield good("job", f"{job} ran on {told['host']}")
            yield from (_on(told["host"], found) for found in told["findings"])
            return _has_left(job)
        try:
            waiting = commands.queue().get(job)
        except SlurmError as error:  # nothing is known of the job; the next look may be answered
            waits_for = str(error)
        else:
            waits_for = waiting.reason if waiting else ""
            over_since = None if waiting else over_since or time.monotonic()
        if over_since and time.monotonic() - over_since > GONE_S:
            yield fault(
                "job",
                f"{job} ended without an answer; it printed: {_log(place)}",
                "every job of this site that trains",
                "modules, setup, python or container of the site's file",
            )
            return True
        time.sleep(POLL_S)
    why = f" ({waits_for})" if waits_for else ""
    yield note("job", f"{job} has not run within {WAIT_S / 60:.0f} minutes{why} and is cancelled", "try again later")
    return False


def _has_left(job: Job) -> bool:
    """Wait until a job that has answered is out of the queue: until then it writes into its folder."""
    deadline = time.monotonic() + LEAVES_S
    while time.monotonic() < deadline:
        with suppress(SlurmError):  # nothing is known of the job; the next look may be answered
            if job not in commands.queue():
                return True
        time.sleep(POLL_S / 4)
    return False


def _on(host: str, found: dict[str, str]) -> Finding:
    return Finding(
        Verdict(found["verdict"]), f"{found['subject']} on {host}", found["text"], found["breaks"], found["mend"]
    )


def _log(place: Path) -> str:
    logs = LaunchFolder(place).job_logs()
    lines = [line for path in logs for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "nothing"
