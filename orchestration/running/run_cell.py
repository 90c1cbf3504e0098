"""The body of a job: train one cell in one attempt, and record how it ended."""

import errno
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rankmatch
from orchestration.grids.cells import Cell, from_yaml
from orchestration.machine import clock, provenance
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.processes import lives, this_process
from orchestration.mirror.mirror_thread import mirrored
from orchestration.running import finished
from orchestration.running.hang_watch import HangWatch
from orchestration.runs import changes, made_with, system_metrics
from orchestration.runs.attempt import ENVIRONMENT, AlreadyPublished, Attempt, last_write, steps_to_leave_out
from orchestration.runs.failures import Failure, FailureClass
from orchestration.runs.jobs import JobState
from orchestration.runs.patience import patiently
from orchestration.runs.recorder import FencedError
from orchestration.runs.run_folder import AttemptTaken, RunFolder
from orchestration.runs.states import CellState
from rankmatch.config import TrainConfig
from rankmatch.fit_result import FitResult
from rankmatch.hashing import sha256_of
from rankmatch.run_files import is_evaluated, step_of

Stop = Callable[[], bool]
Trainer = Callable[[TrainConfig, Attempt, Path | None, Stop], FitResult]
"""Trains a cell in an attempt's folder, from a checkpoint if one is given, until done or told to stop."""


def run_cell(
    cell_dir: Path,
    *,
    train: Trainer,
    owner: Mapping[str, Any],
    should_stop: Stop | None = None,
    why: Callable[[], str] = str,
) -> JobState:
    """Train a cell from its newest checkpoint; never raise what the training raises, so that other cells continue.

    Args:
        cell_dir: Folder of the cell, with its configuration.
        train: Does the work.
        owner: The launcher, as `launcher` describes it, with anything else worth keeping.
        should_stop: Returns whether to end early with a checkpoint.
        why: Returns the class of an early end, a value of `FailureClass`, and in a second line how that is known;
            empty: cancelled.
    """
    folder = RunFolder(cell_dir)
    try:
        if _is_done(folder):
            return JobState.DONE
        patiently(lambda: _refuse_dropped(folder))
        claim = {**owner, "training_pid": os.getpid(), "claim": secrets.token_hex(8)}
        number = patiently(lambda: _next_attempt(folder, owner))
        patiently(lambda: changes.keep(folder, owner.get("provenance", {})))
        attempt = patiently(lambda: folder.claim(claim, number))
        if _is_done(folder):  # whoever published meanwhile did not know of this attempt
            return JobState.DONE
    except AttemptTaken:
        return _state_of_taken(folder)
    except DamagedFileError as error:
        sys.stderr.write(f"{error}\n")
        return JobState.FAILED
    except OSError as error:
        return _unwritten(cell_dir, error)
    with mirrored(folder, attempt):
        return _Body(folder, attempt, train, StopCheck(attempt, owner, should_stop), why).run()


def train_inline(config: TrainConfig, attempt: Attempt, resume_from: Path | None, should_stop: Stop) -> FitResult:
    """Train in this process, alone."""
    return train_here(config, attempt, resume_from, should_stop, num_threads=config.execution.trainer.num_threads)


def train_here(
    config: TrainConfig,
    attempt: Attempt,
    resume_from: Path | None,
    should_stop: Stop,
    *,
    num_threads: int,
    worker: int = 0,
    is_watched: bool = False,
) -> FitResult:
    """Run one worker of a training, the only one or one of several, and write its rows.

    Args:
        config: What to train.
        attempt: Gets the rows.
        resume_from: A checkpoint.
        should_stop: Returns whether to end early.
        num_threads: For the tensor operations of this process; 0 leaves it as it is.
        worker: Its number.
        is_watched: This process is ended if its training hangs; where several train together, that of the first.
    """
    import torch

    from rankmatch.trainer import choose_device, fit

    if num_threads:
        torch.set_num_threads(num_threads)
    device = choose_device(config.execution.trainer.device)
    if worker == 0:
        attempt.event(ENVIRONMENT, **provenance.training(config, device))
    path, trainer = attempt.system_file(worker), config.execution.trainer
    limit_min = trainer.hang_min if is_watched and worker == 0 else 0.0
    with (
        HangWatch(attempt, limit_min, trainer.log_every_steps if trainer.num_workers > 1 else 1) as watch,
        system_metrics.SystemSampler(path, config.execution.tracking.system_every_s, device, attempt.superseded),
        attempt.recorder(config.execution.class_names) as report,
    ):
        return fit(
            config,
            attempt.path,
            watch.reporting(report),
            resume_from=resume_from,
            should_stop=watch.living(should_stop),
            before_checkpoint=report.before_checkpoint,
            left_out=steps_to_leave_out(RunFolder(attempt.cell_dir).attempts_before(attempt)),
        )


def launcher() -> dict[str, Any]:
    """Describe this process as the owner of attempts: they count as running while it lives."""
    return this_process()


def launcher_is_gone(owner: Mapping[str, Any]) -> bool:
    """Return whether the owner's process ended; one on another host is unknown, and counts as alive."""
    return lives(owner) is False


class StopCheck:
    """Checks at most once a second whether training continues; travels to other processes.

    Calling it raises `FencedError` once a newer attempt exists or the launcher is gone.
    """

    def __init__(self, attempt: Attempt, owner: Mapping[str, Any], asked: Stop | None, interval_s: float = 1.0) -> None:
        self._attempt, self._owner, self._asked = attempt, dict(owner), asked
        self._interval_s, self._next, self._answer = interval_s, 0.0, False

    def __call__(self) -> bool:
        """Return whether to stop with a checkpoint."""
        if self._answer or clock.monotonic() < self._next:
            return self._answer
        if self._attempt.superseded():
            raise FencedError("a newer attempt has begun")
        if launcher_is_gone(self._owner):
            raise FencedError("the launcher is gone")
        self._answer = self._asked is not None and bool(self._asked())
        self._next = clock.monotonic() + self._interval_s
        return self._answer


class _Body:
    """One attempt from its claim to its end."""

    def __init__(
        self, folder: RunFolder, attempt: Attempt, train: Trainer, stop: StopCheck, why: Callable[[], str]
    ) -> None:
        self.folder, self.attempt, self.train, self.stop, self.why = folder, attempt, train, stop, why
        self.started = clock.monotonic()

    def run(self) -> JobState:
        """Train, and turn every way to end into a state and an event."""
        try:
            return self._train()
        except AlreadyPublished:
            finished.give_way(self.folder, self.attempt)
            return JobState.SUPERSEDED
        except FencedError:
            return JobState.SUPERSEDED
        except Exception as error:  # the one broad clause: whatever a cell dies of is recorded and affects no other
            failure, duration_s = Failure.of(error), self._duration_s()
        try:
            if patiently(self.attempt.superseded):
                return JobState.SUPERSEDED
        except OSError as error:
            return _unwritten(self.attempt.path, error)
        return record_failure(self.attempt, failure, duration_s=duration_s)

    def _train(self) -> JobState:
        config = self._config()
        settings = config.execution.trainer
        resume_from = self.folder.adopt_checkpoint(self.attempt, settings.num_checkpoints)
        if self.attempt.superseded():  # a follower may have removed what was to be adopted
            raise FencedError("a newer attempt has begun")
        begins = begin_of(resume_from)
        step = begins["step"]
        self.attempt.event("started", **begins, **software(), **scheduler_node())
        self.attempt.say(
            f"attempt {self.attempt.number} begins at step {step}, process {os.getpid()} on {socket.gethostname()}"
        )
        if self.stop():
            return self._stopped(step)
        result = self.train(config, self.attempt, resume_from, self.stop)
        if self.attempt.superseded():
            raise FencedError("a newer attempt has begun")
        if not result.finished:
            return self._stopped(result.step)
        row = self._result(result)
        if self.attempt.superseded():  # a follower may have removed the weights before they were looked at
            raise FencedError("a newer attempt has begun")
        patiently(lambda: self.attempt.publish(row))
        finished.settle(self.folder)
        return JobState.DONE

    def _config(self) -> TrainConfig:
        """Read the configuration, which must match the signature: a damaged one may look sound."""
        config = from_yaml(self.folder.config())
        if Cell(config, {}).signature != self.folder.signature:
            raise DamagedFileError(
                self.folder.config_file, "its settings have another signature", "launch the grid again"
            )
        return config

    def _stopped(self, step: int) -> JobState:
        kind, _, message = (self.why() or FailureClass.CANCELLED.value).partition("\n")
        evidence = {"message": message} if message else {}
        self.attempt.event("stopped", step=step, kind=kind, duration_s=self._duration_s(), **evidence)
        return JobState.STOPPED

    def _result(self, result: FitResult) -> dict[str, Any]:
        earlier = self.folder.attempts_before(self.attempt)
        durations = [(attempt, _duration_s(attempt)) for attempt in earlier] + [(self.attempt, self._duration_s())]
        environment = self.attempt.environment()
        return {
            **asdict(result),
            "duration_s": sum(seconds for _, seconds in durations),
            "gpu_duration_s": sum(
                seconds * (attempt.environment().get("num_gpus") or 0) for attempt, seconds in durations
            ),
            "model": _best_weights(self.attempt),
            "provenance": environment | software() | {made_with.ATTEMPTS: self._made_with()},
        }

    def _made_with(self) -> list[dict[str, Any]]:
        found = self.folder.attempts_with_limits()
        return made_with.of_attempts([pair for pair in found if pair[0].number <= self.attempt.number])

    def _duration_s(self) -> float:
        return round(clock.monotonic() - self.started, 3)


def evidence(attempt: Attempt, failure: Failure) -> dict[str, Any]:
    """Return the evidence of a failure for an event: exit code and Slurm's state, if known, and the tail of the log."""
    known = {name: value for name, value in asdict(failure).items() if value or name in ("message", "traceback")}
    return {**known, "log_tail": attempt.log_tail()}


def record_failure(attempt: Attempt, failure: Failure, *, duration_s: float | None = None) -> JobState:
    """Record why an attempt failed, unless it published the cell's result and was killed afterwards.

    One that was ended because it hung says so already; what its partners say of its loss adds nothing.
    """
    if _has_published(attempt):
        return JobState.DONE
    if patiently(attempt.events)[-1:] and patiently(attempt.end).kind is FailureClass.HUNG:
        return JobState.FAILED
    known = {} if duration_s is None else {"duration_s": duration_s}
    try:
        patiently(lambda: attempt.event("failed", **evidence(attempt, failure), **known))
    except OSError as error:
        sys.stderr.write(f"{attempt.path}: {failure.error}: {failure.message}\n")
        return _unwritten(attempt.path, error)
    return JobState.FAILED


def _has_published(attempt: Attempt) -> bool:
    try:
        result = patiently(RunFolder(attempt.cell_dir).result)
    except DamagedFileError:
        return False
    return result is not None and result["attempt"] == attempt.number


def _unwritten(folder: Path, error: OSError) -> JobState:
    """Report, where there is room, that a folder cannot be written, mostly on a full disk; the next cell continues."""
    sys.stderr.write(f"{folder} cannot be written: {error}\n")
    return JobState.FAILED


def record_loss(cell_dir: Path, failure: Failure, *, known_dead: bool = False, launch: str = "") -> None:
    """Record how the newest attempt of a cell ended, for a process that no longer can.

    Args:
        cell_dir: Folder of the cell.
        failure: What is known of it.
        known_dead: The caller knows that it has not ended by itself; otherwise it must look as if it ran.
        launch: Only an attempt of this launch; empty: of any.
    """
    if not known_dead and RunFolder(cell_dir).look().status is not CellState.RUNNING:
        return
    attempt = RunFolder(cell_dir).attempts()[-1]
    if launch and attempt.known_owner().get("launch", launch) != launch:
        return
    if not known_dead and failure.ended is None:  # by the file server: the node that trained may have another clock
        failure = replace(failure, ended=last_write(attempt.path))
    if failure.kind is FailureClass.CANCELLED:
        attempt.event("stopped", **evidence(attempt, failure))
    else:
        record_failure(attempt, failure)


def record_never_began(cell_dir: Path, owner: Mapping[str, Any], failure: Failure, host: str = "") -> None:
    """Record, as an attempt of its own, that a process which was to train ended before it claimed one."""
    try:
        _refuse_dropped(RunFolder(cell_dir))
        attempt = RunFolder(cell_dir).claim(owner)
    except AttemptTaken:
        return  # somebody else trains it
    except OSError as error:
        _unwritten(cell_dir, error)
        return
    attempt.event("failed", **evidence(attempt, failure), **({"host": host} if host else {}))


def _refuse_dropped(folder: RunFolder) -> None:
    """Refuse to make a cell's folder: without its configuration it would look like a cell, and be none.

    Raises:
        FileNotFoundError: It is not there.
    """
    if not folder.path.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the cell was dropped, or its disk is not there", str(folder.path))


def _next_attempt(folder: RunFolder, owner: Mapping[str, Any]) -> int:
    """Return the number of the attempt that may be claimed, by what is there now.

    Raises:
        AttemptTaken: A launch of another grid trains the cell.
    """
    attempts = folder.attempts()
    if folder.is_trained_for_another(owner.get("grid", "")):
        raise AttemptTaken(f"{folder.path} is trained for another grid")
    return attempts[-1].number + 1 if attempts else 1


def _state_of_taken(folder: RunFolder) -> JobState:
    """Return the state of a cell that somebody else has claimed, who may have finished it by now."""
    with suppress(DamagedFileError, OSError):
        if _is_done(folder):
            return JobState.DONE
    return JobState.SUPERSEDED


def _is_done(folder: RunFolder) -> bool:
    """Return whether a cell has a result; the process that wrote it may have been killed before it had cleaned up."""
    if patiently(folder.result) is None:
        return False
    finished.settle(folder)
    return True


def software() -> dict[str, Any]:
    """Return where and with which numerics this process trains; versions are in the launch's provenance."""
    return {"host": socket.gethostname(), "numerics": rankmatch.NUMERICS}


def begin_of(checkpoint: Path | None) -> dict[str, Any]:
    """Return where an attempt starts: a checkpoint's step, and whether the epoch that ends there awaits evaluation."""
    if checkpoint is None:
        return {"step": 0}

    return {"step": step_of(checkpoint), **({} if is_evaluated(checkpoint) else {"evaluates": True})}


def scheduler_node() -> dict[str, str]:
    """Return Slurm's name for the node of this process, which may differ from the node's own; empty outside Slurm."""
    node = os.environ.get("SLURMD_NODENAME")
    return {"node": node} if node else {}


def _best_weights(attempt: Attempt) -> dict[str, Any] | None:
    """Return the path of the best epoch's weights, below the cell's folder, and what they are."""
    weights = attempt.best_file
    if not weights.is_file():
        return None
    place = str(weights.relative_to(attempt.cell_dir))
    return {"path": place, "sha256": sha256_of(weights), "bytes": weights.stat().st_size}


def _duration_s(attempt: Attempt) -> float:
    """Sum up an earlier attempt: what it wrote at its end or, if it was killed first, the epochs that it recorded."""
    ended = [event["duration_s"] for event in attempt.events() if event.get("duration_s") is not None]
    if ended:
        return float(ended[-1])
    return float(sum((row.get(name) or 0.0) for row in attempt.epochs() for name in ("duration_s", "evaluation_s")))
