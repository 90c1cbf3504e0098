"""How a search stops a training: after each epoch it waits for a verdict, which the driver writes; imports no Ray."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.messages import NEEDED, Message
from orchestration.running.run_cell import Stop, Trainer
from orchestration.runs.attempt import Attempt
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import TrainConfig
from rankmatch.fit_result import FitResult

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Verdict(Message):
    """What was decided about a point after an epoch."""

    ADVICE: ClassVar[str] = "the point continues as if it had not fallen behind"

    epoch: int = field(default=0, metadata={NEEDED: True})
    stop: bool = field(default=False, metadata={NEEDED: True})


def write(launch_dir: Path, name: str, verdict: Verdict) -> None:
    """Write whether a training continues or stops."""
    launch = LaunchFolder(launch_dir)
    launch.verdicts_dir.mkdir(exist_ok=True)
    verdict.to_file(launch.verdict_file(name), sync=False)


def read(launch_dir: Path, name: str) -> Verdict:
    """Return the newest verdict of a point; if it is damaged, the point continues and waits for no other."""
    try:
        return Verdict.from_file(LaunchFolder(launch_dir).verdict_file(name))
    except FileNotFoundError:
        return Verdict()
    except DamagedFileError as error:
        tell(error)
        return Verdict(sys.maxsize)


class StopByVerdict:
    """Returns whether to stop with a checkpoint, at step edges; waits if an epoch's verdict is due."""

    def __init__(self, attempt: Attempt, launch_dir: Path, asked: Stop) -> None:
        self._attempt, self._launch_dir, self._asked = attempt, launch_dir, asked
        self._seen, self._stop = -1, False

    def __call__(self) -> bool:
        """Return whether to stop with a checkpoint."""
        if self._asked():
            return True
        rows = self._attempt.epochs_file
        size = rows.stat().st_size if rows.exists() else 0
        if size != self._seen:
            cell = RunFolder(self._attempt.cell_dir)
            epoch = max((row["epoch"] for row in cell.epochs()), default=0)
            while (verdict := read(self._launch_dir, cell.name)).epoch < epoch:
                if self._asked():
                    return True
                time.sleep(POLL_S)
            self._seen, self._stop = size, verdict.stop
        return self._stop


def judged(train: Trainer, launch_dir: Path) -> Trainer:
    """Have a training wait for verdicts."""
    return partial(_train_judged, train, launch_dir)


def _train_judged(
    train: Trainer, launch_dir: Path, config: TrainConfig, attempt: Attempt, resume_from: Path | None, should_stop: Stop
) -> FitResult:
    return train(config, attempt, resume_from, StopByVerdict(attempt, launch_dir, should_stop))


def why(launch_dir: Path, name: str) -> Callable[[], str]:
    """Return the class of an early end, as `run_cell` asks for it."""
    return partial(_why, launch_dir, name)


def _why(launch_dir: Path, name: str) -> str:
    verdict = read(launch_dir, name)
    return f"{FailureClass.OUTPERFORMED}\nafter epoch {verdict.epoch}" if verdict.stop else ""
