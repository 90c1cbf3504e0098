"""How a search stops a training: after each epoch it waits for a verdict, which the driver writes; imports no Ray."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import files
from orchestration.attempt import Attempt
from orchestration.damage import DamagedFileError, tell
from orchestration.failures import FailureClass
from orchestration.fields import COUNT, FLAG, Fields
from orchestration.recorder import EPOCHS
from orchestration.run_cell import Stop, Trainer
from orchestration.run_folder import RunFolder
from rankmatch.config import TrainConfig

if TYPE_CHECKING:  # torch takes seconds to import
    from rankmatch.trainer import FitResult

FOLDER = "verdicts"
POLL_S = 0.05
_OF_VERDICT = Fields({"epoch": COUNT, "stop": FLAG})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided of a point after an epoch."""

    epoch: int = 0
    stop: bool = False


def write(launch_dir: Path, name: str, verdict: Verdict) -> None:
    """Tell a training to go on or to stop."""
    path = launch_dir / FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    files.replace(path, files.to_text({"epoch": verdict.epoch, "stop": verdict.stop}), sync=False)


def read(launch_dir: Path, name: str) -> Verdict:
    """Return the newest verdict of a point; where it is damaged, the point goes on and waits for no other."""
    path = launch_dir / FOLDER / f"{name}.json"
    try:
        known = files.read_json(path, _OF_VERDICT, "the point goes on as if it had not fallen behind")
    except FileNotFoundError:
        return Verdict()
    except DamagedFileError as error:
        tell(error)
        return Verdict(sys.maxsize)
    return Verdict(known["epoch"], known["stop"])


class StopByVerdict:
    """Tells whether to stop with a checkpoint, at step edges; waits where an epoch's verdict is due."""

    def __init__(self, attempt: Attempt, launch_dir: Path, asked: Stop) -> None:
        self._attempt, self._launch_dir, self._asked = attempt, launch_dir, asked
        self._seen, self._stop = -1, False

    def __call__(self) -> bool:
        """Tell it."""
        if self._asked():
            return True
        rows = self._attempt.path / EPOCHS
        size = rows.stat().st_size if rows.exists() else 0
        if size != self._seen:
            cell = RunFolder(self._attempt.path.parents[1])
            epoch = max((row["epoch"] for row in cell.epochs()), default=0)
            while (verdict := read(self._launch_dir, cell.path.name)).epoch < epoch:
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
) -> "FitResult":
    return train(config, attempt, resume_from, StopByVerdict(attempt, launch_dir, should_stop))


def why(launch_dir: Path, name: str) -> Callable[[], str]:
    """Return what says of what class an early end was, as `run_cell` asks it."""
    return partial(_why, launch_dir, name)


def _why(launch_dir: Path, name: str) -> str:
    verdict = read(launch_dir, name)
    return f"{FailureClass.OUTPERFORMED}\nafter epoch {verdict.epoch}" if verdict.stop else ""
