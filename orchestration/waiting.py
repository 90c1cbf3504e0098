"""Which cells wait for their turn in a launch that stays until its last cell ends."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestration import files
from orchestration.damage import DamagedFileError, tell
from orchestration.fields import COUNT, TEXT, Fields
from orchestration.processes import lives, this_process
from orchestration.run_folder import RunFolder, folders
from orchestration.schedulers import JobState, StateLog

FILE = "launcher.json"
"""Of a launch's folder: the process that launches, and the cells that it trains."""
_OF_LAUNCHER = Fields(
    {"host": TEXT, "pid": COUNT, "process_started": COUNT.or_null(), "cells": TEXT.listed()}, {"pid_namespace": TEXT}
)


@contextmanager
def noted(launch_dir: Path, signatures: Sequence[str]) -> Iterator[None]:
    """Have it written down which cells this process has trained, while it does."""
    files.replace(launch_dir / FILE, files.to_text({**this_process(), "cells": list(signatures)}))
    try:
        yield
    finally:
        (launch_dir / FILE).unlink(missing_ok=True)


def cells(grid_dir: Path) -> dict[str, str]:
    """Return what cells wait for, by signature: those of the newest launch that it has not come to yet."""
    launch_dir = max((path.parent for path in (grid_dir / "launches").glob(f"*/{FILE}")), default=None)
    if launch_dir is None:
        return {}
    try:
        launcher = files.read_json(launch_dir / FILE, _OF_LAUNCHER)
    except DamagedFileError as error:
        tell(error)
        return {}
    is_alive = lives(launcher)
    if is_alive is False:
        return {}
    why = f"waits for its turn in the launch of process {launcher['pid']} on {launcher['host']}"
    why += "" if is_alive else ", if that still lives"
    states, found = StateLog(launch_dir).read(), folders(grid_dir)
    return {
        signature: why
        for signature in launcher["cells"]
        if signature in found and _waits(found[signature], states, launch_dir.name)
    }


def _waits(folder: RunFolder, states: Mapping[str, JobState], launch: str) -> bool:
    state = states.get(folder.path.name)
    if state is JobState.PENDING:
        return True
    if state is not None and state.has_ended:
        return False
    attempts = folder.attempts()
    owner: Mapping[str, Any] = attempts[-1].known_owner() if attempts else {}
    return not folder.has_result() and owner.get("launch") != launch
