import os
from pathlib import Path

import pytest

from orchestration.failures import FailureClass
from orchestration.run_cell import launcher, run_cell
from orchestration.run_folder import RunFolder
from orchestration.schedulers import CellJob, JobState

pytestmark = [
    pytest.mark.ray,
    # Ray Train makes a DataContext, whose own defaults it deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


@pytest.fixture
def train_with_ray(private_ray):
    from orchestration.ray_train import train_with_ray

    return train_with_ray


def test_one_worker_trains_and_leaves_no_files_of_ray(make_cell, train_with_ray):
    cell_dir = make_cell()
    assert run_cell(cell_dir, train=train_with_ray, owner=launcher()) is JobState.DONE
    attempt = cell_dir / "attempts" / "1"
    assert RunFolder(cell_dir).result()["step"] == 2
    assert not (attempt / "ray").exists()


def test_two_workers_train_what_one_does(make_cell, train_with_ray):
    alone = make_cell(seed=1)
    together = alone.with_name("0123456789ab-together")
    text = RunFolder(alone).config().replace("num_workers: 1", "num_workers: 2")
    RunFolder(together).create(text, {})
    assert run_cell(alone, train=train_with_ray, owner=launcher()) is JobState.DONE
    expected = RunFolder(alone).epochs()[0]["loss"]
    assert run_cell(together, train=train_with_ray, owner=launcher()) is JobState.DONE
    assert RunFolder(together).epochs()[0]["loss"] == pytest.approx(expected, rel=1e-3)
    assert RunFolder(together).result()["step"] == 2


def test_exception_of_a_worker_keeps_its_class(make_cell, train_with_ray):
    cell_dir = make_cell(num_workers=2, learning_rate=100.0, epochs=50)
    assert run_cell(cell_dir, train=train_with_ray, owner=launcher()) is JobState.FAILED
    assert RunFolder(cell_dir).state().failure_class == FailureClass.NON_FINITE_LOSS


def test_printed_lines_go_to_the_log(tmp_path, capfd):
    from orchestration.ray_train import output_to

    with output_to(tmp_path / "log"):
        os.write(1, b"output\n")
        os.write(2, b"errors\n")
    os.write(1, b"after\n")
    assert (tmp_path / "log").read_text() == "output\nerrors\n"
    assert capfd.readouterr().out == "after\n"


def test_machine_is_shared_so_that_no_cell_waits_for_ever():
    from orchestration.ray_driver import Machine, max_at_once, share

    def at_once(machine: Machine, *jobs: CellJob, max_concurrent: int | None = None, gpus: float = 1.0) -> int:
        shares = [share(job, machine, max_concurrent=max_concurrent, num_gpus_per_worker=gpus) for job in jobs]
        return max_at_once(shares, machine, max_concurrent)

    path = Path("cell")
    one, two, wide = CellJob(path), CellJob(path, num_workers=2), CellJob(path, num_workers=4, num_cpus_per_worker=3)
    assert [at_once(Machine(cpus, 0), one) for cpus in (1, 2, 64)] == [1, 2, 64]
    assert [at_once(Machine(cpus, 0), two) for cpus in (1, 2, 64)] == [1, 1, 32]
    assert [at_once(Machine(cpus, 0), wide) for cpus in (1, 2, 64)] == [1, 1, 5]
    assert at_once(Machine(64, 0), one, wide) == 5
    assert at_once(Machine(2, 0), one, max_concurrent=3) == 3
    assert at_once(Machine(16, 4), one) == 4
    assert at_once(Machine(16, 1), one, gpus=0.25) == 4
    with pytest.raises(ValueError, match="needs more GPUs than the 1 here"):
        share(two, Machine(16, 1), max_concurrent=None, num_gpus_per_worker=1.0)


def test_private_ray_has_a_short_path_and_the_cpus_it_was_given(private_ray):
    import ray

    assert len(str(private_ray)) <= 40
    assert ray.cluster_resources()["CPU"] == 2
