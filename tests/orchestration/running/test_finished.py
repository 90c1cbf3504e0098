"""The weights that a result names are there, whatever second attempt begins at the end of the first."""

import json
from pathlib import Path

import pytest

from orchestration.grids.grid import load
from orchestration.grids.launched import run_folders
from orchestration.launching import steps
from orchestration.launching.launch_folder import make_folders
from orchestration.launching.options import Workers
from orchestration.launching.target import Target
from orchestration.running import finished
from orchestration.running import run_cell as bodies
from orchestration.running.run_cell import launcher, run_cell
from orchestration.runs import checkpoints
from orchestration.runs.attempt import Attempt
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder
from rankmatch import checkpoint
from rankmatch.hashing import sha256_of
from rankmatch.trainer import FitResult

DONE = FitResult(finished=True, step=6, num_steps=6, epoch=2, num_epochs=2, best_miou=0.5, best_epoch=2, last_miou=0.4)


def trains_to_the_end(config, attempt, resume_from, should_stop):
    checkpoint.save(attempt.path, 6, {}, 2, best=checkpoint.Best(2, 6, 0.5), weights={"bias": [1.0]})
    return DONE


def resumes_at_the_end(config, attempt, resume_from, should_stop):
    assert resume_from is not None
    checkpoint.show_best(resume_from / "best.pt", attempt.path)
    return DONE


def follow(cell_dir):
    return run_cell(cell_dir, train=resumes_at_the_end, owner=launcher())


def before(monkeypatch, place, name, act):
    """Have something happen once, right before a function does its work."""
    original, left = getattr(place, name), [act]

    def wrapped(*args, **kwargs):
        if left:
            left.pop()()
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, wrapped)


def assert_weights_are_those_of_the_result(cell_dir):
    model = RunFolder(cell_dir).result()["model"]
    assert sha256_of(cell_dir / model["path"]) == model["sha256"]
    assert [str(path.relative_to(cell_dir)) for path in cell_dir.rglob("*.pt")] == [model["path"]]


# Where the first attempt stands when its follower begins, and comes to its own end.
@pytest.mark.parametrize(("place", "name"), [(bodies, "_best_weights"), (bodies, "software"), (Attempt, "publish")])
def test_follower_that_runs_while_the_first_attempt_ends_costs_no_weights(place, name, make_cell, monkeypatch):
    cell_dir, states = make_cell(), []

    def train(config, attempt, resume_from, should_stop):
        before(monkeypatch, place, name, lambda: states.append(follow(cell_dir)))
        return trains_to_the_end(config, attempt, resume_from, should_stop)

    states.append(run_cell(cell_dir, train=train, owner=launcher()))
    assert states == [JobState.DONE, JobState.SUPERSEDED]
    assert_weights_are_those_of_the_result(cell_dir)


@pytest.mark.parametrize("name", ["adopt", "discard"])
def test_first_attempt_that_publishes_while_its_follower_adopts_loses_no_weights(name, make_cell, monkeypatch):
    """The first attempt stands before its publication; the follower has claimed and stands before a step of its own."""
    cell_dir, states = make_cell(), []
    publish = Attempt.publish

    def publishes_in_between(self, result):
        monkeypatch.setattr(Attempt, "publish", publish)
        before(monkeypatch, checkpoints, name, lambda: publish(self, result))
        states.append(follow(cell_dir))
        assert RunFolder(cell_dir).result()["attempt"] == 1
        publish(self, result)

    monkeypatch.setattr(Attempt, "publish", publishes_in_between)
    states.append(run_cell(cell_dir, train=trains_to_the_end, owner=launcher()))
    assert states == [JobState.SUPERSEDED, JobState.DONE]
    assert_weights_are_those_of_the_result(cell_dir)


def test_first_attempt_that_published_after_its_follower_removed_the_weights_puts_them_back(make_cell, monkeypatch):
    cell_dir = make_cell()
    folder = RunFolder(cell_dir)

    def adopts():
        follower = folder.claim(launcher())
        assert folder.adopt_checkpoint(follower) is not None
        assert not (cell_dir / "attempts" / "1" / "best.pt").exists()

    before(monkeypatch, Attempt, "publish", adopts)
    assert run_cell(cell_dir, train=trains_to_the_end, owner=launcher()) is JobState.DONE
    model = folder.result()["model"]
    assert model["path"] == "attempts/1/best.pt" and sha256_of(cell_dir / model["path"]) == model["sha256"]


def test_cell_that_is_finished_between_look_and_claim_is_not_begun_again(make_cell, monkeypatch):
    cell_dir = make_cell()
    first = lambda: run_cell(cell_dir, train=trains_to_the_end, owner=launcher())  # noqa: E731
    before(monkeypatch, RunFolder, "claim", first)
    assert run_cell(cell_dir, train=None, owner=launcher()) is JobState.DONE
    assert_weights_are_those_of_the_result(cell_dir)


def test_the_only_weights_stay_where_those_of_the_result_are_gone(make_cell, capsys):
    cell_dir = make_cell()
    assert run_cell(cell_dir, train=trains_to_the_end, owner=launcher()) is JobState.DONE
    (cell_dir / "attempts" / "1" / "best.pt").unlink()
    folder = RunFolder(cell_dir)
    other = folder.claim(launcher())
    (other.path / "best.pt").write_bytes(b"of another training")
    finished.give_way(folder, other)
    assert (other.path / "best.pt").exists()
    assert "attempts/1/best.pt is not the file that the result names" in capsys.readouterr().err


def killed_before_it_cleaned_up(cell_dir, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(finished, "settle", lambda folder: True)
        run_cell(cell_dir, train=trains_to_the_end, owner=launcher())
    assert list(cell_dir.rglob("step_6"))


def test_next_launch_removes_the_checkpoints_of_a_finished_cell(tmp_path, monkeypatch):
    loaded = load(str(Path(__file__).parents[1] / "small.yaml"), ())
    target = Target.of(loaded, tmp_path, Workers("inline"))
    make_folders(target, steps.plan_of(target))
    cell_dir = run_folders(loaded, tmp_path)[loaded.cells[0].signature].path
    killed_before_it_cleaned_up(cell_dir, monkeypatch)
    make_folders(target, steps.plan_of(target))
    assert_weights_are_those_of_the_result(cell_dir)


def test_next_launch_brings_back_weights_that_a_killed_follower_holds(make_cell, monkeypatch):
    cell_dir = make_cell()
    run_cell(cell_dir, train=trains_to_the_end, owner=launcher())
    folder, held = RunFolder(cell_dir), cell_dir / "attempts" / "2" / "checkpoints" / "step_6"
    owner = folder.claim({**launcher(), "process_started": 1}).path / "owner.json"
    assert json.loads(owner.read_text())["process_started"] == 1  # its process is gone
    held.mkdir(parents=True)
    (cell_dir / "attempts" / "1" / "best.pt").rename(held / "best.pt")
    finished.settle_leftovers(folder, 0)
    assert_weights_are_those_of_the_result(cell_dir)


def test_result_is_published_whatever_an_earlier_attempt_left_out_of_its_rows(make_cell):
    cell_dir = make_cell()
    killed = RunFolder(cell_dir).claim(launcher())
    killed.event("started", step=0)
    killed.event("environment", num_gpus=None)
    (killed.path / "epochs.jsonl").write_text(
        '{"step": 2, "epoch": 1, "evaluation_s": 1.0}\n{"step": 5, "epoch": 2, "duration_s": null}\n'
    )
    assert run_cell(cell_dir, train=trains_to_the_end, owner=launcher()) is JobState.DONE
    assert RunFolder(cell_dir).result()["duration_s"] == pytest.approx(1.0, abs=0.9)
