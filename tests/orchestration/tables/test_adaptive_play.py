"""A small version of what docs/results.md says of 1,000 grids: the same draws, fewer of them."""

import numpy as np
import pytest
from benchmarks.play_adaptive import BASELINE, Play, played, plays, train

from orchestration.tables import looks
from orchestration.tables.layouts import Layout


def play_of(name: str, most: int = 5) -> Play:
    (found,) = (play for play in plays(3, most) if play.name.startswith(name))
    return found


def test_table_without_differences_finds_one_in_at_most_one_of_twenty():
    generator = np.random.default_rng(1)
    found = [played(play_of("no difference, 2"), generator) for _ in range(200)]
    assert np.mean([one.is_wrong for one in found]) <= 0.05


@pytest.mark.parametrize(("most", "share"), [(5, 0.85), (8, 0.65)])
def test_differences_as_published_are_found_as_with_all_seeds_for_fewer_gpu_hours(most, share):
    generator = np.random.default_rng(1)
    found = [played(play_of("as published", most), generator) for _ in range(10)]
    assert sum(one.num_agree for one in found) >= 0.98 * sum(one.num_pairs for one in found)
    assert np.mean([one.hours_share for one in found]) < share
    assert not any(one.is_wrong for one in found)


def test_launch_that_sees_only_what_it_trained_decides_as_one_that_replays_everything():
    generator, layout = np.random.default_rng(1), Layout(["method"], ["split"], ["seed"], adaptive=3)
    for play in plays(3, 5):
        records = play.draw(generator)
        entries, pairs = looks.of_records(records, layout, BASELINE)
        seeds, counts = looks.seeds_of(entries.values(), layout), looks.num_seeds(entries, pairs, layout)
        replayed = [looks.needed(entry, counts[place], seeds, layout) for place, entry in entries.items()]
        assert train(records, layout) == set().union(*replayed)
