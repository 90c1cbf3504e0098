"""Play many histories on all cores and print what they came to; `make test-simulation` does."""

import argparse
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from simulation.history import Outcome, play
from simulation.tally import Tally

MEMORY = Path("/dev/shm")
EVERY = 10
"""Every tenth seed has a second history, with cells that are away."""
NUM_LINES = 50
"""How many lines tell of the progress where it is no terminal's."""


def main(words: Sequence[str] | None = None) -> int:
    """Return 1 if a history broke something, or a kind of fault befell none of many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one; the others count from there")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args(words)
    tally, start = Tally(), time.monotonic()
    histories = histories_of(range(asked.first, asked.first + asked.histories))
    for outcome in played(histories, asked.processes):
        tally.add(outcome)
        if outcome.broken:
            sys.stdout.write(f"\n{outcome.in_words()}\n\n")
            sys.stdout.flush()
        _tell_progress(tally, len(histories), time.monotonic() - start)
    lacking = tally.lacking()
    said = [f"no history had {', '.join(lacking)}"] if lacking else []
    sys.stdout.write("\n".join(["", *tally.lines(), *said, ""]))
    return int(tally.num_broken > 0 or bool(lacking))


def histories_of(seeds: Sequence[int]) -> list[tuple[int, bool]]:
    """Return which histories seeds have: one each, and every tenth seed another one, in which cells are away."""
    return [(seed, away) for seed in seeds for away in (False, True) if not (away and seed % EVERY)]


def played(histories: Sequence[tuple[int, bool]], num_processes: int) -> Iterator[Outcome]:
    """Play histories, by seed and whether cells are away, and return what came of them in their order."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="histories-") as folder:
        one = partial(play_and_remove, Path(folder))
        if num_processes == 1:
            yield from itertools.starmap(one, histories)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_be_quiet) as pool:
            yield from pool.map(one, *zip(*histories, strict=True))


def play_and_remove(folder: Path, seed: int, cells_away: bool = False) -> Outcome:
    """Play a history and leave nothing of it on the disk."""
    place = folder / f"{seed}{'-away' * cells_away}"
    outcome = play(place, seed, cells_away=cells_away)
    shutil.rmtree(place)
    return outcome


def _be_quiet() -> None:
    """Leave out what launches and controllers print: thousands of them do."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)


def _tell_progress(tally: Tally, wanted: int, seconds: float) -> None:
    num, is_seen = tally.num_histories, sys.stderr.isatty()
    if not is_seen and num % max(1, wanted // NUM_LINES):
        return
    rest_min = seconds / num * (wanted - num) / 60
    text = f"{num:,} of {wanted:,} histories, {tally.num_broken:,} broken, {rest_min:.0f} min left"
    sys.stderr.write(f"\r{text} " if is_seen else f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
