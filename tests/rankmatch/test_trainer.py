import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rankmatch
from rankmatch import checkpoint, diagnostics, trainer
from rankmatch.data import loaders, workers
from rankmatch.data.loaders import TrainLoader
from rankmatch.diagnostics import RATIOS
from rankmatch.distributed import World
from rankmatch.methods import METHODS
from rankmatch.models import build_model
from rankmatch.models.weights import load_checkpoint
from rankmatch.optimisation import make_optimizer, set_learning_rate
from rankmatch.trainer import NonFiniteLossError

GOLDEN = Path(__file__).with_name("golden_losses.json")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Rows(list):
    def __call__(self, step, row):
        untimed = {key: value for key, value in row.items() if key not in ("duration_s", "evaluation_s")}
        self.append((step, untimed))

    def losses(self):
        return [row["loss"] for _, row in self if "epoch" not in row]


def stop_at(step):
    """Say stop at the step edge before step number `step`."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= step


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_the_committed_run(method, tiny_config, tmp_path):
    rows, usual = Rows(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in float32 a rounding grows to a percent within four steps
    # Batch norm over the pooled features of two images has the rounding of another CPU grow to 1e-3, too.
    batch_size = 3 if method == "supervised" else 2
    try:
        rankmatch.fit(tiny_config(method, epochs=1, batch_size=batch_size), tmp_path, rows)
    finally:
        torch.set_default_dtype(usual)
    assert rows.losses() == pytest.approx(json.loads(GOLDEN.read_text())[method], rel=1e-6)


# Stops are asked for before each of 5 steps, then before each of 3 images: at 5 to 7 and 13 to 15 it evaluates.
@pytest.mark.parametrize(("stop", "step"), [(3, 3), (5, 5), (6, 5), (8, 5), (9, 6), (13, 10), (15, 10)])
def test_resumed_run_equals_uninterrupted(stop, step, tiny_config, tmp_path):
    config, whole, parts = tiny_config(), Rows(), Rows()
    expected = rankmatch.fit(config, tmp_path / "whole", whole)
    stopped = rankmatch.fit(config, tmp_path / "first", parts, should_stop=stop_at(stop))
    assert (stopped.finished, stopped.step) == (False, step)
    resumed = rankmatch.fit(config, tmp_path / "second", parts, resume_from=checkpoint.newest(tmp_path / "first"))
    assert resumed == expected
    assert parts == whole
    states = [checkpoint.load(checkpoint.newest(tmp_path / name)) for name in ("whole", "second")]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name
    assert states[0]["result"] == states[1]["result"] and states[0]["totals"] == states[1]["totals"] == {}


def test_evaluation_that_is_stopped_again_and_again_is_done_in_the_end_and_told_once(tiny_config, tmp_path):
    config, whole, parts = tiny_config(), Rows(), Rows()
    expected = rankmatch.fit(config, tmp_path / "whole", whole)
    for stop in (6, 1, 2, 0):
        rankmatch.fit(config, tmp_path / "parts", parts, should_stop=stop_at(stop))
    assert [path.name for path in checkpoint.newest_first(tmp_path / "parts")] == ["step_5_before_evaluation"]
    assert rankmatch.fit(config, tmp_path / "parts", parts) == expected
    assert parts == whole
    assert [path.name for path in checkpoint.newest_first(tmp_path / "parts")] == ["step_10", "step_5"]


def test_run_goes_on_from_the_newest_checkpoint_of_its_own_folder(tiny_config, tmp_path):
    rows = Rows()
    rankmatch.fit(tiny_config(), tmp_path, rows, should_stop=stop_at(4))
    assert rankmatch.fit(tiny_config(), tmp_path, rows).finished
    assert [step for step, row in rows if "epoch" not in row] == list(range(10))


RANK_RATIOS = ("zero_agent_share", "top_k_weight", "order_mass", "order_agreement")


@pytest.mark.parametrize("method", METHODS)
def test_epoch_tells_how_its_steps_went(method, tiny_config, tmp_path):
    rows = Rows()
    rankmatch.fit(tiny_config(method, epochs=1), tmp_path, rows)
    *steps, epoch = (row for _, row in rows)
    means = {name: sum(row[name] for row in steps) / 5 for name in steps[0] if name.startswith("loss")}
    means |= {name: sum(row[name] for row in steps) / 5 for name in RANK_RATIOS if method == "rankmatch"}
    assert {name: epoch[name] for name in means} == pytest.approx(means)
    assert {name for name in RATIOS if name in epoch} == {
        "supervised": set(),
        "rankmatch": set(RATIOS),
    }.get(method, {"mask_ratio", "pseudo_label_accuracy"})
    assert all(0 <= epoch[name] <= 1 for name in RATIOS if name in epoch)


def test_accuracy_of_an_epoch_is_over_its_pixels_not_its_steps(tiny_config, tmp_path, monkeypatch):
    config, rows, parts = tiny_config(epochs=1, confidence_threshold=0.345), Rows(), []

    def watched(*arguments):
        parts.append(diagnostics.pseudo_label_ratios(*arguments))
        return parts[-1]

    monkeypatch.setattr("rankmatch.step.pseudo_label_ratios", watched)
    rankmatch.fit(config, tmp_path, rows)
    sums, counts = zip(*(part["pseudo_label_accuracy"] for part in parts), strict=True)
    assert len({int(count) for count in counts}) > 1
    assert rows[-1][1]["pseudo_label_accuracy"] == pytest.approx(sum(sums).item() / sum(counts).item())


def test_true_labels_of_unlabeled_images_change_no_other_number(tiny_config, tmp_path):
    config, read, unread = tiny_config(), Rows(), Rows()
    rankmatch.fit(config, tmp_path / "read", read)
    config.execution.trainer.pseudo_label_accuracy = False
    rankmatch.fit(config, tmp_path / "unread", unread)
    assert unread[-1][1]["pseudo_label_accuracy"] is None
    for (_, row), (_, other) in zip(read, unread, strict=True):
        assert row.pop("pseudo_label_accuracy") >= 0
        assert other.pop("pseudo_label_accuracy") is None
        assert row == other


def test_data_workers_change_nothing(tiny_config, tmp_path):
    config, own, others = tiny_config(epochs=1), Rows(), Rows()
    rankmatch.fit(config, tmp_path / "own", own)
    config.execution.trainer.num_data_workers = 2
    rankmatch.fit(config, tmp_path / "others", others)
    assert own == others


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("method", ["supervised", "rankmatch"])
def test_two_workers_have_the_losses_of_one(method, tiny_config, tmp_path):
    config, rows = tiny_config(method, epochs=4, batch_size=4), Rows()
    config.numerics.trainer.learning_rate = 0.001  # a larger one blows rounding up, tenfold and more a step
    rankmatch.fit(config, tmp_path / "one", rows)
    config.execution.trainer.num_workers = 2
    torch.save(config, tmp_path / "config.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", str(Path(__file__).with_name("fit_as_worker.py")), str(tmp_path)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(rankmatch.__file__).parents[1]))
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for (_, row), (_, other) in zip(rows, json.loads((tmp_path / "rows.json").read_text()), strict=True):
        timings = {"duration_s", "evaluation_s"}
        assert {key: value for key, value in other.items() if key not in timings} == pytest.approx(row, rel=1e-6)


def test_one_of_several_workers_asks_whether_to_stop_while_it_waits_for_data_and_stays(
    tiny_config, tmp_path, monkeypatch
):
    crops, asked, step_0, voted = loaders._Crops.__getitems__, [], [], []

    def late(*arguments):
        time.sleep(1.5)
        return crops(*arguments)

    def vote(self):
        step_0.append(len(asked))
        voted.append(self.world.size)
        raise KeyboardInterrupt  # the workers are asked together from here on

    monkeypatch.setattr(loaders._Crops, "__getitems__", late)
    monkeypatch.setattr(workers, "POLL_S", 0.1)
    monkeypatch.setattr(trainer, "world", lambda: World(0, 2))
    monkeypatch.setattr(trainer, "DistributedDataParallel", lambda network, **_: network)
    monkeypatch.setattr(trainer._Run, "_stop_agreed", vote)
    config = tiny_config(num_workers=2)
    config.execution.trainer.num_data_workers = 1
    with pytest.raises(KeyboardInterrupt):
        rankmatch.fit(config, tmp_path, Rows(), should_stop=lambda: asked.append(1) or True)
    assert voted == [2] and step_0[0] > 2


def test_processes_must_be_as_many_as_the_configuration_says(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="trainer.num_workers must be 1, the processes of the group; got 2"):
        rankmatch.fit(tiny_config(num_workers=2), tmp_path, Rows())


def test_checkpoint_of_another_number_of_steps_is_refused(tiny_config, tmp_path, monkeypatch):
    rankmatch.fit(tiny_config(), tmp_path, Rows(), should_stop=stop_at(1))
    monkeypatch.setattr(TrainLoader, "__init__", longer(TrainLoader.__init__))
    by = f"by numerics {rankmatch.NUMERICS}"
    with pytest.raises(ValueError, match=f"a run of 10 steps {by}; this one has 12 {by}"):
        rankmatch.fit(tiny_config(), tmp_path, Rows())


def longer(original):
    """Let a loader have one step more an epoch, as a grown list does."""

    def init(self, *arguments, **options):
        original(self, *arguments, **options)
        self.steps_per_epoch += 1

    return init


def test_checkpoints_of_a_course_that_was_given_up_are_removed(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {"step": step}, 3)
    checkpoint.save(tmp_path, 15, {"step": 15}, 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_15"]


def test_full_disk_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoint.save(tmp_path, 10, {"step": 10}, 1)
    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 20, {"step": 20}, 1)
    assert {path.name for path in tmp_path.rglob("*")} == {"checkpoints", "step_10", "state.pt", "manifest.json"}


def test_checkpoint_of_other_numerics_is_refused(tiny_config, tmp_path):
    rankmatch.fit(tiny_config(), tmp_path, Rows(), should_stop=stop_at(1))
    with pytest.raises(ValueError, match=r"trained with method.weight_rank=0.1; this run has 0.3"):
        rankmatch.fit(tiny_config(weight_rank=0.3), tmp_path, Rows())


def test_damaged_checkpoint_is_passed_over_with_a_warning(tiny_config, tmp_path):
    rankmatch.fit(tiny_config(), tmp_path, Rows())
    (tmp_path / "checkpoints" / "step_10" / "state.pt").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="step_10 is damaged"):
        assert checkpoint.newest(tmp_path).name == "step_5"


def test_only_the_newest_checkpoints_are_kept(tiny_config, tmp_path):
    rankmatch.fit(tiny_config(epochs=4), tmp_path, Rows())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_15", "step_20"}


def test_best_model_loads_strictly(tiny_config, tmp_path):
    config = tiny_config("supervised")
    rankmatch.fit(config, tmp_path, Rows())
    model = build_model(config.numerics.model)
    load_checkpoint(model, tmp_path / "best.pt")
    saved = torch.load(tmp_path / "best.pt", weights_only=True)["model"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_loss_that_is_not_finite_ends_the_run(tiny_config, tmp_path):
    config = tiny_config("supervised")
    config.numerics.trainer.learning_rate = 1e38
    with pytest.raises(NonFiniteLossError, match="weights are not finite after step 0 of 10"):
        rankmatch.fit(config, tmp_path, Rows())


def test_weights_that_are_another_file_are_refused(tiny_config, tmp_path):
    config = tiny_config("supervised")
    config.numerics.backbone = replace(config.numerics.backbone, pretrained=True, weights_sha256="0" * 64)
    config.execution.backbone.weights = str(tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match="is not the file with SHA-256 0000"):
        rankmatch.fit(config, tmp_path, Rows())


def test_poly_schedule_and_the_head_factor(tiny_config):
    network = torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1), "head": torch.nn.Linear(1, 1)})
    numerics = tiny_config().numerics
    optimizer = make_optimizer(network, numerics)
    rate = set_learning_rate(optimizer, 5, 10, 0.9)
    assert rate == pytest.approx(0.01 * 2 / 8 * 0.5**0.9)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(10 * rate)


def test_schedule_of_the_authors_code_lags_by_a_step(tiny_config, tmp_path):
    base = 0.01 * 2 / 8
    for lag, places in ((0, [0, 1, 2, 3, 4]), (1, [0, 0, 1, 2, 3]), (7, [0] * 5)):
        config, rows = tiny_config("supervised", epochs=1), Rows()
        config.numerics.trainer.learning_rate_lag = lag
        rankmatch.fit(config, tmp_path / str(lag), rows)
        *steps, epoch = (row["learning_rate"] for _, row in rows)
        assert steps == pytest.approx([base * (1 - place / 5) ** 0.9 for place in places])
        assert epoch == steps[-1]


@pytest.mark.parametrize("stop", [1, 2])
def test_lag_is_kept_by_a_run_that_resumes(stop, tiny_config, tmp_path):
    config, whole, parts = tiny_config("supervised"), Rows(), Rows()
    config.numerics.trainer.learning_rate_lag = 1
    rankmatch.fit(config, tmp_path / "whole", whole)
    rankmatch.fit(config, tmp_path / "parts", parts, should_stop=stop_at(stop))
    rankmatch.fit(config, tmp_path / "parts", parts)
    assert parts == whole


def test_checkpoint_older_than_a_field_is_of_its_neutral_value(tiny_config, tmp_path):
    config = tiny_config("supervised")
    rankmatch.fit(config, tmp_path, Rows(), should_stop=stop_at(1))
    (path,) = (tmp_path / "checkpoints").iterdir()
    state = checkpoint.load(path)
    del state["numerics"]["trainer"]["learning_rate_lag"]
    checkpoint.save(tmp_path / "old", 1, state, 1)
    old = checkpoint.newest(tmp_path / "old")
    config.numerics.trainer.learning_rate_lag = 1
    with pytest.raises(ValueError, match=r"trained with trainer.learning_rate_lag=0; this run has 1"):
        rankmatch.fit(config, tmp_path / "new", Rows(), resume_from=old)
    config.numerics.trainer.learning_rate_lag = 0
    assert rankmatch.fit(config, tmp_path / "new", Rows(), resume_from=old).finished
    state["numerics"]["trainer"]["younger"] = 1
    checkpoint.save(tmp_path / "young", 1, state, 1)
    with pytest.raises(ValueError, match=r"trained with trainer.younger, which this version does not know"):
        rankmatch.fit(config, tmp_path / "new", Rows(), resume_from=checkpoint.newest(tmp_path / "young"))


def test_step_of_bfloat16_is_near_that_of_float32(tiny_config, tmp_path):
    rows = {}
    for precision in ("float32", "bfloat16"):
        config = tiny_config(epochs=1, confidence_threshold=0.0)  # rounding is not to choose pixels
        config.numerics.trainer.precision = precision
        rankmatch.fit(config, tmp_path / precision, rows.setdefault(precision, Rows()))
    assert rows["bfloat16"].losses()[0] == pytest.approx(rows["float32"].losses()[0], rel=0.02)
    assert rows["bfloat16"].losses() != rows["float32"].losses()
