"""The files of a run: who trains it, what happened, its numbers and its result; safe to read at any moment.

Whatever is read by others is linked or renamed into place, or appended to in one write whose torn end readers drop.
See docs/run_folder.md for the files and their fields.
"""

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestration import checkpoints, description, files, made_with, unpredicted
from orchestration.attempt import (
    OF_RESULTS_PROVENANCE,
    OWNER,
    RESULT,
    AlreadyPublished,
    Attempt,
    last_write,
    trained_on,
    with_limits,
)
from orchestration.damage import DamagedFileError, tell
from orchestration.failures import AttemptEnd, FailureClass, known_class
from orchestration.fields import COUNT, NUMBER, Fields
from orchestration.patience import passes
from orchestration.processes import lives, process_start, this_process
from orchestration.recorder import EPOCH_FIELDS, EPOCHS, SCHEMA, STEPS, Row, read_steps
from rankmatch.durable import sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

LEASE_S = 600.0
"""An attempt on another host, or in another container, counts as ended when it has written nothing for so long."""
CELLS = "cells"
ATTEMPTS = "attempts"

Status = Literal["missing", "running", "interrupted", "failed", "done", "damaged", "unreadable"]
_FRACTION = NUMBER.or_null()
_OF_RESULT = Fields(
    {"attempt": COUNT, "step": COUNT, "num_steps": COUNT, "epoch": COUNT, "best_miou": _FRACTION,
     "last_miou": _FRACTION, "provenance": OF_RESULTS_PROVENANCE},
    {"num_epochs": COUNT.or_null(), "best_epoch": COUNT.or_null(), "num_present_classes": COUNT.or_null(),
     "duration_s": NUMBER, "gpu_duration_s": NUMBER, "best_class_iou": _FRACTION.listed().or_null(),
     "last_class_iou": _FRACTION.listed().or_null()},
)  # fmt: skip
_WITHOUT_RESULT = "restore it, or remove it to have the cell trained again"
_UNREADABLE = "nothing is done with the cell until it can be read"

_CELL_NAME = re.compile(r"[0-9a-f]{12}-")


class AttemptTaken(Exception):  # noqa: N818 (says what happened, as FileExistsError does not)
    """Somebody else claimed the attempt of this number."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """How the training of a cell stands, by its files."""

    status: Status
    num_attempts: int = 0
    step: int = 0
    """Number of steps done, as far as written down."""
    num_steps: int | None = None
    epoch: int = 0
    num_epochs: int | None = None
    miou: float | None = None
    best_miou: float | None = None
    commit: str = ""
    failure: str | None = None
    """Class and message of the failure, or of the verdict of a search, in one line."""
    host: str = ""
    """Where the newest attempt was."""
    job: str = ""
    """Slurm's job of the newest attempt."""
    failure_class: str | None = None
    """A value of `failures.FailureClass`."""
    duration_s: float = 0.0
    """That a finished training took, over all attempts."""
    updated: float = 0.0
    """When something was last written, in seconds since 1970."""
    provenance: dict[str, Any] = field(default_factory=dict)
    damage: str = ""
    """What cannot be read, and what to do; with any other status than `damaged` the cell can be resumed."""

    unpredicted: tuple[int, ...] = ()
    """Classes that are almost never predicted after a third of the epochs and later."""

    @property
    def commits(self) -> list[str]:
        """By which its epochs were trained: all of a finished cell, else that of the newest attempt."""
        listed = made_with.values(self.provenance, made_with.COMMIT) if made_with.ATTEMPTS in self.provenance else []
        return [commit for commit in listed or [self.commit] if commit]


class RunFolder:
    """The folder of one cell."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, config_yaml: str, axes: Mapping[str, str]) -> None:
        """Make the folder with its configuration; in one that is there, replace what differs."""
        description.write(self.path, config_yaml, axes)

    def is_described(self) -> bool:
        """Tell whether configuration and axes can be read."""
        try:
            return bool(self.config() and self.axes())
        except (DamagedFileError, OSError):
            return False

    def config(self) -> str:
        """Return the configuration as YAML.

        Raises:
            DamagedFileError: It is torn, no text, or not what was written.
        """
        return description.config(self.path)

    def axes(self) -> dict[str, str]:
        """Return the varied keys with their values as text.

        Raises:
            DamagedFileError: They cannot be read.
        """
        return description.axes(self.path)

    def result(self) -> Row | None:
        """Return the published result, if there is one.

        Raises:
            DamagedFileError: It cannot be read.
        """
        try:
            return files.read_json(self.path / RESULT, _OF_RESULT, _WITHOUT_RESULT)
        except FileNotFoundError:
            return None

    def has_result(self) -> bool:
        """Tell whether a result was published, readable or not."""
        return (self.path / RESULT).exists()

    def attempts(self) -> list[Attempt]:
        """Return the claimed attempts in order."""
        try:
            names = [name for name in os.listdir(self.path / ATTEMPTS) if name.isdigit()]  # noqa: PTH208 (fast)
        except FileNotFoundError:
            return []
        found = [Attempt(self.path / ATTEMPTS / name) for name in sorted(names, key=int)]
        return [attempt for attempt in found if (attempt.path / OWNER).exists()]

    def claim(self, owner: Mapping[str, Any], number: int | None = None) -> Attempt:
        """Begin an attempt: the next one, or that of a number, so that two who saw the same state cannot both begin.

        Args:
            owner: Anything to tell readers; `commit` and `provenance` go into the result. The process is this one
                unless `host` and `pid` say otherwise. With a `claim`, a word of this claim alone, the call can be
                repeated after an error: it finds what it had claimed.
            number: Must be the next.

        Raises:
            AttemptTaken: Somebody else was faster.
        """
        attempts = self.attempts()
        if own := _own(attempts, owner.get("claim")):
            return _synced(own)
        following = attempts[-1].number + 1 if attempts else 1
        path = self.path / ATTEMPTS / str(number or following)
        try:
            if number is not None and number < following:
                raise FileExistsError
            path.mkdir(parents=True, exist_ok=True)
            files.publish(path / OWNER, files.to_text(_complete(owner)))
        except FileExistsError:
            raise AttemptTaken(f"{path} is claimed already") from None
        return _synced(Attempt(path))

    def newest_checkpoint(self) -> Path | None:
        """Find the newest intact checkpoint among those whose rows count."""
        return checkpoints.newest(self.attempts())

    def adopt_checkpoint(self, attempt: Attempt, num_kept: int = 1) -> Path | None:
        """Make the newest checkpoints an attempt's own, and remove those of all attempts before it but newer ones.

        Returns: The newest one in its new place; None where there is none.

        Raises:
            AlreadyPublished: An earlier attempt came to its end meanwhile; its weights may have been removed here.
        """
        earlier = self.attempts_before(attempt)
        found = checkpoints.adopt(earlier, attempt, num_kept)
        self._refuse_if_published()
        if found is not None and not attempt.superseded():
            checkpoints.discard(earlier, up_to=found)
            self._refuse_if_published()  # whoever publishes from now on looks for its weights and finds them gone
        return found

    def _refuse_if_published(self) -> None:
        if self.has_result():
            raise AlreadyPublished(f"{self.path / RESULT} is there already")

    def attempts_before(self, attempt: Attempt) -> list[Attempt]:
        """Return the claimed attempts with lower numbers, in order."""
        return [other for other in self.attempts() if other.number < attempt.number]

    def epochs(self) -> list[Row]:
        """Return the epoch rows of all attempts in order, each epoch once."""
        kept = [(attempt.epochs(), limit) for attempt, limit in self.attempts_with_limits(of_epochs=True)]
        return [row for rows, limit in kept for row in rows if row["step"] < limit]

    def steps(self) -> "pa.Table":
        """Return the step rows of all attempts in order, each step once."""
        import pyarrow as pa
        import pyarrow.compute as pc

        tables = [(read_steps(attempt.path / STEPS), limit) for attempt, limit in self.attempts_with_limits()]
        kept = [table.filter(pc.less(table["step"], limit)) for table, limit in tables if table.num_rows]
        return pa.concat_tables(kept, promote_options="default") if kept else pa.table({"step": pa.array([], "int64")})

    def steps_after(self, step: int) -> list[Row]:
        """Return the rows of later steps only."""
        import pyarrow.compute as pc

        table = self.steps()
        rows: list[Row] = table.filter(pc.greater(table["step"], step)).to_pylist()
        return rows

    def ends(self, campaign: str) -> list[AttemptEnd]:
        """Return how the attempts of a campaign ended: of a user's launch and of all that followed from it.

        One that wrote nothing at its end was lost.
        """
        found: list[AttemptEnd] = []
        next_step: int | None = None
        for attempt in reversed(self.attempts()):
            owner, events = attempt.known_owner(), attempt.events()  # read once, as a step looks at tens of thousands
            if owner.get("campaign") == campaign:
                found.append(attempt.end(next_step, owner, events))
            first = attempt.first_step(events)
            first = attempt.saved_step() if first is None else first  # it may have taken the checkpoint over
            next_step = next_step if first is None else first
        return found[::-1]

    def busy_s(self) -> float:
        """Return the seconds from the begin of each attempt to its last word."""
        return sum(attempt.busy_s() for attempt in self.attempts())

    def state(self) -> FolderState:
        """Tell how the cell stands; opens the result or, without one, the last attempt only.

        Where that cannot be told, the cell is `damaged`, or `unreadable` where that may pass, as when a file server is
        away: whatever is wrong with one cell keeps nobody from the others.
        """
        try:
            return self.look()
        except OSError as error:
            why = f"{error.filename or self.path} cannot be read for now: {error.strerror}"
            return FolderState("unreadable", failure=why, damage=why)

    def look(self) -> FolderState:
        """Tell how the cell stands, as `state` does.

        Raises:
            OSError: A file cannot be read, which may pass.
        """
        try:
            if (result := self.result()) is not None:
                return state_of_result(result, (self.path / RESULT).stat().st_mtime)
            attempts = self.attempts()
            return self._state_of(attempts[-1]) if attempts else FolderState("missing")
        except DamagedFileError as error:
            return self._damaged(str(error))
        except OSError as error:
            if passes(error):
                raise
            return self._damaged(f"{error.filename or self.path} cannot be read: {error.strerror}; {_UNREADABLE}")

    def _damaged(self, damage: str) -> FolderState:
        tell(damage)
        return FolderState("damaged", failure=damage, damage=damage)

    def _state_of(self, attempt: Attempt) -> FolderState:
        owner, damage = self._owner_or_damage(attempt)
        events = attempt.events()
        last = events[-1] if events else {}
        row = files.read_last_line(attempt.path / EPOCHS, EPOCH_FIELDS) or next(reversed(self.epochs()), {})
        updated = last_write(attempt.path)
        failed = last.get("event") == "failed"
        is_over = failed or last.get("kind") == FailureClass.OUTPERFORMED
        return FolderState(
            status="failed" if failed else _liveness(owner, last.get("event"), updated),
            num_attempts=attempt.number,
            step=max(row.get("step", -1) + 1, *(event.get("step", 0) for event in events), 0),
            num_steps=row.get("num_steps"),
            epoch=int(row.get("epoch", 0)),
            num_epochs=row.get("num_epochs"),
            miou=row.get("miou"),
            best_miou=row.get("best_miou"),
            commit=owner.get("commit", ""),
            failure=_one_line(last) if is_over else None,
            failure_class=known_class(last["kind"]) if is_over and "kind" in last else None,
            host=trained_on(owner, events),
            job=owner.get("slurm", {}).get("job", ""),
            updated=updated,
            provenance=owner.get("provenance", {}),
            damage=damage,
            unpredicted=unpredicted.of_row(row),
        )

    def _owner_or_damage(self, attempt: Attempt) -> tuple[Row, str]:
        try:
            return attempt.owner(), ""
        except DamagedFileError as error:
            tell(error)
            return {}, str(error)

    def attempts_with_limits(self, *, of_epochs: bool = False) -> list[tuple[Attempt, float]]:
        """Pair each attempt with the step at which a later one began: from there on its rows are repeated."""
        return with_limits(self.attempts(), of_epochs=of_epochs)


def folders(grid_dir: Path) -> dict[str, RunFolder]:
    """Return the run folders of a grid by signature."""
    if not (grid_dir / CELLS).is_dir():
        return {}
    names = sorted(cell_names(str(grid_dir / CELLS)))
    return {name.partition("-")[0]: RunFolder(grid_dir / CELLS / name) for name in names}


def cell_names(folder: str) -> list[str]:
    """Return the names of the run folders in a folder `cells`, in no order."""
    return [name for name in os.listdir(folder) if _CELL_NAME.match(name)]  # noqa: PTH208 (fast)


def state_of_result(result: Row, updated: float = 0.0) -> FolderState:
    """Tell how a cell with a result stands."""
    return FolderState(
        status="done",
        num_attempts=result["attempt"],
        step=result["step"],
        num_steps=result["num_steps"],
        epoch=result["epoch"],
        num_epochs=result.get("num_epochs"),
        miou=result["last_miou"],
        best_miou=result["best_miou"],
        commit=result["provenance"]["commit"],
        duration_s=result.get("duration_s", 0.0),
        updated=updated,
        host=result["provenance"].get("host", ""),
        provenance=result["provenance"],
        unpredicted=unpredicted.of_result(result),
    )


def _own(attempts: Sequence[Attempt], claim: str | None) -> Attempt | None:
    """Find what a claim already has: its error came after the link, or the answer to the link was lost."""
    if claim is None:
        return None
    return next((attempt for attempt in reversed(attempts) if attempt.known_owner().get("claim") == claim), None)


def _synced(attempt: Attempt) -> Attempt:
    for folder in attempt.path.parents[:4]:  # up to the grid's: what is written below outlives a power cut only so
        sync_folder(folder)
    return attempt


def _liveness(owner: Row, last_event: str | None, updated: float) -> Status:
    if last_event == "stopped":
        return "interrupted"
    is_alive = lives(owner) if owner else None
    if is_alive is None:
        is_alive = time.time() - updated < LEASE_S
    return "running" if is_alive else "interrupted"


def _complete(owner: Mapping[str, Any]) -> Row:
    """Add to what a claimer says of itself what readers rely on."""
    content: dict[str, Any] = {"schema": SCHEMA, **({} if "pid" in owner else this_process()), **owner}
    content.setdefault("host", socket.gethostname())
    content.setdefault("process_started", process_start(content["pid"]))
    content.setdefault("started", datetime.now(UTC).isoformat(timespec="seconds"))
    content.setdefault("commit", content.get("provenance", {}).get("commit", ""))
    return content


def _one_line(failed: Row) -> str:
    message = " ".join(str(failed.get("message", "")).split())
    return f"{failed.get('kind', 'failed')}: {message}" if message else str(failed.get("kind", "failed"))
