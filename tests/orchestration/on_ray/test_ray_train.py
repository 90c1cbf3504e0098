import os

import pytest

from orchestration.grids.cells import Cell, compose, from_yaml
from orchestration.running.run_cell import launcher, run_cell
from orchestration.runs.failures import FailureClass
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("private_ray"),
    # Ray Train makes a DataContext, whose own defaults it deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


@pytest.fixture
def train_with_ray(private_ray):
    from orchestration.on_ray.train import train_with_ray

    return train_with_ray


def test_one_worker_trains_and_leaves_no_files_of_ray(make_cell, train_with_ray):
    cell_dir = make_cell()
    assert run_cell(cell_dir, train=train_with_ray, owner=launcher()) is JobState.DONE
    attempt = cell_dir / "attempts" / "1"
    assert RunFolder(cell_dir).result()["step"] == 2
    assert not (attempt / "ray").exists()


@pytest.mark.filterwarnings("ignore:.*trainer.learning_rate=2e-06 does nothing")
def test_two_workers_have_the_losses_of_one_over_twenty_steps(make_cell, train_with_ray):
    made = make_cell(seed=1, epochs=20, learning_rate=2e-6)
    # The supervised method makes no choice that rounding in float32 could flip, and small steps do not amplify it: the
    # weights of the head start small, and under batch norm a step counts relative to their square.
    text = RunFolder(made).config().replace("name: fixmatch", "name: supervised")
    text = text.replace("log_every_steps: 10", "log_every_steps: 1")
    signature = Cell(from_yaml(text), {}).signature
    alone, together = (made.with_name(f"{signature}-{name}") for name in ("alone", "together"))
    RunFolder(alone).create(text, {})
    RunFolder(together).create(text.replace("num_workers: 1", "num_workers: 2"), {})
    assert run_cell(alone, train=train_with_ray, owner=launcher()) is JobState.DONE
    assert run_cell(together, train=train_with_ray, owner=launcher()) is JobState.DONE
    expected, losses = (RunFolder(cell).steps()["loss"].to_pylist() for cell in (alone, together))
    assert len(losses) == 20
    assert losses == pytest.approx(expected, rel=5e-4)


def test_exception_of_a_worker_keeps_its_class(make_cell, train_with_ray):
    cell_dir = make_cell(num_workers=2, learning_rate=100.0, epochs=50)
    assert run_cell(cell_dir, train=train_with_ray, owner=launcher()) is JobState.FAILED
    assert RunFolder(cell_dir).state().failure_class == FailureClass.NON_FINITE_LOSS


def test_printed_lines_go_to_the_log(tmp_path, capfd):
    from orchestration.on_ray.train import output_to

    with output_to(tmp_path / "log"):
        os.write(1, b"output\n")
        os.write(2, b"errors\n")
    os.write(1, b"after\n")
    assert (tmp_path / "log").read_text() == "output\nerrors\n"
    assert capfd.readouterr().out == "after\n"


def test_private_ray_has_a_short_path_and_the_cpus_it_was_given(private_ray):
    import ray

    assert len(str(private_ray)) <= 40
    assert ray.cluster_resources()["CPU"] == 2


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "settled"), [(-1, 4, 1, 3), (-1, 1, 1, 0), (-1, 4, 0, 0), (2, 4, 1, 2)]
)
def test_images_are_loaded_beside_a_gpu_by_the_cpus_that_are_granted(asked, cpus, gpus, settled):
    from orchestration.on_ray.train import Grant, with_data_workers

    config = compose({"backbone.pretrained": False, "trainer.num_data_workers": asked})
    assert with_data_workers(config, Grant(cpus, gpus)).execution.trainer.num_data_workers == settled
