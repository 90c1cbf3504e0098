"""Which checkpoints of a cell stay: an attempt takes over those of earlier ones, which then are removed there.

The writer of a checkpoint may still be alive, on a node that was given up. So an attempt first links checkpoints into
its own folder, then removes the earlier ones; a superseded attempt removes nothing, because its successor does.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.runs.attempt import Attempt, with_limits
from orchestration.runs.folders import CellFolder
from orchestration.runs.patience import patiently
from orchestration.runs.recorder import Row
from rankmatch.hashing import sha256_of
from rankmatch.run_files import BEST, is_checkpoint, is_evaluated, order_of, step_of


def newest(attempts: Sequence[Attempt]) -> Path | None:
    """Find the newest intact checkpoint whose rows count, in any attempt.

    Raises:
        OSError: A checkpoint cannot be read, even after minutes of waiting.
    """
    from rankmatch import checkpoint  # torch takes seconds to import

    while True:
        seen = patiently(lambda: _that_count(attempts))
        found = patiently(lambda: checkpoint.first_intact(seen))  # noqa: B023 (called at once)
        # If a newer one vanished meanwhile, an even newer one exists, or a successor has linked it.
        if all(path.exists() for path in seen[: seen.index(found) if found in seen else None]):
            return found


def adopt(earlier: Sequence[Attempt], heir: Attempt, num_kept: int) -> Path | None:
    """Link the newest checkpoints into an attempt's folder; return the new path of the newest intact one.

    Args:
        earlier: All attempts before it.
        heir: The attempt.
        num_kept: How many to link, in case the newest is damaged later.
    """
    from rankmatch import checkpoint

    while found := newest(earlier):
        with suppress(FileNotFoundError):  # pruned after a newer one was written
            place = checkpoint.adopt(found, heir.path, _best_of_earlier_version(earlier))
            _adopt_older(earlier, heir, num_kept, step_of(found))
            return place
    return None


def discard(attempts: Sequence[Attempt], *, up_to: Path | None = None) -> None:
    """Remove checkpoints and best weights of attempts whose successor has taken them over; ignore errors.

    Args:
        attempts: The attempts.
        up_to: The newest checkpoint that was taken over; an attempt with a newer one keeps that, and its best weights.
    """
    from rankmatch import checkpoint

    for attempt in attempts:
        if up_to is not None and _has_newer(attempt, up_to):
            for path in checkpoint.newest_first(attempt.path):
                if order_of(path) <= order_of(up_to):
                    shutil.rmtree(path, ignore_errors=True)
            continue
        shutil.rmtree(attempt.checkpoints_dir, ignore_errors=True)
        for path in (attempt.best_file, *attempt.path.glob(f".{BEST}.*")):
            with suppress(OSError):
                path.unlink()


def settle(attempt: Attempt, num_kept: int) -> None:
    """Prune an attempt with a published result to its best weights and a number of checkpoints."""
    from rankmatch import checkpoint

    checkpoint.prune(attempt.path, num_kept)
    if num_kept == 0:
        shutil.rmtree(attempt.checkpoints_dir, ignore_errors=True)


def num_of(attempt: Attempt) -> int:
    """Count an attempt's checkpoints by name, without torch."""
    return sum(is_checkpoint(path) for path in attempt.checkpoints_dir.glob("*"))


def keep_weights(cell_dir: Path, result: Row, attempts: Sequence[Attempt]) -> bool:
    """Ensure that the weights named in a result exist; return False if no attempt has them.

    A successor may have removed them just before the result was published; then it has links to them.
    """
    model = result.get("model")
    if not model:  # no epoch counted, or a result of an earlier version, which names none
        return "model" in result or CellFolder(cell_dir).attempt(result["attempt"]).best_file.is_file()
    place = cell_dir / model["path"]
    if _is(place, model):
        return True
    from rankmatch import checkpoint

    for attempt in reversed(attempts):
        for path in (attempt.best_file, *attempt.checkpoints_dir.glob(f"*/{BEST}")):
            with suppress(FileNotFoundError):  # pruned meanwhile
                if _is(path, model):
                    checkpoint.show_best(path, place.parent)
                    return True
    return False


def _is(path: Path, model: Row) -> bool:
    try:
        size = path.stat().st_size
        return bool(model.get("bytes", size) == size and sha256_of(path) == model["sha256"])
    except FileNotFoundError:
        return False


def _that_count(attempts: Sequence[Attempt]) -> list[Path]:
    """List the checkpoints, newest first, whose rows no later attempt repeats; resuming from others would lose rows."""
    from rankmatch import checkpoint

    limits = zip(with_limits(attempts), with_limits(attempts, of_epochs=True), strict=True)
    found = [
        path
        for (attempt, of_steps), (_, of_epochs) in reversed([*limits])  # of equal steps, the one of the newest attempt
        for path in checkpoint.newest_first(attempt.path)
        if step_of(path) <= (of_epochs if is_evaluated(path) else of_steps)
    ]
    return sorted(found, key=order_of, reverse=True)


def _has_newer(attempt: Attempt, known: Path) -> bool:
    from rankmatch import checkpoint

    return any(order_of(path) > order_of(known) for path in checkpoint.newest_first(attempt.path))


def _adopt_older(earlier: Sequence[Attempt], heir: Attempt, num_kept: int, step: int) -> None:
    from rankmatch import checkpoint

    found = reversed(_that_count(earlier))
    older = {step_of(path): path for path in found if step_of(path) < step}
    for _, path in sorted(older.items(), reverse=True)[: num_kept - 1]:
        with suppress(FileNotFoundError):
            checkpoint.adopt(path, heir.path)


def _best_of_earlier_version(attempts: Sequence[Attempt]) -> Path | None:
    """Find best weights beside the checkpoints, for a checkpoint of an earlier version that does not contain them."""
    places = (attempt.best_file for attempt in reversed(attempts))
    return next((place for place in places if place.exists()), None)
