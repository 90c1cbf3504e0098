"""Which checkpoints of a cell stay: an attempt takes over those of earlier ones, and then nobody needs these any more.

Whoever wrote a checkpoint may yet live, on a node that was given up. So an attempt links what it takes over into its
own folder before it removes anything, and one that has a follower removes nothing: the follower does.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.attempt import Attempt, with_limits
from orchestration.patience import patiently
from orchestration.recorder import Row
from rankmatch.hashing import sha256_of


def newest(attempts: Sequence[Attempt]) -> Path | None:
    """Find the newest intact checkpoint among those whose rows count, whichever attempt has it.

    Raises:
        OSError: One cannot be read, also after minutes.
    """
    from rankmatch import checkpoint  # torch takes seconds to import

    while True:
        seen = patiently(lambda: _that_count(attempts))
        found = patiently(lambda: checkpoint.first_intact(seen))  # noqa: B023 (called at once)
        # Where a newer one vanished meanwhile, it was pruned behind one that is newer still, or linked to a follower.
        if all(path.exists() for path in seen[: seen.index(found) if found in seen else None]):
            return found


def adopt(earlier: Sequence[Attempt], heir: Attempt, num_kept: int) -> Path | None:
    """Link the newest checkpoints into an attempt's folder; return the newest intact one's place there.

    Args:
        earlier: All attempts before it.
        heir: The attempt.
        num_kept: How many it shall have, in case that the newest is damaged later.
    """
    from rankmatch import checkpoint

    while found := newest(earlier):
        with suppress(FileNotFoundError):  # pruned behind a newer one
            place = checkpoint.adopt(found, heir.path, _best_of_earlier_version(earlier))
            _adopt_older(earlier, heir, num_kept, checkpoint.step_of(found))
            return place
    return None


def discard(attempts: Sequence[Attempt], *, up_to: Path | None = None) -> None:
    """Remove the checkpoints and best weights of attempts whose follower has taken them over; what resists stays.

    Args:
        attempts: The attempts.
        up_to: The newest checkpoint that was taken over; an attempt with a newer one keeps that, and its best weights.
    """
    from rankmatch import checkpoint

    for attempt in attempts:
        if up_to is not None and _has_newer(attempt, up_to):
            for path in checkpoint.newest_first(attempt.path):
                if checkpoint.order_of(path) <= checkpoint.order_of(up_to):
                    shutil.rmtree(path, ignore_errors=True)
            continue
        shutil.rmtree(attempt.path / checkpoint.FOLDER, ignore_errors=True)
        for path in (attempt.path / checkpoint.BEST, *attempt.path.glob(f".{checkpoint.BEST}.*")):
            with suppress(OSError):
                path.unlink()


def settle(attempt: Attempt, num_kept: int) -> None:
    """Keep of an attempt that published its result the best weights and so many of its checkpoints."""
    from rankmatch import checkpoint

    checkpoint.prune(attempt.path, num_kept)
    if num_kept == 0:
        shutil.rmtree(attempt.path / checkpoint.FOLDER, ignore_errors=True)


def num_of(attempt: Attempt) -> int:
    """Count an attempt's checkpoints, by their names and without torch."""
    return len(list(attempt.path.glob("checkpoints/step_*")))


def keep_weights(cell_dir: Path, result: Row, attempts: Sequence[Attempt]) -> bool:
    """See to it that the weights are there which a result names; False: no attempt has them.

    A follower may have removed them when the result was about to be published; then it has linked them before.
    """
    model = result.get("model")
    if not model:  # no epoch counted, or an earlier version wrote the result and named none
        return "model" in result or (cell_dir / "attempts" / str(result["attempt"]) / "best.pt").is_file()
    place = cell_dir / model["path"]
    if _is(place, model):
        return True
    from rankmatch import checkpoint

    for attempt in reversed(attempts):
        for path in (attempt.path / checkpoint.BEST, *attempt.path.glob(f"{checkpoint.FOLDER}/*/{checkpoint.BEST}")):
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
    """List the checkpoints, newest first, whose rows no later attempt repeats: from others rows would be missing."""
    from rankmatch import checkpoint

    limits = zip(with_limits(attempts), with_limits(attempts, of_epochs=True), strict=True)
    found = [
        path
        for (attempt, of_steps), (_, of_epochs) in reversed([*limits])  # of equal ones that of the newest attempt
        for path in checkpoint.newest_first(attempt.path)
        if checkpoint.step_of(path) <= (of_epochs if checkpoint.is_evaluated(path) else of_steps)
    ]
    return sorted(found, key=checkpoint.order_of, reverse=True)


def _has_newer(attempt: Attempt, known: Path) -> bool:
    from rankmatch import checkpoint

    return any(checkpoint.order_of(path) > checkpoint.order_of(known) for path in checkpoint.newest_first(attempt.path))


def _adopt_older(earlier: Sequence[Attempt], heir: Attempt, num_kept: int, step: int) -> None:
    from rankmatch import checkpoint

    found = reversed(_that_count(earlier))
    older = {checkpoint.step_of(path): path for path in found if checkpoint.step_of(path) < step}
    for _, path in sorted(older.items(), reverse=True)[: num_kept - 1]:
        with suppress(FileNotFoundError):
            checkpoint.adopt(path, heir.path)


def _best_of_earlier_version(attempts: Sequence[Attempt]) -> Path | None:
    """Find best weights beside the checkpoints, for a checkpoint that does not hold them itself."""
    from rankmatch import checkpoint

    places = (attempt.path / checkpoint.BEST for attempt in reversed(attempts))
    return next((place for place in places if place.exists()), None)
