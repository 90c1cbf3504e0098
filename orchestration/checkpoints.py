"""Which checkpoints of a cell stay: an attempt takes over those of earlier ones, and then nobody needs these any more.

Whoever wrote a checkpoint may yet live, on a node that was given up. So an attempt links what it takes over into its
own folder before it removes anything, and one that has a follower removes nothing: the follower does.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.attempt import Attempt


def newest(attempts: Sequence[Attempt]) -> Path | None:
    """Find the newest intact checkpoint of the newest attempt that has one."""
    from rankmatch import checkpoint  # torch takes seconds to import

    while True:
        seen = [path for attempt in reversed(attempts) for path in checkpoint.newest_first(attempt.path)]
        found = next((path for attempt in reversed(attempts) if (path := checkpoint.newest(attempt.path))), None)
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


def discard(attempts: Sequence[Attempt]) -> None:
    """Remove the checkpoints and best weights of attempts whose follower has taken them over; what resists stays."""
    from rankmatch import checkpoint

    for attempt in attempts:
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


def _adopt_older(earlier: Sequence[Attempt], heir: Attempt, num_kept: int, step: int) -> None:
    from rankmatch import checkpoint

    found = [path for attempt in reversed(earlier) for path in checkpoint.newest_first(attempt.path)]
    older = {checkpoint.step_of(path): path for path in reversed(found) if checkpoint.step_of(path) < step}
    for _, path in sorted(older.items(), reverse=True)[: num_kept - 1]:
        with suppress(FileNotFoundError):
            checkpoint.adopt(path, heir.path)


def _best_of_earlier_version(attempts: Sequence[Attempt]) -> Path | None:
    """Find best weights beside the checkpoints, for a checkpoint that does not hold them itself."""
    from rankmatch import checkpoint

    places = (attempt.path / checkpoint.BEST for attempt in reversed(attempts))
    return next((place for place in places if place.exists()), None)
