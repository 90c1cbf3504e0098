"""A cell's training as a Ray Train run: one process or several, on CPUs or GPUs."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer

from orchestration.machine import files
from orchestration.on_ray.memory import memory_failure
from orchestration.on_ray.orders import WorkerFailure
from orchestration.on_ray.shares import elsewhere
from orchestration.running.run_cell import Stop, train_here
from orchestration.runs.attempt import Attempt
from orchestration.runs.failures import Failure, LostError, TrainingError
from orchestration.runs.folders import CellFolder
from orchestration.runs.recorder import FencedError
from rankmatch.config import TrainConfig
from rankmatch.trainer import FitResult, choose_device


@dataclass(frozen=True, slots=True)
class Grant:
    """What a scheduler gives each worker of a cell."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    shunned: tuple[str, ...] = ()
    """Ray's ids of nodes that get no worker."""


def train_with_ray(
    config: TrainConfig, attempt: Attempt, resume_from: Path | None, should_stop: Stop, *, grant: Grant | None = None
) -> FitResult:
    """Train through a `TorchTrainer`; Ray starts, joins and watches the workers, and decides nothing else.

    A single worker trains in the calling process, whose resources must be granted to it already: starting another one
    costs up to half a minute. Several workers are processes of their own.

    Raises:
        TrainingError: What a worker raised, with its class.
        FencedError: The cell now belongs to a newer attempt.
    """
    grant = grant or Grant()
    attempt.training_dir.mkdir(exist_ok=True)
    task = _Task(config, attempt, resume_from, should_stop, grant)
    try:
        _trainer(task).fit()
    except TrainingFailedError as error:
        raise _worker_error(attempt, error) from None
    else:
        return FitResult(**json.loads(attempt.training_result_file.read_text()))
    finally:
        shutil.rmtree(attempt.training_dir, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Task:
    """What travels to a worker."""

    config: TrainConfig
    attempt: Attempt
    resume_from: Path | None
    should_stop: Stop
    grant: Grant

    @property
    def num_workers(self) -> int:
        return self.config.execution.trainer.num_workers


def _trainer(task: _Task) -> TorchTrainer:
    grant = task.grant
    several: dict[str, Any] = {
        "resources_per_worker": {"CPU": grant.num_cpus} | ({"GPU": grant.num_gpus} if grant.num_gpus else {}),
        "label_selector": elsewhere(grant.shunned) or None,
    }
    # Zero workers are Ray Train's local mode: the loop runs in this process.
    num_workers, placed = (task.num_workers, several) if task.num_workers > 1 else (0, {})
    return TorchTrainer(
        _train_loop,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=grant.num_gpus > 0, **placed),
        run_config=RunConfig(
            name=f"{CellFolder(task.attempt.cell_dir).signature}-a{task.attempt.number}",
            storage_path=str(task.attempt.training_dir),
            failure_config=FailureConfig(max_failures=0),
        ),
    )


def _train_loop(loop_config: dict[str, Any]) -> None:
    """Train on one worker; the first one writes the result, and any that fails records why before it raises."""
    task: _Task = loop_config["task"]
    with output_to(task.attempt.log_file):
        try:
            result = _fit(task)
        except Exception as error:  # raised again: with several workers only a note of each shows which was first
            if task.num_workers > 1:
                _note_failure(task.attempt, error)
            raise
    if _rank(task) == 0:
        files.replace(task.attempt.training_result_file, json.dumps(asdict(result)), sync=False)


def _fit(task: _Task) -> FitResult:
    config = with_data_workers(task.config, task.grant)
    settings = config.execution.trainer
    if task.grant.num_gpus and settings.device == "auto":
        choose_device("cuda")  # refuses: a node that lost its GPU must not train slowly on its processor instead
    num_threads = settings.num_threads or max(1, int(task.grant.num_cpus) - settings.num_data_workers)
    return train_here(
        config,
        task.attempt,
        task.resume_from,
        task.should_stop,
        num_threads=num_threads,
        worker=_rank(task),
        is_watched=True,
    )


def with_data_workers(config: TrainConfig, grant: Grant) -> TrainConfig:
    """Set how many processes load images if the settings leave that open: a GPU must not wait for them."""
    trainer = config.execution.trainer
    if trainer.num_data_workers >= 0:
        return config
    num = max(0, int(grant.num_cpus) - 1) if grant.num_gpus else 0
    return replace(config, execution=replace(config.execution, trainer=replace(trainer, num_data_workers=num)))


def _rank(task: _Task) -> int:
    return ray.train.get_context().get_world_rank() if task.num_workers > 1 else 0


def _note_failure(attempt: Attempt, error: Exception) -> None:
    """Record a failure unless another worker's is there: the first is the cause, the others lost their partner."""
    with suppress(FileExistsError):
        told = WorkerFailure(Failure.of(error), isinstance(error, FencedError))
        files.publish(attempt.training_failure_file, files.to_text(told.to_json()))


def _worker_error(attempt: Attempt, error: TrainingFailedError) -> Exception:
    """Return what the workers recorded of their failure; workers without a record died.

    A worker that Ray killed recorded nothing, and its partners recorded that they had lost it.
    """
    ends = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    for failure in filter(None, map(memory_failure, (*ends, error))):
        return TrainingError(failure)
    if not attempt.training_failure_file.exists():
        return LostError(str(error))
    told = WorkerFailure.from_file(attempt.training_failure_file)
    return FencedError(told.failure.message) if told.fenced else TrainingError(told.failure)


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append all output of this process and its children to a file, below Python too."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
