"""Repeat the beginning of a recorded training, or all of it, with its own code, and say what differs."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestration.grids import kept_lists
from orchestration.grids.cells import Cell, from_yaml, short_names_once
from orchestration.grids.values import read_settings
from orchestration.machine import announce, files, image, provenance
from orchestration.machine.image import DIGEST, IMAGE
from orchestration.mirror.store_uri import SECRET_VARIABLES
from orchestration.planning import preflight
from orchestration.reproducing import comparison, train_then
from orchestration.reproducing.code_then import code_of
from orchestration.reproducing.record import DATA, Record
from orchestration.runs.attempt import steps_to_leave_out
from orchestration.runs.folders import RunsFolder
from rankmatch.config import TrainConfig

EQUAL, DIFFERS = 0, 1
"""Exit codes; a ValueError, which ends in 2, says why it cannot be tried."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much to repeat, and with what."""

    num_steps: int = 20
    with_result: bool = False
    tolerance: float = 0.0
    """Relative difference of a loss that counts as none."""
    settings: Sequence[str] = ()
    """Changes to the execution, such as `data_root=FOLDER`."""
    repository: Path = field(default_factory=lambda: provenance.ROOT)


def reproduce(record: Record, wanted: Wanted, console: Console) -> int:
    """Repeat a training, and print what differs; return the exit code.

    Raises:
        ValueError: It cannot be tried: code or data are missing, or the code of then does not run here.
    """
    config, execution = _settings(record, wanted)
    recorded = comparison.due(record.losses, None if wanted.with_result else wanted.num_steps)
    if wanted.with_result:
        _refuse_result(record)
    with code_of(record, wanted.repository) as code, tempfile.TemporaryDirectory(prefix="rankmatch-again-") as made:
        with announce.doing(console, "checking the data"):
            others = list(_other_data(record, config, Path(made)))
        for line in (*_other_software(record, code), *others):
            announce.say(console, line)
        last_step = None if wanted.with_result else recorded[-1]["step"]
        with announce.doing(console, f"training with the code of commit {record.commit[:12]}"):
            again = _train(record, code, execution, last_step, Path(made))
    found = [*comparison.of_losses(recorded, again.losses, wanted.tolerance)]
    if wanted.with_result:
        found += comparison.of_results(record.folder.result() or {}, again.result, wanted.tolerance)
    for line in (*_other_torch(record, again), *(found or [_equal(recorded, wanted)])):
        announce.say(console, line)
    return DIFFERS if found or others else EQUAL


def _equal(recorded: Sequence[Mapping[str, Any]], wanted: Wanted) -> str:
    what = f"the {len(recorded)} recorded losses up to step {recorded[-1]['step']}"
    within = f" within a relative difference of {wanted.tolerance:g}" if wanted.tolerance else ""
    return f"equal: {what}{', and the result' if wanted.with_result else ''}{within}"


def _refuse_result(record: Record) -> None:
    if not record.folder.has_result():
        raise ValueError(f"--result must be given for a finished run; {record.folder.path.name} has no result")
    if len(record.codes) > 1:
        codes = ", then ".join(code[:12] for code in record.codes)
        raise ValueError(
            f"--result must be given for a run of one code; the attempts of {record.folder.path.name} had several "
            f"({codes}): without it, the first steps are compared"
        )


def _settings(record: Record, wanted: Wanted) -> tuple[TrainConfig, dict[str, Any]]:
    """Return the configuration as this code reads it, and what of its execution is different here."""
    config, names = from_yaml(record.folder.config()), short_names_once()
    execution: dict[str, Any] = {"trainer.num_workers": 1}
    if record.made.get("num_gpus") == 0:
        execution["trainer.device"] = "cpu"
    for key, value in read_settings(wanted.settings).items():
        if not names.get(key, "").startswith("execution."):
            raise ValueError(f"--set must leave the run what it is, as data_root=FOLDER does; got {key}")
        execution[names[key].removeprefix("execution.")] = value
    for name, value in execution.items():
        section: Any = config.execution
        *path, last = name.split(".")
        for part in path:
            section = getattr(section, part)
        setattr(section, last, value)
    before = config.execution.split_root
    kept_lists.use_copies([Cell(config, {})], record.folder.grid.path)
    if config.execution.split_root != before:
        execution["split_root"] = config.execution.split_root
    return config, execution


def _other_data(record: Record, config: TrainConfig, made: Path) -> Iterator[str]:
    cache, known = made / "seen", RunsFolder(record.folder.grid.runs.path).checked_dir
    if known.is_dir():  # read, so that no image is opened again, and never written
        shutil.copytree(known, cache)
    cell = Cell(config, {})
    now = preflight.check([cell], cache, lambda *_: None)[cell.signature].as_dict()
    for name, what in DATA.items():
        if (then := record.made.get(name)) and then != now.get(name):
            yield f"DIFFERS  {what}: {name} {str(then)[:12]} then, {str(now.get(name))[:12]} now"


def _other_software(record: Record, code: Path) -> Iterator[str]:
    if record.other_code_at is not None:
        yield (
            f"other    code: {record.codes[1][:12] or 'unknown'} from step {record.other_code_at} on, so losses are "
            "compared up to there"
        )
    made, now = record.made, {"Python": sys.version.split()[0], **provenance.versions()}
    then = {"Python": made.get("python"), **(made.get("packages") or {})}
    for name, version in then.items():
        if name != "rankmatch" and version and version != now.get(name):
            yield f"other    {name}: {version} then, {now.get(name) or 'none'} now"
    lock = provenance.lock_sha256(code)
    if made.get("lock_sha256") and made["lock_sha256"] != lock:
        yield f"other    requirements.lock: {made['lock_sha256'][:12]} then, {lock[:12] or 'none'} in the commit"
    here = image.of_this_process()
    if made.get(IMAGE) and (made.get(DIGEST) or made[IMAGE]) != (here.get(DIGEST) or here.get(IMAGE)):
        yield f"other    image: {made[IMAGE]} then, {here.get(IMAGE, 'none')} now"
    if made.get("device") and str(made["device"]) not in provenance.device():
        yield f"other    device: {made['device']} then, {provenance.device()} now"
    if (size := made.get("world_size") or 1) > 1:
        yield f"other    workers: {size} then, 1 now, so sums are rounded in another order"


def _other_torch(record: Record, again: "_Again") -> Iterator[str]:
    for name, now in again.software.items():
        if (then := record.made.get(name)) and then != now:
            yield f"other    build of torch: {name} {then} then, {now or 'none'} now"


@dataclass(slots=True)
class _Again:
    losses: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)


def _train(record: Record, code: Path, execution: Mapping[str, Any], last_step: int | None, made: Path) -> _Again:
    order, rows = made / "training.json", made / "rows.jsonl"
    files.replace(order, files.to_text({
        "code": str(code.resolve()), "config": record.folder.config(), "execution": dict(execution),
        "num_threads": record.made.get("num_threads") or 0, "last_step": last_step,
        "rows": str(rows), "run_dir": str(made / "run"), "left_out": steps_to_leave_out(record.folder.attempts()),
    }))  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    environment |= {"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-P", str(Path(train_then.__file__)), str(order)]
    done = subprocess.run(words, cwd=made, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    again = _Again()
    for line in rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []:
        row = json.loads(line)
        if "result" in row:
            again.result = row["result"]
        elif "step" in row:
            again.losses.append(row)
        else:
            again.software = row
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(
            f"the code of commit {record.commit[:12]} must train here; it ended with {done.returncode} after "
            f"{len(again.losses)} losses: {''.join(last) or 'it printed nothing'}"
        )
    return again
