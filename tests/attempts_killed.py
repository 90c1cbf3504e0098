"""Attempts at a cell in processes that die at a chosen write: `serve` forks one for each line that it reads.

The lines are JSON: `{"cell": folder, "kill_at": 12, "stop_at": 3}`. `kill_at` counts, from 1, what the attempt changes
below the cell; the process ends at once instead of doing that. `stop_at` is how often it asks in vain whether to stop:
once before it trains, then at each step edge and each image of an evaluation. With `stop_after` it is told to stop once
so many epochs are done. The answer is how the process ended and how many changes it made.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

KILLED = 9
_CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Killer:
    """Ends the process at the n-th change below a folder; half of a row is written where that is an append."""

    def __init__(self, cell: str, kill_at: int | None) -> None:
        self.cell, self.kill_at, self.count = cell, kill_at, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        is_change = event in _CHANGES or (event == "open" and (arguments[2] or 0) & _WRITING)
        if is_change and self.is_below(str(arguments[0])):
            self.tick()

    def is_below(self, path: str) -> bool:
        return path.startswith(self.cell) or not path.startswith("/")  # rmtree names files relative to a handle

    def tick(self) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os._exit(KILLED)

    def write(self, handle: int, content: bytes) -> int:
        self.count += 1
        if self.count == self.kill_at:
            os.pwrite(handle, content[: len(content) // 2], os.fstat(handle).st_size)
            os._exit(KILLED)
        return _write(handle, content)


_write = os.write


def attempt(cell: str, kill_at: int | None = None, stop_at: int | None = None, stop_after: int | None = None) -> int:
    """Train in this process as a launch inline does; return the number of changes."""
    import torch

    from orchestration.machine import files
    from orchestration.running.run_cell import StopCheck, launcher, run_cell, train_inline
    from orchestration.runs.run_folder import RunFolder

    torch.set_num_threads(1)
    killer = Killer(cell, kill_at)
    sys.addaudithook(killer)
    StopCheck.__init__.__defaults__ = (0.0,)  # asked at every step edge
    asked = iter(range(10**6))
    files.os = type("os", (), {**vars(os), "write": staticmethod(killer.write)})

    def should_stop() -> bool:
        is_done = stop_after is not None and len(RunFolder(Path(cell)).epochs()) >= stop_after
        return is_done or (stop_at is not None and next(asked) >= stop_at)

    run_cell(
        Path(cell),
        train=train_inline,
        owner={**launcher(), "commit": "abc"},
        should_stop=should_stop,
    )
    return killer.count


def serve() -> None:
    """Fork a process for each order after the first, which is done here: what it imports the others need not."""
    for number, line in enumerate(sys.stdin):
        answer = _forked(json.loads(line)) if number else {"code": 0, "count": attempt(**json.loads(line))}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _forked(order: dict) -> dict[str, int]:
    read, write = os.pipe()
    child = os.fork()  # safe: with one thread for its operations, torch has started none
    if child == 0:
        with suppress(KeyboardInterrupt):
            _write(write, str(attempt(**order)).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        return {"code": os.waitstatus_to_exitcode(status), "count": int(answer.read() or 0)}


if __name__ == "__main__":
    serve()
