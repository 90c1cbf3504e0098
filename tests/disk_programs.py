"""Programs of the project in processes that strace watches: `serve` forks one for each line that it reads.

The lines are JSON: `{"program": "cell", "arguments": {...}, "printed": file, "trace": file, "injected":
"fsync:signal=KILL:when=3"}`. The answer is how the process ended, negative if by a signal. What one had to import
the server imports for later ones.
"""

import importlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from system_calls import traced
from torch import Tensor, nn

from orchestration.running.run_cell import StopCheck, launcher, run_cell, train_inline
from orchestration.runs.run_folder import RunFolder
from rankmatch import trainer

NUM_STEPS = 2
"""Of an epoch of the stand-in."""


class Pixelwise(nn.Module):
    """A network of a few numbers, which stands in for a real one where only what is written counts."""

    low_channels = high_channels = 1

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_classes, 1)
        with torch.no_grad():
            self.head.weight.fill_(0.1)
            self.head.bias.copy_(torch.arange(num_classes) / 10)

    def forward(self, images: Tensor) -> tuple[Tensor, None, None]:
        return self.head(images), None, None


class Steps:
    """An epoch without data."""

    def __init__(self, first: int) -> None:
        self.first, self.stopped = first, False

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, NUM_STEPS))


def step_without_data(run: Any, batch: object) -> dict[str, Tensor]:
    """Change the weights as a step does, by numbers that depend on the step alone."""
    number = run.result.step
    with torch.no_grad():
        run.network.head.weight.add_(((-1) ** number) * 0.01 * (number + 1))
    loss = torch.tensor([1.0 / (number + 1), 1.0], dtype=torch.float64)
    run.figures.totals["loss"] = run.figures.totals.get("loss", torch.zeros_like(loss)) + loss
    return {"loss": loss}


def stand_in() -> None:
    """Replace what a training computes; what it writes, and when, stays as it is."""
    trainer.make_network = lambda config, device: Pixelwise(config.numerics.dataset.num_classes)
    trainer.TrainLoader.epoch = lambda loader, epoch, first_step, should_stop: Steps(first_step)
    trainer.TrainLoader.steps_per_epoch = NUM_STEPS
    trainer._Run._step = step_without_data


def cell(path: str, *, is_real: bool = False, stop_after: int | None = None) -> int:
    """Train a cell, as a launch inline does, or so many of its epochs."""
    if not is_real:
        stand_in()
    StopCheck.__init__.__defaults__ = (0.0,)  # asked at every step edge
    folder = RunFolder(Path(path))
    run_cell(
        folder.path,
        train=train_inline,
        owner={**launcher(), "commit": "abc"},
        should_stop=lambda: stop_after is not None and len(folder.epochs()) >= stop_after,
    )
    return 0 if folder.has_result() else 1


def command(words: Sequence[str]) -> int:
    """Carry out a command line; its cells are trained by the stand-in."""
    from orchestration.commands.main import main

    stand_in()
    sys.argv = ["rankmatch", *words]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def on_slurm(fake: str, words: Sequence[str] = (), step_of: str = "") -> int:
    """Carry out a launch on a Slurm that is not there, whose jobs all wait; or a controller's step of a launch."""
    from orchestration_fakes import FakeSlurm, flags
    from rich.console import Console

    from orchestration.launching.step import take_step
    from orchestration.machine import snapshot
    from orchestration.on_slurm import commands

    slurm = FakeSlurm(Path(fake))
    for number, script in enumerate(slurm.scripts, 1):
        last = flags(script).get("array", "").partition("%")[0].partition("-")[2]
        jobs = [f"{number}_{place}" for place in range(int(last) + 1)] if last else [f"{number}"]
        slurm.queued |= dict.fromkeys(jobs, ("PENDING", ""))
    for job in (Path(fake) / "ended").read_text().split():
        slurm.queued.pop(job, None)
    os.environ["PATH"] = f"{fake}:{os.environ['PATH']}"
    commands.output, commands.submit_script = slurm.output, slurm.submit_controller
    snapshot.take = lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", "")
    if not step_of:
        return command(words)
    take_step(Path(step_of), Console())
    return 0


def store(path: str) -> int:
    """Make an empty store of MLflow, which takes some thousands of calls."""
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return 0


PROGRAMS = {"cell": cell, "command": command, "on_slurm": on_slurm, "store": store}


def serve() -> None:
    """Carry out each order in a process of its own."""
    torch.set_num_threads(1)
    patience_of_tests()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_forked(**json.loads(line))) + "\n")
        sys.stdout.flush()


def patience_of_tests() -> None:
    """Wait less where a file server may come back; as often as ever."""
    from orchestration.runs import patience

    patience.clock = SimpleNamespace(sleep=lambda seconds: None)


def _forked(
    program: str,
    arguments: dict[str, Any],
    printed: str,
    trace: str = "",
    injected: str = "",
    *,
    is_whole: bool = False,
) -> int:
    waits, go = os.pipe()
    known = {*sys.modules}
    child = os.fork()  # safe: with one thread for its operations, torch has started none
    if child == 0:
        os.close(go)
        os.read(waits, 1)
        _carry_out(program, arguments, printed, known=None if trace else known)
    os.close(waits)
    watcher = traced(child, Path(trace), injected=injected, is_whole=is_whole) if trace else None
    os.close(go)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if watcher:
        watcher.wait()
    else:
        _learn(Path(f"{printed}.modules"))
    return code


def _learn(path: Path) -> None:
    """Import what a process had to import, so that later ones need not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in path.read_text().split() if path.exists() else ():
            with suppress(Exception):  # modules that are made up, or need what only that process had
                importlib.import_module(name)


def _carry_out(program: str, arguments: dict[str, Any], printed: str, known: set[str] | None) -> None:
    code = 70
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(printed, "a", encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(out):  # noqa: PTH123
        with suppress(OSError):
            os.dup2(out.fileno(), 2)
        try:
            code = PROGRAMS[program](**arguments)
        except BaseException:
            traceback.print_exc()
        with suppress(OSError):
            out.flush()
    if known is not None:
        Path(f"{printed}.modules").write_text("\n".join(name for name in sys.modules if name not in known))
    os._exit(code)


if __name__ == "__main__":
    serve()
