"""Write MLflow on a thread beside the work, so that a dead, slow or restarting store does not hold up the training.

What it misses is in the run folders; the thread continues when the store is back, or `rankmatch sync` does.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestration.mirror.mlflow_store import Store, StoreError
from orchestration.mirror.store_uri import URI_VARIABLE
from orchestration.mirror.tracking import MIRROR, Mirror, MirroredCell
from orchestration.runs import hints
from orchestration.runs.attempt import Attempt
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState

EVERY_S, LONGEST_S = 5.0, 60.0
"""Seconds between two syncs; while the store does not answer, twice as long each time."""
JOB_EVERY_S = 10.0
JOB_FINISH_S = 20.0
"""How long a job whose training has ended waits for the store."""


class MirrorThread(threading.Thread):
    """Connect, sync repeatedly, and reconnect after an error."""

    def __init__(
        self,
        connect: Callable[[], Mirror],
        sync: Callable[[Mirror], None],
        *,
        mirror: Mirror | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        """Take functions that open a mirror and bring it up to date; `mirror` is one that is already open."""
        super().__init__(name="mlflow-mirror", daemon=True)
        self._connect, self._sync, self._mirror, self._every_s = connect, sync, mirror, every_s
        self._ended = threading.Event()
        self._last: Callable[[Mirror], None] | None = None
        self._error = ""

    def run(self) -> None:
        """Sync until `finish` is called, and once more then."""
        wait_s = self._every_s
        while not self._ended.wait(wait_s):
            is_done = self._try(self._sync)
            wait_s = self._every_s if is_done else min(2 * wait_s, LONGEST_S)
        if self._try(self._sync) and self._last:
            self._try(self._last)

    def finish(self, timeout_s: float, last: Callable[[Mirror], None] | None = None) -> str:
        """Wait for a last sync and the action after it; return what went wrong, if anything."""
        self._last = last
        self._ended.set()
        self.join(timeout_s)
        return f"the store did not answer within {timeout_s:.0f} s" if self.is_alive() else self._error

    def _try(self, work: Callable[[Mirror], None]) -> bool:
        self._error = "the mirror broke down"  # an unforeseen error ends this thread, never a training
        try:
            self._mirror = self._mirror or self._connect()
            work(self._mirror)
        except (StoreError, OSError, ValueError) as error:
            self._mirror = None  # its memory may differ from the store
            self._error = str(error)
            return False
        self._error = ""
        return True


@contextmanager
def mirrored(folder: RunFolder, attempt: Attempt) -> Iterator[None]:
    """Let a job write its own run while it trains, if its launch said so."""
    experiment_id, uri = attempt.known_owner().get(MIRROR), os.environ.get(URI_VARIABLE, "")
    if not experiment_id:
        yield
        return
    if not uri:
        _say(folder, f"{URI_VARIABLE} is not set in the job")
        yield
        return
    cell = MirroredCell(folder, {}, folder.signature)

    def connect() -> Mirror:
        mirror = Mirror(Store(uri), experiment_id)
        if not mirror.find(cell.signature):
            raise StoreError("the launch made no run for the cell")
        return mirror

    def sync(mirror: Mirror) -> None:
        state = folder.look()
        if state.status is not CellState.DAMAGED and not attempt.superseded():
            mirror.sync_cell(cell, state)

    thread = MirrorThread(connect, sync, every_s=JOB_EVERY_S)
    thread.start()
    try:
        yield
    finally:
        if error := thread.finish(JOB_FINISH_S):
            _say(folder, error)


def _say(folder: RunFolder, why: str) -> None:
    writes = f"which {hints.command('sync', folder.grid.path)} will write"
    sys.stderr.write(f"MLflow lacks rows of {folder.name}, {writes}: {why}\n")
