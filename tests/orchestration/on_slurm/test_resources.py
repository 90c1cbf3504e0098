from pathlib import Path

import pytest

from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.resources import Resources, pilot_node, resources, shares, time_min
from orchestration.runs.jobs import CellJob

SITE = ClusterConfig(gpus_per_node=4, cpus_per_worker=8, mem_gb_per_worker=10)


def job(num_workers: int = 1, **settings) -> CellJob:
    return CellJob(Path("abc-cell"), num_workers=num_workers, **settings)


def test_workers_are_spread_evenly_over_nodes():
    assert resources(job(4, estimate_s=0), SITE) == Resources(1, 32, 4, 40.0, 15)
    assert resources(job(6, estimate_s=0), SITE) == Resources(2, 24, 3, 30.0, 15)
    assert resources(job(2, device="cpu", estimate_s=0), SITE).gpus_per_node == 0


def test_workers_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="trainer.num_workers=5 must be a multiple of the 2 nodes"):
        resources(job(5), SITE)


@pytest.mark.parametrize(
    ("estimate_s", "settings", "limit", "minutes"),
    [
        (0, {}, None, 15),
        (1800, {}, None, 75),
        (3600 * 10, {}, None, 15 + 1200 + 45),
        (3600 * 10, {}, 600, 600),
        (3600 * 10, {"max_time_min": 300}, 600, 300),
        (3600, {"time_min": 7}, None, 7),
        (None, {}, None, 1440),
    ],
)
def test_time_limit_follows_the_estimate_within_what_is_allowed(estimate_s, settings, limit, minutes):
    assert time_min(estimate_s, ClusterConfig(**settings), limit) == minutes


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([5, 3], None, [5, 3]),
        ([90, 10], 10, [9, 1]),
        ([1, 99], 10, [1, 9]),
        ([50, 50, 50], 2, [1, 1]),
        ([97, 1, 1, 1], 4, [1, 1, 1, 1]),
        ([1, 40, 1], 4, [1, 2, 1]),
        ([30, 40, 1, 1, 1], 6, [1, 2, 1, 1, 1]),
        ([2, 2], 100, [2, 2]),
        ([1000], 16, [16]),
    ],
)
def test_arrays_share_one_limit(lengths, most, expected):
    assert shares(lengths, most) == expected


def test_node_of_a_pilot_holds_the_largest_cell_in_each_respect_and_as_many_workers_as_share_its_gpus():
    wide = job(4, estimate_s=0)
    long = job(1, estimate_s=3600, mem_gb_per_worker=64)
    assert pilot_node([wide, long], SITE, 1.0) == Resources(1, 32, 4, 64.0, 180)
    assert pilot_node([job(1, estimate_s=0)], SITE, 1 / 3) == Resources(1, 24, 1, 30.0, 15)
    on_cpus = job(2, device="cpu", estimate_s=0)
    assert pilot_node([on_cpus, job(1, device="cpu", estimate_s=0)], SITE, 1.0) == Resources(1, 16, 0, 20.0, 15)
