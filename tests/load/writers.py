"""Attempts at many cells in a few processes, which write rows, events and results as trainings do, all at once."""

import os
import sys
import time
from pathlib import Path

from orchestration.machine.processes import this_process
from orchestration.runs.attempt import Attempt
from orchestration.runs.recorder import Recorder
from orchestration.runs.run_folder import RunFolder

EPOCHS, STEPS_PER_EPOCH = 4, 3
ROWS = EPOCHS * STEPS_PER_EPOCH
ATTEMPTS = 2
"""The first one of each cell fails half way."""


def miou(epoch: int) -> float:
    """Return the figure of an epoch, by which readers know what was written."""
    return epoch / 10


def result_of(step: int) -> dict[str, object]:
    """Return the result of a cell."""
    return {"step": step, "num_steps": ROWS, "epoch": EPOCHS, "num_epochs": EPOCHS, "best_miou": miou(EPOCHS),
            "best_epoch": EPOCHS, "last_miou": miou(EPOCHS), "best_class_iou": [miou(EPOCHS)] * 3,
            "last_class_iou": [miou(EPOCHS)] * 3, "num_present_classes": 3, "duration_s": 4.0,
            "gpu_duration_s": 0.0}  # fmt: skip


class Writer:
    """What writes one cell, an epoch at a time."""

    def __init__(self, path: Path) -> None:
        self.folder, self.epoch, self.is_done = RunFolder(path), 0, False
        self.attempt: Attempt | None = None
        self.recorder: Recorder | None = None

    def write(self) -> None:
        """Begin an attempt, write an epoch of it, or end it."""
        if self.attempt is None:
            self._begin()
        elif self.epoch == EPOCHS // 2 and self.attempt.number < ATTEMPTS:
            self.attempt.event("failed", kind="lost", error="LostError", message="gone", traceback="")
            self.attempt = None
        elif self.epoch == EPOCHS:
            self.attempt.publish(result_of(ROWS))
            self.is_done = True
        else:
            self._epoch(self.recorder)

    def _begin(self) -> None:
        provenance = {"commit": "c0ffee", "provenance": {"commit": "c0ffee"}}
        self.attempt = self.folder.claim({**this_process(), "launch": "l1", **provenance})
        self.attempt.event("started", step=self.epoch * STEPS_PER_EPOCH)
        self.recorder = self.attempt.recorder()

    def _epoch(self, report: Recorder) -> None:
        for step in range(self.epoch * STEPS_PER_EPOCH, (self.epoch + 1) * STEPS_PER_EPOCH):
            report(step, {"loss": 1.0 / (step + 1)})
            report.flush()
        self.epoch += 1
        self.attempt.say(f"epoch {self.epoch}")
        report(step, {"epoch": self.epoch, "num_epochs": EPOCHS, "num_steps": ROWS, "miou": miou(self.epoch),
                      "best_miou": miou(self.epoch)})  # fmt: skip


def run(gate: Path, seconds: float, paths: list[Path]) -> None:
    """Write all of them in turn, spread over so many seconds, once the gate is open."""
    writers = [Writer(path) for path in paths]
    rounds = ATTEMPTS * 2 + EPOCHS
    while not gate.exists():
        time.sleep(0.02)
    for _ in range(rounds + 1):
        due = time.monotonic() + seconds / rounds
        for writer in writers:
            if not writer.is_done:
                writer.write()
        time.sleep(max(0.0, due - time.monotonic()))
    sys.exit(0 if all(writer.is_done for writer in writers) else 1)


if __name__ == "__main__":
    os.nice(5)
    run(Path(sys.argv[1]), float(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
