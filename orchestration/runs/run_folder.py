"""The files of a run: its owner, events, numbers and result; safe to read at any moment.

Files that others read are linked or renamed into place, or appended to in one write whose torn end readers drop.
See docs/run_folder.md for the files and their fields.
"""

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.machine import clock, files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import COUNT, NUMBER, Fields
from orchestration.machine.processes import lives, process_start, this_process
from orchestration.runs import checkpoints, description, made_with, unpredicted
from orchestration.runs.attempt import (
    OF_RESULTS_PROVENANCE,
    AlreadyPublished,
    Attempt,
    last_write,
    trained_on,
    with_limits,
)
from orchestration.runs.failures import AttemptEnd, FailureClass, known_class
from orchestration.runs.folders import CellFolder, GridFolder
from orchestration.runs.patience import passes
from orchestration.runs.recorder import EPOCH_FIELDS, SCHEMA, Row, read_steps
from orchestration.runs.states import CellState, FolderStatus
from rankmatch.durable import sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

LEASE_S = 600.0
"""An attempt on another host, or in another container, counts as ended after this long without a write."""

_FRACTION = NUMBER.or_null()
_OF_RESULT = Fields(
    {"attempt": COUNT, "step": COUNT, "num_steps": COUNT, "epoch": COUNT, "best_miou": _FRACTION,
     "last_miou": _FRACTION, "provenance": OF_RESULTS_PROVENANCE},
    {"num_epochs": COUNT.or_null(), "best_epoch": COUNT.or_null(), "num_present_classes": COUNT.or_null(),
     "duration_s": NUMBER, "gpu_duration_s": NUMBER, "best_class_iou": _FRACTION.listed().or_null(),
     "last_class_iou": _FRACTION.listed().or_null(), "steps_left_out": COUNT.listed()},
)  # fmt: skip
_WITHOUT_RESULT = "restore it, or remove it to have the cell trained again"
_UNREADABLE = "nothing is done with the cell until it can be read"


class AttemptTaken(Exception):  # noqa: N818 (says what happened, as FileExistsError does not)
    """Another process claimed the attempt with this number."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """The state of a cell's training, by its files."""

    status: FolderStatus
    num_attempts: int = 0
    step: int = 0
    """Number of steps done, as far as recorded."""
    num_steps: int | None = None
    epoch: int = 0
    num_epochs: int | None = None
    miou: float | None = None
    best_miou: float | None = None
    commit: str = ""
    failure: str | None = None
    """Class and message of the failure, or of a search's verdict, in one line."""
    host: str = ""
    """Host of the newest attempt."""
    grid: str = ""
    """The grid whose launch began the newest attempt, or trained the cell; empty where that was not recorded."""
    job: str = ""
    """Slurm's job of the newest attempt."""
    failure_class: str | None = None
    """A value of `failures.FailureClass`."""
    duration_s: float = 0.0
    """Duration of a finished training, over all attempts."""
    updated: float = 0.0
    """Time of the last write, in seconds since 1970."""
    provenance: dict[str, Any] = field(default_factory=dict)
    damage: str = ""
    """What cannot be read, and what to do; unless the status is `damaged`, the cell can be resumed."""
    steps_left_out: tuple[int, ...] = ()
    unpredicted: tuple[int, ...] = ()
    """Classes that are almost never predicted after a third of the epochs."""

    @property
    def commits(self) -> list[str]:
        """The commits that trained its epochs: all for a finished cell, else that of the newest attempt."""
        listed = made_with.values(self.provenance, made_with.COMMIT) if made_with.ATTEMPTS in self.provenance else []
        return [commit for commit in listed or [self.commit] if commit]


class RunFolder(CellFolder):
    """The folder of one cell, with what its files say."""

    __slots__ = ()

    def create(self, config_yaml: str, axes: Mapping[str, str]) -> None:
        """Create the folder with its configuration; in an existing one, replace what differs."""
        description.write(self.path, config_yaml, axes)

    def is_described(self) -> bool:
        """Return whether configuration and axes can be read."""
        try:
            return bool(self.config() and self.axes())
        except (DamagedFileError, OSError):
            return False

    def config(self) -> str:
        """Return the configuration as YAML.

        Raises:
            DamagedFileError: It is torn, not text, or differs from its hash.
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
            return files.read_json(self.result_file, _OF_RESULT, _WITHOUT_RESULT, is_shown=True)
        except FileNotFoundError:
            return None

    def has_result(self) -> bool:
        """Return whether a result was published, readable or not."""
        return self.result_file.exists()

    def attempts(self) -> list[Attempt]:
        """Return the claimed attempts in order."""
        try:
            names = [name for name in os.listdir(self.attempts_dir) if name.isdigit()]  # noqa: PTH208 (fast)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # `look` says that a folder is a link to itself
                raise
            return []
        found = [Attempt(self.attempt(name).path) for name in sorted(names, key=int)]
        return [attempt for attempt in found if attempt.owner_file.exists()]

    def claim(self, owner: Mapping[str, Any], number: int | None = None) -> Attempt:
        """Begin the next attempt, or the one with a number, so that two processes cannot both begin it.

        Args:
            owner: Anything for readers; `commit` and `provenance` go into the result. The owner is this process
                unless `host` and `pid` are given. With a `claim`, a word unique to this claim, the call can be
                repeated after an error: it finds its earlier claim.
            number: Must be the next one.

        Raises:
            AttemptTaken: Another process was faster.
        """
        attempts = self.attempts()
        if own := _own(attempts, owner.get("claim")):
            return _synced(own)
        following = attempts[-1].number + 1 if attempts else 1
        claimed = Attempt(self.attempt(number or following).path)
        try:
            if number is not None and number < following:
                raise FileExistsError
            claimed.path.mkdir(parents=True, exist_ok=True)
            files.publish(claimed.owner_file, files.to_text(_complete(owner)))
        except FileExistsError:
            raise AttemptTaken(f"{claimed.path} is claimed already") from None
        return _synced(claimed)

    def is_trained_for_another(self, grid: str) -> bool:
        """Return whether its newest attempt is another grid's and runs, as far as can be seen from here."""
        owner: Mapping[str, Any] = next((attempt.known_owner() for attempt in self.attempts()[-1:]), {})
        return bool(grid) and owner.get("grid", grid) != grid and self.look().status is CellState.RUNNING

    def newest_checkpoint(self) -> Path | None:
        """Find the newest intact checkpoint among those whose rows count."""
        return checkpoints.newest(self.attempts())

    def adopt_checkpoint(self, attempt: Attempt, num_kept: int = 1) -> Path | None:
        """Link the newest checkpoints into an attempt, and remove those of all earlier attempts, except newer ones.

        Returns: The newest one in its new place; None if there is none.

        Raises:
            AlreadyPublished: An earlier attempt finished meanwhile; its weights may have been removed here.
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
            raise AlreadyPublished(f"{self.result_file} is there already")

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

        tables = [(read_steps(attempt.steps_file), limit) for attempt, limit in self.attempts_with_limits()]
        kept = [table.filter(pc.less(table["step"], limit)) for table, limit in tables if table.num_rows]
        return pa.concat_tables(kept, promote_options="default") if kept else pa.table({"step": pa.array([], "int64")})

    def steps_after(self, step: int) -> list[Row]:
        """Return the rows of later steps only."""
        import pyarrow.compute as pc

        table = self.steps()
        rows: list[Row] = table.filter(pc.greater(table["step"], step)).to_pylist()
        return rows

    def ends(self, campaign: str) -> list[AttemptEnd]:
        """Return how the attempts of a campaign ended: a user's launch and all its retries.

        An attempt without a recorded end was lost.
        """
        found: list[AttemptEnd] = []
        next_step: int | None = None
        for attempt in reversed(self.attempts()):
            owner, events = attempt.known_owner(), attempt.events()  # read once: a step reads tens of thousands
            if owner.get("campaign") == campaign:
                found.append(attempt.end(next_step, owner, events))
            first = attempt.first_step(events)
            first = attempt.saved_step() if first is None else first  # it may have taken the checkpoint over
            next_step = next_step if first is None else first
        return found[::-1]

    def busy_s(self) -> float:
        """Return the total seconds from the start of each attempt to its last write."""
        return sum(attempt.busy_s() for attempt in self.attempts())

    def state(self) -> FolderState:
        """Return the cell's state; opens only the result or, without one, the last attempt.

        If files cannot be read, the cell is `damaged`, or `unreadable` if the error may pass, as when a file server is
        away: a fault in one cell must not affect the others.
        """
        try:
            return self.look()
        except OSError as error:
            why = f"{error.filename or self.path} cannot be read for now: {error.strerror}"
            return FolderState(CellState.UNREADABLE, failure=why, damage=why)

    def look(self) -> FolderState:
        """Return the cell's state, as `state` does.

        Raises:
            OSError: A file cannot be read now; the error may pass.
        """
        try:
            if (result := self.result()) is not None:
                return state_of_result(result, self.result_file.stat().st_mtime)
            attempts = self.attempts()
            return self._state_of(attempts[-1]) if attempts else FolderState(CellState.MISSING)
        except DamagedFileError as error:
            return self._damaged(str(error))
        except OSError as error:
            if passes(error):
                raise
            return self._damaged(f"{error.filename or self.path} cannot be read: {error.strerror}; {_UNREADABLE}")

    def _damaged(self, damage: str) -> FolderState:
        tell(damage)
        return FolderState(CellState.DAMAGED, failure=damage, damage=damage)

    def _state_of(self, attempt: Attempt) -> FolderState:
        owner, damage = self._owner_or_damage(attempt)
        events = attempt.events()
        last = events[-1] if events else {}
        row = files.read_last_line(attempt.epochs_file, EPOCH_FIELDS) or next(reversed(self.epochs()), {})
        updated = last_write(attempt.path)
        failed = last.get("event") == "failed"
        is_over = failed or last.get("kind") == FailureClass.OUTPERFORMED
        return FolderState(
            status=CellState.FAILED if failed else _liveness(owner, last.get("event"), updated),
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
            grid=owner.get("grid", ""),
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
        """Pair each attempt with the step at which a later one began; from there its rows are repeated."""
        return with_limits(self.attempts(), of_epochs=of_epochs)


def folders(grid_dir: Path) -> dict[str, RunFolder]:
    """Return the run folders of a grid by signature."""
    return {cell.signature: RunFolder(cell.path) for cell in GridFolder(grid_dir).cells()}


def run_folder(grid_dir: Path, name: str) -> RunFolder:
    """Return the run folder of a grid that has a name, there or not."""
    return RunFolder(GridFolder(grid_dir).cell(name).path)


def state_of_result(result: Row, updated: float = 0.0) -> FolderState:
    """Return the state of a cell with a result."""
    return FolderState(
        status=CellState.DONE,
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
        grid=result["provenance"].get("grid", ""),
        provenance=result["provenance"],
        unpredicted=unpredicted.of_result(result),
        steps_left_out=tuple(result.get("steps_left_out", ())),
    )


def _own(attempts: Sequence[Attempt], claim: str | None) -> Attempt | None:
    """Find an attempt that a claim already owns, if an error came after the link or its answer was lost."""
    if claim is None:
        return None
    return next((attempt for attempt in reversed(attempts) if attempt.known_owner().get("claim") == claim), None)


def _synced(attempt: Attempt) -> Attempt:
    for folder in attempt.above:  # what is written below outlives a power cut only so
        sync_folder(folder)
    return attempt


def _liveness(owner: Row, last_event: str | None, updated: float) -> FolderStatus:
    if last_event == "stopped":
        return CellState.INTERRUPTED
    is_alive = lives(owner) if owner else None
    if is_alive is None:
        is_alive = clock.now() - updated < LEASE_S
    return CellState.RUNNING if is_alive else CellState.INTERRUPTED


def _complete(owner: Mapping[str, Any]) -> Row:
    """Add to an owner's own description the fields that readers rely on."""
    content: dict[str, Any] = {"schema": SCHEMA, **({} if "pid" in owner else this_process()), **owner}
    content.setdefault("host", socket.gethostname())
    content.setdefault("process_started", process_start(content["pid"]))
    content.setdefault("started", clock.utc().isoformat(timespec="seconds"))
    content.setdefault("commit", content.get("provenance", {}).get("commit", ""))
    return content


def _one_line(failed: Row) -> str:
    message = " ".join(str(failed.get("message", "")).split())
    return f"{failed.get('kind', 'failed')}: {message}" if message else str(failed.get("kind", "failed"))
