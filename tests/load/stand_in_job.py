"""Takes the place of `orchestration.on_ray.job` in jobs of load tests: the order is carried out without torch or Ray.

They take seconds to import, which a job of less than a second cannot spare. All that a cell writes it writes in the
real way, checkpoints included; only their content is JSON.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import IO, Any

STEP_VARIABLE = "LOAD_STEP_S"
"""How long a step takes."""


def save(content: Any, file: IO[bytes]) -> None:
    """Write what a checkpoint holds."""
    file.write(json.dumps(content).encode())


def main() -> None:
    """Carry out the order in the file given first, while the process given second lives, as the real one does."""
    path, parent = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch = ModuleType("torch")
    torch.save = save  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    from simulation import training

    def breaks(what: str) -> None:
        raise AssertionError(what)

    step_s = float(os.environ.get(STEP_VARIABLE, "0"))
    world = training.Trainings(sys.exit, breaks, lambda spent: None)
    sys.exit(training.train_order(world, path, lambda: step_s, lambda: "runs"))


def _end_with(parent: int) -> None:
    from orchestration.on_ray.protocol import kill_session

    while os.getppid() == parent:
        time.sleep(0.5)
    kill_session(os.getpid())
