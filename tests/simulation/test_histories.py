"""Seeded histories of a cluster that lies; a seed that breaks something stays a test of its own.

`make test` plays the first ones, `make test-simulation` as many as HISTORIES says, from the seed that FIRST says.
"""

import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulation.history import Outcome, play

from orchestration.launching import step

MEMORY = Path("/dev/shm")
NUM_OF_UNIT = 20
NUM = int(os.environ.get("HISTORIES", str(NUM_OF_UNIT)))
NUM_IN_EACH_TEST = max(5, NUM // 50)
FIRST = int(os.environ.get("FIRST", "0"))
SEEDS = range(FIRST, FIRST + NUM)
BLOCKS = [SEEDS[place : place + NUM_IN_EACH_TEST] for place in range(0, NUM, NUM_IN_EACH_TEST)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: nothing is to outlive the test."""
    place = MEMORY if MEMORY.is_dir() else tmp_path
    with tempfile.TemporaryDirectory(prefix="rankmatch-simulation-", dir=place) as made:
        yield Path(made)


def played(folder: Path, seed: int) -> Outcome:
    outcome = play(folder / str(seed), seed)
    shutil.rmtree(folder / str(seed))
    return outcome


def in_words(outcome: Outcome) -> str:
    return "\n".join([*outcome.diary[-200:], f"history {outcome.seed}: {outcome.broken}"])


@pytest.mark.parametrize("seeds", BLOCKS, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_no_cell_is_trained_twice_or_forgotten_whatever_befalls_slurm_and_whatever_it_says(
    seeds: range,
    folder: Path,
    tell_points: Callable[[str, int, list[str]], None],
    record_property: Callable[[str, object], None],
) -> None:
    outcomes = [played(folder, seed) for seed in seeds]
    broken = [in_words(outcome) for outcome in outcomes if outcome.broken]
    faults = Counter(itertools.chain.from_iterable(Counter(outcome.faults).elements() for outcome in outcomes))
    record_property("simulated", (len(outcomes), sum(outcome.num_events for outcome in outcomes), dict(faults)))
    tell_points(f"histories {seeds.start}-{seeds.stop - 1} of a simulated Slurm", len(outcomes), broken)
    assert not broken, "\n\n".join(broken)


def test_history_is_the_same_whenever_its_seed_is_played(folder: Path) -> None:
    first, second = (play(folder / name, 3) for name in ("first", "second"))
    assert len(first.diary) > 20
    assert first.diary == second.diary


def test_steps_that_do_not_look_for_jobs_whose_numbers_were_lost_are_seen_to_submit_cells_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "settle", lambda _: [])
    assert "have two jobs at once" in play(folder / "3", 3).broken
