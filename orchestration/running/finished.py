"""What a finished cell keeps: its best weights and some checkpoints; the rest is removed once the weights are safe."""

import sys

from orchestration.grids.cells import from_yaml
from orchestration.machine.processes import lives
from orchestration.runs import checkpoints
from orchestration.runs.attempt import Attempt
from orchestration.runs.recorder import Row
from orchestration.runs.run_folder import RunFolder
from rankmatch.run_files import BEST


def settle(folder: RunFolder) -> bool:
    """Remove what a finished cell no longer needs; false: it stays, and the reason was printed."""
    try:
        result, attempts = folder.result(), folder.attempts()
        if result is None:
            return False
        if not checkpoints.keep_weights(folder.path, result, attempts):
            place = (result.get("model") or {}).get("path", BEST)
            sys.stderr.write(
                f"{folder.path / place} is not the file that the result names, and no attempt has that; "
                "its checkpoints stay\n"
            )
            return False
        *earlier, last = [attempt for attempt in attempts if attempt.number <= result["attempt"]]
        checkpoints.discard(earlier)
        checkpoints.settle(last, from_yaml(folder.config()).execution.trainer.keep_checkpoints)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"checkpoints of {folder.path} are left behind: {error}\n")
        return False
    return True


def give_way(folder: RunFolder, attempt: Attempt) -> None:
    """Remove the weights of an attempt whose cell another one finished, unless they are the only ones."""
    try:
        if settle(folder) and (folder.result() or {}).get("attempt") != attempt.number:
            checkpoints.discard([attempt])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"checkpoints of {attempt.path} are left behind: {error}\n")


def settle_leftovers(folder: RunFolder, num_kept: int) -> None:
    """Settle a finished cell whose process was killed before it could; one with nothing left is only looked at."""
    try:
        result, attempts = folder.result(), folder.attempts()
        if result is None or not any(_has_leftovers(attempt, result, num_kept) for attempt in attempts):
            return
        later = [attempt for attempt in attempts if attempt.number > result["attempt"]]
        if settle(folder):
            checkpoints.discard([attempt for attempt in later if lives(attempt.known_owner()) is not True])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"checkpoints of {folder.path} are left behind: {error}\n")


def _has_leftovers(attempt: Attempt, result: Row, num_kept: int) -> bool:
    if attempt.number == result["attempt"]:
        return checkpoints.num_of(attempt) > num_kept
    return attempt.checkpoints_dir.is_dir() or attempt.best_file.is_file()
