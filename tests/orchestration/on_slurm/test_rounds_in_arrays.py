"""Cells that start round by round in arrays: one for each kind of resources, about as fast as the plan says."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from orchestration_fakes import flags

from orchestration.on_slurm import submissions
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.commands import Job, QueuedJob
from orchestration.on_slurm.lanes import lanes
from orchestration.on_slurm.scheduler import SlurmScheduler
from orchestration.on_slurm.site import Site
from orchestration.planning.order import makespan
from orchestration.runs.jobs import CellJob

HOUR = 3600.0
OWNER = {"launch": "l", "campaign": "l", "commit": "c", "provenance": {}}
WIDE = [replace(CellJob(Path("c"), estimate_s=HOUR), num_workers=workers) for workers in (1, 1, 1, 1, 1, 1, 2)]
TIMES = [CellJob(Path("c"), estimate_s=hours * HOUR) for hours in (10, 8, 6, 4, 2) for _ in range(4)]


@dataclass
class Running:
    """An array as Slurm has it."""

    waiting: list[CellJob]
    throttle: int
    after: str | None
    ends: list[float] = field(default_factory=list)


def in_rounds(tmp_path: Path, entries: list[CellJob], seeds: int) -> list[CellJob]:
    cells = tmp_path / "grid" / "cells"
    return [replace(job, cell_dir=cells / f"{n:012x}-c") for n, job in enumerate(entries * seeds)]


def submitted(slurm, tmp_path: Path, jobs: list[CellJob], most: int) -> dict[str, Running]:
    launch_dir = tmp_path / "grid" / "launches" / "1"
    launch_dir.mkdir(parents=True)
    SlurmScheduler(Site(ClusterConfig(), tmp_path / "code"), max_concurrent=most).submit(jobs, launch_dir, OWNER)
    by_name = {job.name: job for job in jobs}
    found = {one.job_id: [by_name[cell] for cell in one.cells] for _, one in submissions.read(tmp_path / "grid")}
    asked = {str(number): flags(script) for number, script in enumerate(slurm.scripts, 1)}
    return {
        number: Running(found[number], int(one["array"].partition("%")[2]), one.get("dependency"))
        for number, one in asked.items()
    }


def queued(arrays: dict[str, Running]) -> list[QueuedJob]:
    states = {name: ["RUNNING"] * len(one.ends) + ["PENDING"] * len(one.waiting) for name, one in arrays.items()}
    return [
        QueuedJob(Job(f"{name}_{place}", name), state, "", "")
        for name, of_array in states.items()
        for place, state in enumerate(of_array)
    ]


def simulated_s(arrays: dict[str, Running], most: int) -> float:
    """Return when the last cell ends if a controller shares the lanes every ten minutes."""
    now = 0.0
    while True:
        for one in arrays.values():
            one.ends = [end for end in one.ends if end > now]
        active = {name: one for name, one in arrays.items() if one.ends or one.waiting}
        if not active:
            return now
        for one in active.values():
            while one.waiting and len(one.ends) < one.throttle and (one.after or "").partition(":")[2] not in active:
                one.ends.append(now + (one.waiting.pop(0).estimate_s or 0.0))
        assert sum(len(one.ends) for one in active.values()) <= most
        shared = lanes(queued(active), most)
        for array in () if shared.is_full else shared.throttled:
            arrays[array.number].throttle = shared.of[array]
        now += 600


def test_each_kind_of_resources_is_one_array_in_the_plans_order(slurm, tmp_path):
    jobs = in_rounds(tmp_path, WIDE, 5)
    arrays = submitted(slurm, tmp_path, jobs, 8)
    assert [one.waiting for one in arrays.values()] == [
        [job for job in jobs if job.num_workers == workers] for workers in (1, 2)
    ]
    assert [(one.throttle, one.after) for one in arrays.values()] == [(7, None), (1, None)]


@pytest.mark.parametrize(("entries", "seeds", "most"), [(WIDE, 5, 8), (TIMES, 3, 16)])
def test_arrays_take_hardly_longer_than_the_plan_says(slurm, tmp_path, entries, seeds, most):
    jobs = in_rounds(tmp_path, entries, seeds)
    arrays = submitted(slurm, tmp_path, jobs, most)
    assert len(arrays) == len({(job.num_workers, job.estimate_s) for job in jobs})
    assert simulated_s(arrays, most) <= 1.2 * makespan([job.estimate_s for job in jobs], most)
