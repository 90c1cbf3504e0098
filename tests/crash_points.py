"""Where a program can be cut short: at each call that changes the disk, by its end or by an error of that call."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import disk_programs
import system_calls
from system_calls import CHANGES, Call

ERRORS = ("EIO", "ENOSPC", "ESTALE")
HAS_STRACE = shutil.which("strace") is not None
SET = """
set:
  dataset: synthetic
  split: '4'
  backbone: mobilenet_v2
  backbone.pretrained: false
  backbone.width: 0.25
  dataset.scenes.num_train: 8
  dataset.scenes.num_val: 2
  dataset.scenes.size: 32
  augment.crop_size: 33
  trainer.epochs: 1
  trainer.labeled_batch_size: 2
  trainer.unlabeled_batch_size: 2
  trainer.device: cpu
  trainer.num_threads: 1
  trainer.log_every_steps: 1
  tracking.system_every_s: 0
"""
"""Of cells of a few steps."""
GRID = f"""{SET}
axes:
  method: [supervised]
  seed: [0, 1]
table: {{rows: [method]}}
"""
"""Two cells."""


class Programs:
    """Carries out programs in processes of their own, watched or cut short."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed, self.trace = folder, folder / "printed.txt", folder / "trace.txt"
        root = Path(disk_programs.__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONWARNINGS": "default", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, disk_programs.__file__]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.server:  # closes its input, which ends it
            pass

    def __call__(self, program: str, arguments: dict[str, Any], **watched: Any) -> int:
        """Return how the process ended; `printed` has what it said, and `trace` the calls if they are watched."""
        assert self.server.stdin and self.server.stdout
        order = {"program": program, "arguments": arguments, "printed": str(self.printed), **watched}
        self.printed.write_text("")
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def calls(self, program: str, arguments: dict[str, Any], below: Path, *, is_whole: bool = False) -> list[Call]:
        """Carry it out undisturbed; return what it called, in order, about files below a folder."""
        assert self(program, arguments, trace=str(self.trace), is_whole=is_whole) == 0, self.printed.read_text()
        found = system_calls.read(self.trace)
        return [call for call in found if any(path.startswith(str(below)) for path in call.paths)]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call."""

    kind: str
    """`kill`: the process ends before it; else the name of the error that it returns without having done anything."""
    call: Call
    place: str
    """The end of its path, for people."""

    @property
    def injected(self) -> str:
        """What strace is to do."""
        what = "signal=KILL" if self.kind == "kill" else f"error={self.kind}"
        return f"{self.call.name}:{what}:when={self.call.number}"

    def __str__(self) -> str:
        return f"{self.kind} at {self.call.name} {self.call.number}, {self.place}"


def faults(calls: Sequence[Call], kinds: Sequence[str], *, every: int = 1, first: int = 0) -> list[Fault]:
    """Return what may happen at every n-th call: each of several kinds in turn."""
    counted = {(call.name, call.number): call for call in calls if call.name in CHANGES}  # the same in all threads
    return [
        Fault(kinds[place % len(kinds)], call, "/".join(Path(call.paths[-1]).parts[-2:]))
        for place, call in enumerate([*counted.values()][first::every])
    ]


def lost(found: Sequence[Fault], survives: Callable[[Fault], str]) -> list[str]:
    """Return a line for each fault that a program does not survive; `survives` says what is wrong, empty: nothing."""
    return [f"{fault}: {wrong}" for fault in found if (wrong := survives(fault))]
