"""One attempt at training a cell: its owner, events and rows, and the result that it may publish."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestration.machine import clock, files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import COUNT, DATE, FLAG, NUMBER, TEXT, Fields
from orchestration.machine.image import DIGEST, IMAGE
from orchestration.runs import unpredicted
from orchestration.runs.epoch_lines import epoch_line
from orchestration.runs.failures import AttemptEnd, FailureClass, known_class
from orchestration.runs.folders import AttemptFolder, CellFolder
from orchestration.runs.recorder import EPOCH_FIELDS, SCHEMA, Recorder, Row, read_steps
from orchestration.runs.requests import OF_REQUEST, Request
from rankmatch import run_files
from rankmatch.durable import sync_file, sync_folder

ENVIRONMENT = "environment"
"""The event that records the environment of the training process."""
_PROVENANCE = {"commit": TEXT, "host": TEXT, "split_sha256": TEXT.or_null(), "data_fingerprint": TEXT.or_null(),
               "num_gpus": COUNT.or_null(), "grid": TEXT, IMAGE: TEXT, DIGEST: TEXT}  # fmt: skip
_EACH = Fields({}, _PROVENANCE).kind("what an attempt was made with")
_MADE_WITH = "what it was made with"
_OF_PROVENANCE = {**_PROVENANCE, "attempts": _EACH.listed()}
OF_RESULTS_PROVENANCE = Fields({"commit": TEXT}, _OF_PROVENANCE).kind(f"{_MADE_WITH}, with its commit")
_OF_SLURM = Fields({"job": TEXT}, {"node": TEXT, "nodes": TEXT, "name": TEXT, "restart": COUNT}).kind(
    "a job of Slurm, with its number"
)
_OF_OWNER = Fields(
    {"host": TEXT, "pid": COUNT, "process_started": COUNT.or_null(), "started": DATE, "commit": TEXT},
    {
        "pid_namespace": TEXT,
        "campaign": TEXT,
        "grid": TEXT,
        "provenance": Fields({}, _OF_PROVENANCE).kind(_MADE_WITH),
        "slurm": _OF_SLURM,
        "asked": OF_REQUEST,
    },
)
_OF_EVENT = Fields(
    {"event": TEXT, "time": NUMBER},
    {
        "step": COUNT,
        "kind": TEXT,
        "message": TEXT,
        "host": TEXT,
        "node": TEXT.or_null(),
        "num_gpus": COUNT.or_null(),
        "ended": NUMBER,
    },
)
_OF_BAD_STEP = Fields({"step": COUNT, "leave_out": FLAG})
_WITHOUT_OWNER = "the launch command resumes the cell from its newest checkpoint"


class AlreadyPublished(Exception):  # noqa: N818
    """The cell already has a result, and there can be only one."""


@dataclass(frozen=True, slots=True)
class Attempt(AttemptFolder):
    """One attempt at training a cell; only the process that claimed it writes there."""

    @property
    def number(self) -> int:
        """Its number, counted from 1."""
        return int(self.path.name)

    def owner(self) -> Row:
        """Return who claimed it.

        Raises:
            DamagedFileError: The file cannot be read.
        """
        return {**_owner_in(self.owner_file, files.read_bytes(str(self.owner_file)))}

    def known_owner(self) -> Row:
        """Return who claimed it; empty, with a warning, if the file cannot be read."""
        try:
            return self.owner()
        except DamagedFileError as error:
            tell(error)
            return {}

    def event(self, kind: str, /, **fields: Any) -> None:  # noqa: ANN401 (whatever JSON can hold)
        """Record an event: `started`, `stopped`, `failed`, ..."""
        files.append_row(self.events_file, {"event": kind, "time": clock.now(), **fields})

    def say(self, text: str) -> None:
        """Add a line to its log, to which the training process also prints."""
        line = f"{clock.local():%H:%M:%S}  {text}\n".encode(errors="replace")
        with suppress(OSError):  # the log is only informative; files that matter have writers that raise
            handle = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)

    def events(self) -> list[Row]:
        """Return the events in order."""
        return files.read_lines(self.events_file, _OF_EVENT)

    def environment(self) -> Row:
        """Return the training process's device and libraries; empty before it began."""
        found: Row = next((event for event in reversed(self.events()) if event["event"] == ENVIRONMENT), {})
        return {name: value for name, value in found.items() if name not in ("event", "time")}

    def system(self) -> dict[int, list[Row]]:
        """Return each worker's rows of machine use."""
        return {worker: files.read_lines(path, ("time",)) for worker, path in self.system_files().items()}

    def epochs(self) -> list[Row]:
        """Return its epoch rows, including those that a later attempt repeats (`RunFolder.epochs` drops them)."""
        return files.read_lines(self.epochs_file, EPOCH_FIELDS)

    def first_step(self, events: Sequence[Row] | None = None) -> int | None:
        """Return the number of steps done when it started; None before it started.

        Args:
            events: What happened, where that is known already.
        """
        started = self._started(events)
        if "step" in started:
            return int(started["step"])
        first = self._first_epoch()
        steps: list[int] = [] if first is None else read_steps(self.steps_file)["step"].to_pylist()
        return first if first is None else min([first, *steps[:1]])

    def first_epoch_row(self) -> int | None:
        """Return the lowest step of its epoch rows; one less if it begins with an evaluation."""
        started = self._started()
        if "step" in started:
            return int(started["step"]) - bool(started.get("evaluates"))
        return self._first_epoch()

    def _started(self, events: Sequence[Row] | None = None) -> Row:
        known = self.events() if events is None else events
        return next((event for event in known if event["event"] == "started"), {})

    def _first_epoch(self) -> int | None:
        """Return the step of its first epoch row, for use if the line with its first step is damaged."""
        first = next(iter(self.epochs()), None) if self.epochs_file.exists() else None
        return None if first is None else int(first["step"])

    def end(
        self, next_step: int | None = None, owner: Row | None = None, events: Sequence[Row] | None = None
    ) -> AttemptEnd:
        """Return how it ended, as far as recorded.

        Args:
            next_step: Where the next attempt began; None: there is none, so its newest checkpoint decides.
            owner: Its owner, if already read.
            events: Its events, if already read.
        """
        owner, events = self.known_owner() if owner is None else owner, self.events() if events is None else events
        first, last = self.first_step(events), events[-1] if events else {}
        step = next_step if next_step is not None else self.saved_step()
        step = (first or 0) if step is None else step
        return AttemptEnd(
            kind=known_class(last.get("kind", FailureClass.LOST)),
            first_step=step if first is None else first,  # an attempt that never started left nothing
            last_step=step,
            node=node_of(owner, events),
            nodes=owner.get("slurm", {}).get("nodes", ""),
            host=trained_on(owner, events),
            time=self._ended(last),
            noted=last["time"] if "kind" in last else 0.0,
            is_told="kind" in last,
            asked=Request.of_owner(owner),
            has_epoch=self._has_epoch(),
        )

    def _has_epoch(self) -> bool:
        with suppress(FileNotFoundError):
            return self.epochs_file.stat().st_size > 0
        return False

    def saved_step(self) -> int | None:
        """Return the step of its newest checkpoint by name only: verifying one takes a second per gigabyte."""
        return max(map(run_files.step_of, self.checkpoints()), default=None)

    def step_to_leave_out(self) -> int | None:
        """Return the step at which it ended, if the next attempt is to go on without it.

        Raises:
            DamagedFileError: The file cannot be read.
        """
        if not self.bad_step_file.exists():
            return None
        found = files.read_json(self.bad_step_file, _OF_BAD_STEP, "`rankmatch drop` the cell to train it again")
        return int(found["step"]) if found["leave_out"] else None

    def log_tail(self, num_lines: int = 40) -> str:
        """Return the last lines of its output, of a long one without reading it all."""
        path = self.log_file
        return "\n".join(files.read_end(path).splitlines()[-num_lines:]) if path.is_file() else ""

    def busy_s(self) -> float:
        """Return the seconds from its start to its end, or to its last write, both by one clock."""
        if (begun := self.begun()) is None:
            return 0.0
        last = files.read_last_line(self.events_file, _OF_EVENT) or {}
        own = last if not last.get("ended") else self._own_end()
        if "kind" in own and own["time"] >= begun:  # its node wrote both
            return float(own["time"]) - begun
        # The file server saw the claim, too, which nobody writes again: the node's clock may be ahead or behind.
        ended, claimed = float(last.get("ended") or last_write(self.path)), self.owner_file.stat().st_mtime
        return max(0.0, ended - (claimed if claimed <= ended else begun))  # a copy may be younger

    def _own_end(self) -> Row:
        """Return the end that it recorded itself, where others have recorded more since; nothing if it did not."""
        return next((event for event in self.events() if "kind" in event and not event.get("ended")), {})

    def ended(self) -> float:
        """Return when it ended, in seconds since 1970, or its last write if the end was not recorded."""
        return self._ended(files.read_last_line(self.events_file, _OF_EVENT) or {})

    def _ended(self, last: Row) -> float:
        """Return when it ended by its last event; an end that was found later is recorded with its own time.

        Where that is still to come, the clock of its node is wrong, and the file server's word counts.
        """
        if "kind" not in last:
            return last_write(self.path)
        time = float(last.get("ended") or last["time"])
        return time if time <= clock.now() else min(time, last_write(self.path))

    def begun(self) -> float | None:
        """Return when it was claimed, in seconds since 1970; None if that cannot be read."""
        started = self.known_owner().get("started")
        return None if started is None else datetime.fromisoformat(started).timestamp()

    def recorder(self, class_names: Sequence[str] = ()) -> Recorder:
        """Open the recorder for `rankmatch.fit`; close it, or use it in a `with`, to write the last step rows."""
        return Recorder(self.path, self.superseded, self._teller(class_names))

    def _teller(self, class_names: Sequence[str]) -> Callable[[Row], None]:
        """Return a function that logs an epoch; the first epoch without some class also logs advice."""
        has_advised = False

        def tell_epoch(row: Row) -> None:
            nonlocal has_advised
            self.say(epoch_line(row))
            if classes := unpredicted.of_row(row):
                advice = "" if has_advised else f"; {unpredicted.ADVICE}"
                self.say(f"warning: it {unpredicted.in_words(classes, class_names)}{advice}")
                has_advised = True

        return tell_epoch

    def superseded(self) -> bool:
        """Return whether an attempt with a higher number exists."""
        return CellFolder(self.cell_dir).attempt(self.number + 1).owner_file.exists()

    def publish(self, result: Mapping[str, Any]) -> None:
        """Publish the cell's final result.

        Raises:
            AlreadyPublished: The cell has one.
        """
        owner = self.known_owner()
        of_grid = {"grid": owner["grid"]} if "grid" in owner else {}
        known = {"commit": owner.get("commit", ""), **of_grid, **owner.get("provenance", {})}
        known |= result.get("provenance", {})
        content = {"schema": SCHEMA, "attempt": self.number, **result, "provenance": known}
        cell = CellFolder(self.cell_dir)
        path = cell.result_file
        for described in (cell.config_file, cell.axes_file):  # which the launch did not sync
            with suppress(FileNotFoundError):
                sync_file(described)
        text = files.to_text(content)
        try:
            files.publish(path, text)
        except FileExistsError:
            if path.read_text(encoding="utf-8") != text:
                raise AlreadyPublished(f"{path} is there already") from None
            sync_folder(cell.path)  # its own: an earlier call linked it but failed to sync


@lru_cache(maxsize=4096)
def _owner_in(path: Path, content: bytes) -> Row:
    """Take an owner from what was read of its file, which nobody changes: steps and `status` read it many times."""
    return files.json_of(path, content, _OF_OWNER, _WITHOUT_OWNER, is_shown=True)


def with_limits(attempts: Sequence[Attempt], *, of_epochs: bool = False) -> list[tuple[Attempt, float]]:
    """Pair each attempt with the step at which a later one began; from there its rows are repeated."""
    limit, pairs = math.inf, []
    for attempt in reversed(attempts):
        pairs.append((attempt, limit))
        first = attempt.first_epoch_row() if of_epochs else attempt.first_step()
        limit = limit if first is None else min(limit, first)
    return pairs[::-1]


def steps_to_leave_out(attempts: Sequence[Attempt]) -> list[int]:
    """Return the steps at which attempts ended for their followers to go on without them."""
    return [step for one in attempts if (step := one.step_to_leave_out()) is not None]


def trained_on(owner: Row, events: Sequence[Row]) -> str:
    """Return the host of a training; in a Ray of several nodes it differs from the owner's, where it was launched."""
    return str(next((event["host"] for event in events if "host" in event), owner.get("host", "")))


def node_of(owner: Row, events: Sequence[Row]) -> str:
    """Return the scheduler's name of a training's node, which may differ from the node's own name."""
    named = next((event["node"] for event in events if event.get("node")), owner.get("slurm", {}).get("node"))
    return str(named or trained_on(owner, events))


def last_write(folder: Path) -> float:
    """Return the time of the last write in a folder, in seconds since 1970."""
    times = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a draft that was just renamed
                times.append(entry.stat().st_mtime)
    return max(times)
