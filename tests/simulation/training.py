"""The training of a cell: it writes what a training does, through the real claim and the real recorder."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.machine import clock
from orchestration.on_ray.orders import JobOrder
from orchestration.on_ray.protocol import EXIT_CODES
from orchestration.on_ray.stop import StopAsked
from orchestration.running.run_cell import Stop, run_cell
from orchestration.runs.attempt import Attempt
from orchestration.runs.folders import JobFolder
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder
from rankmatch import checkpoint
from rankmatch.config import TrainConfig
from rankmatch.fit_result import FitResult
from rankmatch.run_files import step_of

NUM_STEPS = 4
STOPS_WITHIN_S = 3600.0
"""How long a training may go on that a newer attempt has replaced: it looks at each step."""
ERRORS: dict[str, Callable[[], Exception]] = {
    "out of host memory": MemoryError,
    "code error": lambda: ValueError("a bug"),
    "file system": lambda: OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/data/1.png"),
    "GPU fault": lambda: RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    "shm": lambda: RuntimeError("unable to write to file </torch_1>: No space left on device (28)"),
}


@dataclass(frozen=True, slots=True)
class Spent:
    """What an attempt used between two writes, by a clock that nobody sets."""

    campaign: str
    time: float
    """When it wrote, in simulated time."""
    gpu_hours: float
    """None from when its host's clock went wrong: its files do not show them."""


@dataclass(frozen=True, slots=True)
class Trainings:
    """What the trainings of a world do to it."""

    die: Callable[[], None]
    breaks: Callable[[str], None]
    spends: Callable[[Spent], None]


def train_order(world: Trainings, path: Path, step_s: Callable[[], float], end: Callable[[], str]) -> int:
    """Carry out the order of a job, as `on_ray.job` does, without a Ray."""
    order, folder = JobOrder.from_file(path), JobFolder(path.parent)
    asked = StopAsked(folder.stop_file, order.end_time)
    return EXIT_CODES[train_cell(world, order.cell_dir, order.owner, asked, asked.why, step_s, end())]


def train_cell(
    world: Trainings,
    cell_dir: Path,
    owner: dict[str, Any],
    asked: Callable[[], bool],
    why: Callable[[], str],
    step_s: Callable[[], float],
    kind: str,
) -> JobState:
    """Train a cell until it ends as its kind says."""
    last = NUM_STEPS if kind == "runs" else 1 + len(kind) % 3

    def train(config: TrainConfig, attempt: Attempt, resume_from: Path | None, should_stop: Stop) -> FitResult:
        step = step_of(resume_from) if resume_from else 0
        if RunFolder(cell_dir).has_result():
            world.breaks(f"{cell_dir.name} is trained again, and has a result")
        workers, noted = config.execution.trainer.num_workers, clock.monotonic()
        is_right = clock.now() == noted

        def spend() -> None:
            nonlocal noted, is_right
            hours, noted = workers * (clock.monotonic() - noted) / 3600, clock.monotonic()
            is_right &= clock.now() == noted
            world.spends(Spent(owner["campaign"], noted, hours if is_right else 0.0))

        seen = clock.monotonic()
        """When no newer attempt was there."""
        with attempt.recorder() as report:
            for done in range(step, NUM_STEPS):
                for _ in range(4):
                    clock.sleep(step_s() / 4)
                    if attempt.superseded() and clock.monotonic() - seen > STOPS_WITHIN_S:
                        world.breaks(f"{attempt.path} goes on, and a newer attempt has begun")
                    seen = seen if attempt.superseded() else clock.monotonic()
                    if should_stop():
                        return FitResult(finished=False, step=done)
                if kind != "runs" and done - step + 1 >= last:
                    if kind == "killed":
                        world.die()
                    raise ERRORS[kind]()
                report(done, {"loss": 1.0})
                report.before_checkpoint()
                _save(attempt, done + 1)
                spend()
        return FitResult(finished=True, step=NUM_STEPS, num_steps=NUM_STEPS, epoch=1, num_epochs=1, best_miou=0.5,
                         best_epoch=1, last_miou=0.5, best_class_iou=[0.5], last_class_iou=[0.5],
                         num_present_classes=1)  # fmt: skip

    return run_cell(cell_dir, train=train, owner=owner, should_stop=asked, why=why)


def _save(attempt: Attempt, step: int) -> None:
    checkpoint.save(attempt.path, step, {"step": step}, 1)
    os.utime(attempt.checkpoints_dir, (clock.now(), clock.now()))
