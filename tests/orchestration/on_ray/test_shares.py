from pathlib import Path

import pytest

from orchestration.on_ray.orders import Sharing
from orchestration.on_ray.shares import Machine, Node, Share, max_at_once, share, shunned
from orchestration.runs.jobs import CellJob

PATH = Path("cell")
ONE, TWO, WIDE = CellJob(PATH), CellJob(PATH, num_workers=2), CellJob(PATH, num_workers=4, num_cpus_per_worker=3)


def machine(num_cpus: float, num_gpus: int = 0, num_nodes: int = 1) -> Machine:
    return Machine((Node(num_cpus, num_gpus),) * num_nodes)


def at_once(there: Machine, *jobs: CellJob, max_concurrent: int | None = None, gpus: float = 1.0) -> int:
    shares = [share(job, there, Sharing(max_concurrent, gpus)) for job in jobs]
    num = max_at_once(shares, there, max_concurrent)
    for entry in shares:  # no deadlock: the workers of so many cells all have their place
        assert there.fits(entry.num_cpus, entry.num_gpus) >= num * entry.job.num_workers
    return num


def test_machine_is_shared_so_that_no_cell_waits_for_ever():
    assert [at_once(machine(cpus), ONE) for cpus in (1, 2, 64)] == [1, 2, 64]
    assert [at_once(machine(cpus), TWO) for cpus in (1, 2, 64)] == [1, 1, 32]
    assert [at_once(machine(cpus), WIDE) for cpus in (1, 2, 64)] == [1, 1, 5]
    assert at_once(machine(64), ONE, WIDE) == 5
    assert at_once(machine(2), ONE, max_concurrent=3) == 3
    assert at_once(machine(1), TWO, max_concurrent=2) == 2
    assert at_once(machine(16, 4), ONE) == 4


def test_workers_share_a_gpu_but_never_lie_on_two():
    assert at_once(machine(16, 1), ONE, gpus=0.25) == 4
    assert at_once(machine(16, 2), ONE, gpus=0.4) == 4
    assert at_once(machine(16, 2), TWO, gpus=0.4) == 2


def test_nodes_are_filled_one_by_one():
    assert at_once(machine(3, num_nodes=2), CellJob(PATH, num_cpus_per_worker=2)) == 2
    assert at_once(machine(1, num_nodes=3), TWO) == 1
    assert at_once(machine(4, 2, num_nodes=2), CellJob(PATH, num_workers=4)) == 1
    wide = CellJob(PATH, num_workers=3, num_cpus_per_worker=2)
    assert share(wide, machine(2, num_nodes=2), Sharing()) == Share(wide, 1.0, 0.0)


def test_head_without_cpus_and_nodes_without_gpus_are_passed_over():
    mixed = Machine((Node(0), Node(64), Node(4, 2)))
    assert at_once(mixed, CellJob(PATH, device="cpu")) == 68
    assert at_once(mixed, CellJob(PATH, num_cpus_per_worker=4)) == 1
    assert at_once(mixed, CellJob(PATH, num_workers=2, num_cpus_per_worker=4)) == 1


def test_more_gpus_than_there_are_are_refused():
    with pytest.raises(ValueError, match="trainer.num_workers=2 of cell needs more GPUs than the 1 there are"):
        share(TWO, machine(16, 1), Sharing())


def test_cell_shuns_the_hosts_it_failed_on_unless_only_those_can_hold_it():
    nodes = (Node(4, 0, "a", "1"), Node(4, 0, "b", "2"), Node(1, 0, "c", "3"))
    one, two = Share(ONE, 4.0, 0.0), Share(TWO, 4.0, 0.0)
    assert shunned(one, nodes, ()) == ()
    assert shunned(one, nodes, ("a",)) == ("1",)
    assert shunned(one, nodes, ("a", "gone")) == ("1",)
    assert shunned(one, nodes, ("a", "b")) == ()  # c is too small
    assert shunned(two, nodes, ("a",)) == ()  # and one of two workers would have no place
