"""A step that is not finite is noticed as such, though nobody looks before the next row, and can be looked at again."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import rankmatch
from rankmatch import checkpoint, trainer
from rankmatch.bad_steps import BadStep, FiniteWatch, NonFiniteLossError, StepToLeaveOutError
from rankmatch.data.catalog import open_dataset
from rankmatch.data.loaders import TrainLoader
from rankmatch.data.splits import read_splits
from rankmatch.diagnostics import class_counts
from rankmatch.epoch_figures import summed

BAD = 6
"""The second step of the second epoch."""


class Rows(list):
    def __call__(self, step, row):
        self.append(step)


def of_nan(part):
    """Make a pass's loss NaN, as a loss that overflows does."""
    bad = part.losses | {"s1": part.losses["s1"] * math.nan} if "s1" in part.losses else part.losses
    return replace(part, loss=part.loss * math.nan, losses=bad)


def of_gradient(part):
    """Leave the loss as it is and make its gradient NaN, as that of a root at 0 is."""
    return replace(part, loss=part.loss + (part.loss * 0).sqrt())


@pytest.fixture
def broken(monkeypatch):
    """Spoil the passes of some steps of all runs that follow."""

    def spoil(how, *steps):
        step_of, passes = trainer._Run._step, trainer.passes
        now = []

        def step(run, batch):
            now[:] = [run.result.step]
            return step_of(run, batch)

        monkeypatch.setattr(trainer._Run, "_step", step)
        monkeypatch.setattr(
            trainer, "passes", lambda *views: (how(part) if now[0] in steps else part for part in passes(*views))
        )

    return spoil


@pytest.fixture
def seldom_logged(tiny_config):
    """A run of two epochs of five steps, of which only the first of all is logged before an epoch ends."""
    config = tiny_config()
    config.execution.trainer.log_every_steps = 1000
    return config


def test_loss_that_is_not_finite_between_two_rows_is_told_with_its_step_and_images(broken, seldom_logged, tmp_path):
    rows = Rows()
    broken(of_nan, BAD)
    said = rf"the loss is nan at step {BAD} of 10 \(not finite: loss_s1\); its images are in {tmp_path}/bad_step.json"
    with pytest.raises(NonFiniteLossError, match=said):
        rankmatch.fit(seldom_logged, tmp_path, rows)
    assert rows == [0, 4]  # the first step and the first epoch: nothing of the second
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == ["step_5"]
    found = json.loads((tmp_path / "bad_step.json").read_text())
    assert {name: found[name] for name in ("step", "num_steps", "seed", "epoch", "step_of_epoch", "leave_out")} == {
        "step": BAD, "num_steps": 10, "seed": 0, "epoch": 1, "step_of_epoch": 1, "leave_out": False
    }  # fmt: skip
    assert found["losses"]["loss"] == "nan" and math.isfinite(found["losses"]["loss_x"])
    loader = TrainLoader(seldom_logged, read_splits(seldom_logged), open_dataset(seldom_logged))
    batches = list(loader.epoch(1))
    (worker,) = found["workers"]
    assert not worker["is_finite"]
    assert [int(position) for position in worker["labeled"]] == batches[1].labeled_positions
    assert [int(position) for position in worker["unlabeled"]] == batches[1].positions
    assert all(name.endswith(".png") for kind in ("labeled", "unlabeled", "partners") for name in worker[kind].values())


def test_weights_that_a_finite_loss_breaks_reach_no_checkpoint(broken, seldom_logged, tmp_path):
    seldom_logged.execution.trainer.checkpoint_every_min = 0
    broken(of_gradient, BAD)
    with pytest.raises(NonFiniteLossError, match=f"weights are not finite after step {BAD} of 10, though its loss is"):
        rankmatch.fit(seldom_logged, tmp_path, Rows())
    newest = checkpoint.newest(tmp_path)
    assert newest.name == f"step_{BAD}"  # with so many steps done: the one that broke them is the next
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(newest)["model"].values())
    assert json.loads((tmp_path / "bad_step.json").read_text())["workers"][0]["is_finite"]


def test_weights_that_the_last_step_breaks_give_no_result(broken, seldom_logged, tmp_path):
    broken(of_gradient, 9)
    with pytest.raises(NonFiniteLossError, match="weights are not finite after step 9 of 10"):
        rankmatch.fit(seldom_logged, tmp_path, Rows())
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == ["step_5"]


def test_run_that_leaves_the_step_out_ends_the_same_wherever_its_last_checkpoint_was(broken, seldom_logged, tmp_path):
    seldom_logged.numerics.trainer.when_not_finite = "leave_out"
    broken(of_nan, BAD)
    results = {}
    for minutes in (0, 10):
        seldom_logged.execution.trainer.checkpoint_every_min = minutes
        folder = tmp_path / str(minutes)
        with pytest.raises(StepToLeaveOutError):
            rankmatch.fit(seldom_logged, folder, Rows())
        assert json.loads((folder / "bad_step.json").read_text())["leave_out"]
        newest = checkpoint.newest(folder)
        assert newest.name == ("step_6" if minutes == 0 else "step_5")
        results[minutes] = rankmatch.fit(seldom_logged, folder, Rows(), left_out=[BAD])
        assert results[minutes].finished and results[minutes].steps_left_out == [BAD]
    assert results[0] == results[10]
    states = [checkpoint.load(tmp_path / name / "checkpoints" / "step_10")["model"] for name in ("0", "10")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_second_step_that_is_not_finite_ends_the_run_for_good(broken, seldom_logged, tmp_path):
    seldom_logged.numerics.trainer.when_not_finite = "leave_out"
    broken(of_nan, BAD, BAD + 2)
    with pytest.raises(NonFiniteLossError, match=f"at step {BAD + 2} of 10") as caught:
        rankmatch.fit(seldom_logged, tmp_path, Rows(), left_out=[BAD])
    assert not isinstance(caught.value, StepToLeaveOutError)
    assert not json.loads((tmp_path / "bad_step.json").read_text())["leave_out"]


def test_step_left_out_before_the_checkpoint_counts_though_the_file_that_said_so_is_lost(
    broken, seldom_logged, tmp_path
):
    seldom_logged.numerics.trainer.when_not_finite = "leave_out"
    seldom_logged.execution.trainer.checkpoint_every_min = 0
    broken(of_nan, BAD, BAD + 2)
    with pytest.raises(NonFiniteLossError):
        rankmatch.fit(seldom_logged, tmp_path, Rows(), left_out=[BAD])
    (tmp_path / "bad_step.json").unlink()
    with pytest.raises(NonFiniteLossError, match=f"at step {BAD + 2} of 10") as caught:
        rankmatch.fit(seldom_logged, tmp_path, Rows())
    assert not isinstance(caught.value, StepToLeaveOutError)
    assert not json.loads((tmp_path / "bad_step.json").read_text())["leave_out"]


def test_epoch_without_any_step_has_the_losses_of_the_others_without_values(broken, seldom_logged, tmp_path):
    seldom_logged.numerics.trainer.when_not_finite = "leave_out"
    seldom_logged.numerics.trainer.labeled_batch_size = seldom_logged.numerics.trainer.unlabeled_batch_size = 10
    broken(of_nan, 1)
    told = []
    with pytest.raises(StepToLeaveOutError):
        rankmatch.fit(seldom_logged, tmp_path, lambda step, row: told.append(row))
    rankmatch.fit(seldom_logged, tmp_path, lambda step, row: told.append(row), left_out=[1])
    first, second = (row for row in told if "epoch" in row)
    losses = {name for name in first if name.startswith("loss")}
    assert {"loss", "loss_x"} < losses
    assert {name: second.get(name, "absent") for name in losses} == dict.fromkeys(losses)


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr(trainer.bad_steps, "replacing", lambda path: (_ for _ in ()).throw(OSError(28, "full")))


@pytest.mark.usefixtures("full_disk")
def test_disk_that_takes_no_description_hides_no_failure(broken, seldom_logged, tmp_path):
    broken(of_nan, 0)
    with pytest.raises(NonFiniteLossError, match="at step 0 of 10.* could not be written down: .*full"):
        rankmatch.fit(seldom_logged, tmp_path, Rows())


@pytest.mark.usefixtures("full_disk")
def test_step_that_cannot_be_written_down_is_not_promised_to_be_left_out(broken, seldom_logged, tmp_path):
    seldom_logged.numerics.trainer.when_not_finite = "leave_out"
    broken(of_nan, 0)
    with pytest.raises(NonFiniteLossError, match="written down, so it cannot be left out: .*full") as caught:
        rankmatch.fit(seldom_logged, tmp_path, Rows())
    assert not isinstance(caught.value, StepToLeaveOutError)


class Waits(TorchDispatchMode):
    """Notes operations for whose result the program waits."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "bincount", "is_nonzero"):
            self.seen.append(str(function))
        return function(*arguments, **options or {})


def test_to_keep_a_step_in_mind_waits_for_nothing():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    watch, labels = FiniteWatch(network, torch.device("cpu")), torch.randint(0, 3, (2, 9, 9))
    with Waits() as waits:
        for step, loss in enumerate((1.0, math.inf, math.nan)):
            counts = {"labels": class_counts(labels, labels != 255, 3)}
            figures = summed({"loss": torch.tensor(loss)}, {}, counts)
            watch.note(step, figures.pairs, figures.bad_workers)
        assert waits.seen == []
        assert watch.found() == BadStep(1, {"loss": math.inf}, [0])
        assert waits.seen != []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_weight_or_statistic_that_is_not_finite_is_enough(value):
    for name in ("0.weight", "1.running_var"):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
        watch, loss = FiniteWatch(network, torch.device("cpu")), {"loss": torch.tensor([2.0, 1.0])}
        watch.note(0, loss, torch.zeros(1))
        assert watch.found() is None
        network.state_dict()[name].view(-1)[3] = value
        watch.note(1, loss, torch.zeros(1))
        assert watch.found() == BadStep(1, {"loss": 2.0}, [])


def test_worker_whose_loss_is_not_finite_is_named():
    watch = FiniteWatch(torch.nn.Linear(1, 1), torch.device("cpu"))
    watch.note(3, {"loss": torch.tensor([math.nan, 3.0])}, torch.tensor([0.0, 0.0, 1.0]))
    assert watch.found().workers == [2]


def test_classes_are_counted_on_a_grid_and_without_those_that_do_not_count():
    labels = torch.full((1, 8, 8), 255)
    labels[0, 0, 0], labels[0, 4, 4], labels[0, 4, 0], labels[0, 1, 1] = 2, 2, 0, 1
    assert class_counts(labels, labels != 255, 3).tolist() == [1, 0, 2]
