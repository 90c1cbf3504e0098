"""One try at training a cell: its owner, what happened in it, its rows, and the result that it may publish."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestration import files, system_metrics, unpredicted
from orchestration.damage import DamagedFileError, tell
from orchestration.epoch_lines import epoch_line
from orchestration.failures import AttemptEnd, FailureClass, known_class
from orchestration.fields import COUNT, DATE, NUMBER, TEXT, Fields
from orchestration.recorder import EPOCH_FIELDS, EPOCHS, SCHEMA, STEPS, Recorder, Row, read_steps
from rankmatch.durable import sync_file, sync_folder

CONFIG, AXES, RESULT = "config.yaml", "axes.json", "result.json"
OWNER, EVENTS, LOG = "owner.json", "events.jsonl", "log"
ENVIRONMENT = "environment"
"""The event that tells what the training process has."""
_PROVENANCE = {"commit": TEXT, "host": TEXT, "split_sha256": TEXT.or_null(), "data_fingerprint": TEXT.or_null(),
               "num_gpus": COUNT.or_null()}  # fmt: skip
_EACH = Fields({}, _PROVENANCE).kind("what an attempt was made with")
_MADE_WITH = "what it was made with"
_OF_PROVENANCE = {**_PROVENANCE, "attempts": _EACH.listed()}
OF_RESULTS_PROVENANCE = Fields({"commit": TEXT}, _OF_PROVENANCE).kind(f"{_MADE_WITH}, with its commit")
_OF_SLURM = Fields({}, {"job": TEXT, "node": TEXT, "nodes": TEXT, "name": TEXT, "restart": COUNT}).kind(
    "a job of Slurm"
)
_OF_OWNER = Fields(
    {"host": TEXT, "pid": COUNT, "process_started": COUNT.or_null(), "started": DATE, "commit": TEXT},
    {
        "pid_namespace": TEXT,
        "campaign": TEXT,
        "provenance": Fields({}, _OF_PROVENANCE).kind(_MADE_WITH),
        "slurm": _OF_SLURM,
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
_WITHOUT_OWNER = "the launch command resumes the cell from its newest checkpoint"


class AlreadyPublished(Exception):  # noqa: N818
    """The cell has a result, and there is only one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at training a cell; the process that claimed it is the only one to write there."""

    path: Path

    @property
    def number(self) -> int:
        """The place in the order of attempts, from 1."""
        return int(self.path.name)

    def owner(self) -> Row:
        """Return who claimed it.

        Raises:
            DamagedFileError: It cannot be told.
        """
        return files.read_json(self.path / OWNER, _OF_OWNER, _WITHOUT_OWNER)

    def known_owner(self) -> Row:
        """Return who claimed it; nothing, with a warning, where it cannot be told."""
        try:
            return self.owner()
        except DamagedFileError as error:
            tell(error)
            return {}

    def event(self, kind: str, /, **fields: Any) -> None:  # noqa: ANN401 (whatever JSON can hold)
        """Write down that something happened: `started`, `stopped`, `failed`, ..."""
        files.append_row(self.path / EVENTS, {"event": kind, "time": time.time(), **fields})

    def say(self, text: str) -> None:
        """Add a line to its log, to which the training process prints, too."""
        line = f"{datetime.now():%H:%M:%S}  {text}\n".encode()
        with suppress(OSError):  # the log informs; what counts stands in files whose writers raise
            handle = os.open(self.path / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)

    def events(self) -> list[Row]:
        """Return what happened, in order."""
        return files.read_lines(self.path / EVENTS, _OF_EVENT)

    def environment(self) -> Row:
        """Return what the training process said of its device and libraries; nothing before it began."""
        found: Row = next((event for event in reversed(self.events()) if event["event"] == ENVIRONMENT), {})
        return {name: value for name, value in found.items() if name not in ("event", "time")}

    def system(self) -> dict[int, list[Row]]:
        """Return the rows of what each worker took of its machine."""
        found = {int(path.stem.partition("-")[2]): path for path in self.path.glob(system_metrics.PATTERN)}
        return {worker: files.read_lines(path, ("time",)) for worker, path in sorted(found.items())}

    def epochs(self) -> list[Row]:
        """Return its epoch rows; `RunFolder.epochs` leaves out those that a later attempt repeats."""
        return files.read_lines(self.path / EPOCHS, EPOCH_FIELDS)

    def first_step(self, events: Sequence[Row] | None = None) -> int | None:
        """Return how many steps were behind it when it started; None before it started.

        Args:
            events: What happened, where that is known already.
        """
        started = self._started(events)
        if "step" in started:
            return int(started["step"])
        first = self._first_epoch()
        steps: list[int] = [] if first is None else read_steps(self.path / STEPS)["step"].to_pylist()
        return first if first is None else min([first, *steps[:1]])

    def first_epoch_row(self) -> int | None:
        """Return the lowest step that an epoch row of its own may have; of an epoch it only evaluates, one less."""
        started = self._started()
        if "step" in started:
            return int(started["step"]) - bool(started.get("evaluates"))
        return self._first_epoch()

    def _started(self, events: Sequence[Row] | None = None) -> Row:
        known = self.events() if events is None else events
        return next((event for event in known if event["event"] == "started"), {})

    def _first_epoch(self) -> int | None:
        """Return the step of its first epoch row: where the line is damaged that says with which step it began."""
        first = next(iter(self.epochs()), None) if (self.path / EPOCHS).exists() else None
        return None if first is None else int(first["step"])

    def end(
        self, next_step: int | None = None, owner: Row | None = None, events: Sequence[Row] | None = None
    ) -> AttemptEnd:
        """Return how it ended, as far as it was written down.

        Args:
            next_step: Where the next attempt began; None: none has, and its newest checkpoint says where one would.
            owner: Who claimed it, where that is known already.
            events: What happened, where that is known already.
        """
        owner, events = self.known_owner() if owner is None else owner, self.events() if events is None else events
        first, last = self.first_step(events), events[-1] if events else {}
        step = next_step if next_step is not None else self.saved_step()
        step = (first or 0) if step is None else step
        return AttemptEnd(
            kind=known_class(last.get("kind", FailureClass.LOST)),
            first_step=step if first is None else first,  # one that never started left nothing
            last_step=step,
            node=node_of(owner, events),
            nodes=owner.get("slurm", {}).get("nodes", ""),
            host=trained_on(owner, events),
            time=self._ended(last),
            noted=last["time"] if "kind" in last else 0.0,
            is_told="kind" in last,
        )

    def saved_step(self) -> int | None:
        """Return the step of its newest checkpoint, by its name alone: a look into each takes a second a gigabyte."""
        found = [path.parent.name.split("_")[1] for path in self.path.glob("checkpoints/step_*/manifest.json")]
        return max((int(word) for word in found if word.isdigit()), default=None)

    def log_tail(self, num_lines: int = 40) -> str:
        """Return the last lines that it printed."""
        path = self.path / LOG
        return "\n".join(path.read_text(errors="replace").splitlines()[-num_lines:]) if path.is_file() else ""

    def busy_s(self) -> float:
        """Return the seconds from its begin to its end, or to what it wrote last."""
        begun = self.begun()
        return max(0.0, self.ended() - begun) if begun is not None else 0.0

    def ended(self) -> float:
        """Return when it ended, in seconds since 1970, or where that is not written down, when it wrote last."""
        return self._ended(files.read_last_line(self.path / EVENTS, _OF_EVENT) or {})

    def _ended(self, last: Row) -> float:
        """Return when it ended by its last event; whoever found an end out later wrote down when it was."""
        return float(last.get("ended") or last["time"]) if "kind" in last else last_write(self.path)

    def begun(self) -> float | None:
        """Return when it was claimed, in seconds since 1970; None where that cannot be told."""
        started = self.known_owner().get("started")
        return None if started is None else datetime.fromisoformat(started).timestamp()

    def recorder(self, class_names: Sequence[str] = ()) -> Recorder:
        """Open what `rankmatch.fit` reports to; to be closed, or used in a `with`, for the last step rows."""
        return Recorder(self.path, self.superseded, self._teller(class_names))

    def _teller(self, class_names: Sequence[str]) -> Callable[[Row], None]:
        """Return what writes an epoch into the log; the first that lacks a class says what to look at, too."""
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
        """Tell whether an attempt with a higher number exists."""
        return (self.path.with_name(str(self.number + 1)) / OWNER).exists()

    def publish(self, result: Mapping[str, Any]) -> None:
        """Make this the cell's result, for good.

        Raises:
            AlreadyPublished: The cell has one.
        """
        owner = self.known_owner()
        known = {"commit": owner.get("commit", ""), **owner.get("provenance", {}), **result.get("provenance", {})}
        content = {"schema": SCHEMA, "attempt": self.number, **result, "provenance": known}
        path = self.path.parents[1] / RESULT
        for name in (CONFIG, AXES):  # a launch did not wait for these, with thousands at once
            with suppress(FileNotFoundError):
                sync_file(path.with_name(name))
        text = files.to_text(content)
        try:
            files.publish(path, text)
        except FileExistsError:
            if path.read_text(encoding="utf-8") != text:
                raise AlreadyPublished(f"{path} is there already") from None
            sync_folder(path.parent)  # its own: an earlier call put it there and could not wait for the disk


def with_limits(attempts: Sequence[Attempt], *, of_epochs: bool = False) -> list[tuple[Attempt, float]]:
    """Pair each attempt with the step at which a later one began: from there on its rows are repeated."""
    limit, pairs = math.inf, []
    for attempt in reversed(attempts):
        pairs.append((attempt, limit))
        first = attempt.first_epoch_row() if of_epochs else attempt.first_step()
        limit = limit if first is None else min(limit, first)
    return pairs[::-1]


def trained_on(owner: Row, events: Sequence[Row]) -> str:
    """Return the host of a training; under a Ray of several nodes it is not that of the owner, who launched it."""
    return str(next((event["host"] for event in events if "host" in event), owner.get("host", "")))


def node_of(owner: Row, events: Sequence[Row]) -> str:
    """Return the node of a training as its scheduler calls it, which need not be how the node calls itself."""
    named = next((event["node"] for event in events if event.get("node")), owner.get("slurm", {}).get("node"))
    return str(named or trained_on(owner, events))


def last_write(folder: Path) -> float:
    """Return when something in a folder was last written, in seconds since 1970."""
    times = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a draft that was just renamed
                times.append(entry.stat().st_mtime)
    return max(times)
