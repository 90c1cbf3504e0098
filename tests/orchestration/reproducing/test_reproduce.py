"""A recorded training is repeated with its own code: equal where nothing differs, else what differs is named."""

import json
import math
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.machine import checkout, provenance
from orchestration.reproducing import comparison, record
from orchestration.runs.recorder import Recorder
from orchestration.runs.run_folder import RunFolder, folders

pytestmark = pytest.mark.xdist_group("reproduced")  # the worktree of one test is none that another left
CELL = "supervised-4-s0"
needs_a_repository = pytest.mark.skipif(
    not provenance.commit() or checkout.look(provenance.ROOT, ()).unknown != "", reason="no repository"
)


def reproduce(launcher, *words: object, code: int) -> str:
    done = CliRunner().invoke(app, ["reproduce", CELL, "--runs", str(launcher.runs), *map(str, words)])
    if code == 2:
        assert isinstance(done.exception, ValueError), (done.output, done.exception)
        return str(done.exception)
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def cell_of(launcher) -> RunFolder:
    (found,) = (folder for folder in folders(launcher.runs / "small").values() if folder.path.name.endswith(CELL))
    return found


def owner_changed(launcher, **fields: object) -> None:
    path = cell_of(launcher).attempts()[0].owner_file
    owner = json.loads(path.read_text())
    owner["provenance"] |= fields
    path.write_text(json.dumps(owner))


def loss_changed(launcher, step: int, by: float) -> None:
    (attempt,) = cell_of(launcher).attempts()
    rows = cell_of(launcher).steps().to_pylist()
    attempt.steps_file.unlink()
    with Recorder(attempt.path) as write:
        for row in rows:
            changed = {"loss": row["loss"] + by} if row["step"] == step else {}
            write(row["step"], {name: value for name, value in (row | changed).items() if name not in ("step", "time")})


def resumed_by_other_code(launcher) -> None:
    """Have a second attempt, whose code gives other losses, train from step 1 on."""
    cell = cell_of(launcher)
    (attempt,) = cell.attempts()
    shutil.copytree(attempt.path, attempt.path.with_name("2"))
    later = cell.attempts()[1]
    owner = json.loads(later.owner_file.read_text())
    later.owner_file.write_text(json.dumps(owner | {"commit": "f" * 40, "provenance": {"commit": "f" * 40}}))
    later.events_file.write_text(json.dumps({"event": "started", "time": 1.0, "step": 1}) + "\n")
    later.steps_file.unlink()
    with Recorder(later.path) as write:
        write(1, {"loss": 9.0})


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@needs_a_repository
@pytest.mark.long
def test_run_is_reproduced_to_its_result_by_its_own_code_and_nothing_is_left(again):
    before = hashes(again.runs)
    said = reproduce(again, "--result", code=0)
    steps = cell_of(again).steps().to_pylist()
    assert f"equal: the {len(steps)} recorded losses up to step {steps[-1]['step']}, and the result" in said
    assert f"commit {provenance.commit()}" in said and "DIFFERS" not in said and "other    " not in said
    assert hashes(again.runs) == before
    assert "rankmatch-reproduce-" not in checkout.git(provenance.ROOT, "worktree", "list")


@needs_a_repository
@pytest.mark.long
def test_loss_that_was_tampered_with_is_found_at_its_step_with_its_difference(again):
    last = cell_of(again).steps().to_pylist()[-1]["step"]
    loss_changed(again, last, 0.25)
    owner_changed(again, data_fingerprint="0" * 64)
    said = reproduce(again, "--steps", last + 1, code=1)
    assert f"DIFFERS  loss at step {last}, the first of 1 of {last + 1} compared: " in said and "by 0.25, " in said
    assert f"DIFFERS  the data files: data_fingerprint {'0' * 12} then, " in said


@needs_a_repository
@pytest.mark.long
def test_losses_are_compared_up_to_the_attempt_that_other_code_trained(again):
    resumed_by_other_code(again)
    assert [row["step"] for row in cell_of(again).steps().to_pylist()] == [0, 1]
    said = reproduce(again, "--steps", 2, code=0)
    assert f"other    code: {'f' * 12} from step 1 on, so losses are compared up to there" in said
    assert "equal: the 1 recorded losses up to step 0" in said


def test_losses_that_count_are_those_of_the_code_that_began(again):
    before = record.read(cell_of(again))
    assert before.losses == cell_of(again).steps().to_pylist() and before.other_code_at is None
    resumed_by_other_code(again)
    now = record.read(cell_of(again))
    assert [(row["step"], row["loss"]) for row in now.losses] == [(0, before.losses[0]["loss"])]
    assert now.other_code_at == 1 and len(now.codes) == 2


def test_run_whose_first_code_recorded_no_loss_is_refused(again):
    resumed_by_other_code(again)
    cell_of(again).attempts()[0].steps_file.unlink()
    with pytest.raises(ValueError, match="must have a recorded loss of the code that began it; there is none"):
        record.read(cell_of(again))


def test_what_it_takes_is_printed_from_the_run_folder_alone(again, tmp_path):
    folder = cell_of(again).path
    owner_changed(again, commit="abc123", image="rankmatch.sif", image_sha256="f" * 64)
    done = CliRunner().invoke(app, ["reproduce", str(folder), "--dry-run"])
    assert done.exit_code == 0, done.exception
    lines = dict(line.split(maxsplit=1) for line in done.output.splitlines())
    launch = again.runs / "small" / "launches" / again.launches()[0] / "grid.yaml"
    assert lines["command"] == (
        f"rankmatch launch --grid {launch} --cluster inline --runs reproduced method=supervised split=4 seed=0"
    )
    assert lines["code"].startswith("commit abc123")
    assert lines["image"] == f"rankmatch.sif {'f' * 12}"
    assert f"torch {provenance.versions()['torch']}" in lines["environment"]
    recorded = cell_of(again).attempts()[0].known_owner()["provenance"]
    assert recorded["split_sha256"][:12] in lines["data"] and recorded["data_fingerprint"][:12] in lines["data"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"commit": "0" * 40, "dirty": False}, f"the code of commit {'0' * 40} must be in the repository "),
        ({"commit": "", "commit_unknown": "no repository"}, "the commit of its code is unknown .no repository."),
        ({"dirty": True, "difference": ""}, "the uncommitted changes of commit .* must be here; they were not stored"),
        ({"dirty": True, "difference": "launches/x/y"}, "must be here; there is no .*/small/launches/x/y"),
    ],
)
def test_code_that_is_missing_is_named(fields, message, again, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path / "empty")], check=True)
    owner_changed(again, **fields)
    said = reproduce(again, "--code", tmp_path / "empty", code=2)
    assert re.search(message, said), said


def test_changes_that_are_not_the_recorded_ones_are_refused(again, tmp_path):
    (again.runs / "small" / "other.diff").write_text("diff")
    owner_changed(again, dirty=True, difference="other.diff", difference_sha256="0" * 64)
    assert "must be the recorded uncommitted changes" in reproduce(again, code=2)


def test_run_that_is_not_one_is_named(again):
    done = CliRunner().invoke(app, ["reproduce", "supervised", "--runs", str(again.runs)])
    assert "2 have 'supervised' in their names: small/" in str(done.exception)
    done = CliRunner().invoke(app, ["reproduce", "nothing", "--runs", str(again.runs), "--grid", "small"])
    assert "none has 'nothing' in its name" in str(done.exception)


def test_cell_is_found_once_however_many_grids_have_it(again):
    own = cell_of(again)
    shutil.copytree(again.runs / "small", again.runs / "second", symlinks=True)
    assert record.find(CELL, again.runs).path.resolve() == own.path.resolve()
    assert record.find(own.signature, again.runs, "small").path == own.path.absolute()
    shutil.rmtree(again.runs / "second")
    shutil.rmtree(again.runs / "small")
    said = reproduce(again, "--dry-run", code=0)
    assert f"run          {again.runs / 'cells' / own.name}" in said and "seed" not in said.split("command")[0]


def test_setting_that_makes_another_run_is_refused(again):
    assert "--set must leave the run what it is" in reproduce(again, "--set", "trainer.epochs=2", code=2)


def test_result_of_a_run_without_one_is_refused(again):
    shutil.copy(cell_of(again).result_file, again.runs / "kept.json")
    cell_of(again).result_file.unlink()
    assert "has no result" in reproduce(again, "--result", code=2)


def rows(*losses: float) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss, "loss_labeled": loss / 2} for step, loss in enumerate(losses)]


def test_first_loss_that_differs_is_said_with_its_terms():
    (line,) = comparison.of_losses(rows(1.0, 2.0, 4.0), rows(1.0, 2.5, 5.0))
    assert line == (
        "DIFFERS  loss at step 1, the first of 2 of 3 compared: 2.5 here, 2 recorded, by 0.5, 0.2 of it "
        "(loss_labeled 1.25 for 1)"
    )
    assert [*comparison.of_losses(rows(1.0, 2.0), rows(1.0, 2.0000001), 1e-6)] == []
    assert [*comparison.of_losses(rows(math.nan), rows(math.nan))] == []
    assert [*comparison.of_losses(rows(1.0, 2.0), rows(1.0))] == [
        "DIFFERS  1 recorded losses were not repeated, the first at step 1"
    ]


def test_figures_of_the_result_that_differ_are_said():
    then = {"best_miou": 0.5, "best_epoch": 2, "best_class_iou": [0.25, None, 0.75], "last_miou": 0.5}
    assert [*comparison.of_results(then, dict(then))] == []
    now = then | {"best_miou": 0.625, "best_class_iou": [0.25, None, 0.5]}
    assert [*comparison.of_results(then, now)] == [
        "DIFFERS  best_miou: 0.625 here, 0.5 recorded",
        "DIFFERS  best_class_iou of 1 of 3 classes; of class 2 0.5 here, 0.75 recorded",
    ]


def test_steps_before_the_first_recorded_loss_are_refused():
    with pytest.raises(ValueError, match="--steps must reach the first recorded loss, at step 9: at least 10; got 5"):
        comparison.due([{"step": 9, "loss": 1.0}], 5)


@needs_a_repository
def test_step_that_the_run_left_out_is_left_out_again(again):
    (attempt,) = cell_of(again).attempts()
    attempt.bad_step_file.write_text(json.dumps({"step": 0, "leave_out": True}))
    said = reproduce(again, code=1)  # this run did not leave it out: its record has a loss of that step
    assert "1 recorded losses were not repeated, the first at step 0" in said
