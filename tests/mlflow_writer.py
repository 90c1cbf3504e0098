"""Jobs as far as MLflow sees them: each writes a run folder step by step, with its own run mirrored beside it."""

import os
import sys
import time
from pathlib import Path

from orchestration.mirror import mirror_thread
from orchestration.mirror.mirror_thread import mirrored
from orchestration.mirror.tracking import MIRROR
from orchestration.runs.run_folder import RunFolder

STEPS, PER_EPOCH, STEP_S = 60, 20, 0.05
RESULT = {"num_steps": STEPS, "epoch": 3, "num_epochs": 3, "best_miou": 0.3, "best_epoch": 3, "last_miou": 0.3}


def main(folder: Path, experiment_id: str, first: int, last: int, gate: Path) -> None:
    mirror_thread.JOB_EVERY_S, mirror_thread.JOB_FINISH_S = 1.0, 120.0
    attempt = RunFolder(folder).claim({MIRROR: experiment_id, "launch": "l1", "commit": "c0ffee"})
    attempt.event("started", step=first)
    with mirrored(RunFolder(folder), attempt):
        with attempt.recorder() as report:
            for step in range(first, last):
                while step == STEPS // 2 and not gate.exists():
                    time.sleep(0.05)
                report(step, {"loss": 1.0 / (step + 1), "learning_rate": 0.1})
                report.flush()
                if step % PER_EPOCH == PER_EPOCH - 1:
                    epoch = step // PER_EPOCH + 1
                    report(step, {"epoch": epoch, "num_epochs": 3, "num_steps": STEPS, "miou": epoch / 10})
                time.sleep(STEP_S)
        if last == STEPS:
            attempt.publish({**RESULT, "step": last})
        else:
            attempt.event("stopped", step=last)


def run_all(experiment_id: str, first: int, last: int, gate: Path, folders: list[Path]) -> None:
    """Be that many jobs, which wait half way for the gate; MLflow takes seconds to import: once, before they part."""
    import mlflow.tracking  # noqa: F401

    children = []
    for folder in folders:
        child = os.fork()
        if child == 0:
            main(folder, experiment_id, first, last, gate)
            sys.stderr.flush()
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(codes))


if __name__ == "__main__":
    run_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), [Path(word) for word in sys.argv[5:]])
