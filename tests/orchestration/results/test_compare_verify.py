"""`compare`, `verify` and `table` on cells that were really trained."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids import grid
from orchestration.grids.launched import run_folders
from orchestration.launching import steps
from orchestration.launching.launch_folder import make_folders
from orchestration.launching.options import Workers
from orchestration.launching.target import Target
from orchestration.machine.damage import DamageWarning
from orchestration.results import compare, verify
from orchestration.running import run_cell
from orchestration.runs.jobs import JobState

METHODS = ("rankmatch", "supervised")
SMALL = Path(__file__).parents[1] / "small.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders of two grids: four cells of one epoch, and the same ones but for two epochs and one method."""
    runs = tmp_path_factory.mktemp("runs")
    other = runs / "other.yaml"
    other.write_text(SMALL.read_text().replace("trainer.epochs: 1", "trainer.epochs: 2").replace("supervised, ", ""))
    other.write_text(other.read_text().partition("baseline")[0])
    owner = run_cell.launcher() | {"provenance": {"commit": "abc", "host": "here"}}
    for path in (SMALL, other):
        loaded = grid.load(str(path), ["trainer.device=cpu"])
        grid_dir = runs / loaded.name
        grid_dir.mkdir()
        target = Target.of(loaded, grid_dir, Workers("inline"))
        make_folders(target, steps.plan_of(target))
        for folder in run_folders(loaded, grid_dir).values():
            assert run_cell.run_cell(folder.path, train=run_cell.train_inline, owner=owner) is JobState.DONE
    return runs


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "runs", symlinks=True))


def command(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def printed(*words: object, code: int = 0) -> str:
    done = command(*words)
    assert done.exit_code == code, done.exception or done.stdout
    return str(done.stdout)


def cell(runs: Path, grid: str, name: str) -> Path:
    (path,) = (runs / grid / "cells").glob(f"*{name}*")
    return path


def made_by(path: Path, *differences: dict[str, Any]) -> None:
    """Have a result say that so many attempts trained it, each with something that was otherwise."""
    content = json.loads(path.read_text())
    (first,) = content["provenance"]["attempts"]
    content["provenance"]["attempts"] = [first | other for other in differences]
    content["provenance"] |= differences[-1]
    path.write_text(json.dumps(content))


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_two_runs_are_compared_in_settings_curves_and_classes(trained: Path) -> None:
    signature = cell(trained, "small", "rankmatch-4-s0").name[:12]
    text = printed("compare", signature, "supervised-4-s0", "--runs", trained)
    assert ["method.name", "rankmatch", "supervised"] in lines(text)
    assert "seed" not in text and "made with: the same" in text
    a, b = (json.loads((cell(trained, "small", f"{m}-4-s0") / "result.json").read_text()) for m in METHODS)
    for number, (ours, others) in enumerate(zip(a["best_class_iou"], b["best_class_iou"], strict=True)):
        wanted = [str(number), f"{100 * ours:.1f}", f"{100 * others:.1f}", f"{100 * (others - ours) + 0.0:+.1f}"]
        assert wanted[:3] in [line[:3] for line in lines(text)]
    assert ["miou", "A"] in [line[:2] for line in lines(text)]


def test_two_grids_are_paired_by_the_axes_that_both_have(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "curves.csv"
    text = printed("compare", "small", "other", "--runs", trained, "--format", "csv", "-o", out)
    assert "only in A: 2 (supervised 4 0; supervised 4 1)" in text
    assert ["trainer.epochs", "1", "2", "2", "of", "2"] in lines(text)
    assert "B - A over 2 pairs: " in text and "too few pairs to tell" in text
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["seed"], row["side"], row["epoch"]) for row in rows) == [
        *(("0", "A", "1"), ("0", "B", "1"), ("0", "B", "2")),
        *(("1", "A", "1"), ("1", "B", "1"), ("1", "B", "2")),
    ]


def test_curves_and_classes_of_both_sides_are_of_the_same_runs(runs: Path) -> None:
    undone = cell(runs, "other", "rankmatch-4-s1") / "result.json"
    undone.unlink()
    ious = {name: cell(runs, name, "rankmatch-4-s0") / "result.json" for name in ("small", "other")}
    content = json.loads(ious["other"].read_text())
    lost = content["best_class_iou"][1]
    content["best_class_iou"][1] = None
    ious["other"].write_text(json.dumps(content))
    text = printed("compare", "small", "other", "--runs", runs)
    assert "curves by epoch, mean over 1 of 2 pairs, those that are done" in text
    (row,) = [line for line in lines(text) if line[:2] == ["miou", "A"]]
    alone = json.loads((cell(runs, "small", "rankmatch-4-s0") / "attempts/1/epochs.jsonl").read_text())
    assert lost is not None and row[-1] == f"{alone['miou']:.3f}"
    classes = [line[0] for line in lines(text.partition("IoU of classes")[2].partition("made with")[0]) if line]
    assert "0" in classes and "1" not in classes
    for path in runs.glob("*/cells/*/result.json"):
        path.unlink()
    assert "of 2 pairs, none of them done" in printed("compare", "small", "other", "--runs", runs)


def test_provenance_that_differs_is_shown(runs: Path) -> None:
    path = cell(runs, "small", "rankmatch-4-s1") / "result.json"
    made_by(path, {"commit": "c0ffee" * 7, "host": "elsewhere"})
    text = printed("compare", path.parent, cell(runs, "small", "rankmatch-4-s0"), "--runs", runs)
    told = lines(text.partition("made with")[2])
    assert ["commit", "c0ffeec0ffee", "abc"] in told and ["host", "elsewhere"] in [line[:2] for line in told]
    assert "made with: the same" in printed("compare", "rankmatch-4-s1", path.parent, "--runs", runs / "small")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small", "nothing"], "A and B must each be a grid, a signature or a part of one run's name; got 'nothing'"),
        (["small", "rankmatch-4"], "got 'rankmatch-4', which means 4 runs"),
        (["small", "supervised-4-s0"], "A and B must be two runs or two grids"),
        (["small", "other", "--metric", "mIoU"], "--metric must be one of best_miou"),
        (["small", "other", "--format", "csv"], "--output must name a file"),
        (["small", "other", "--format", "doc", "-o", "x"], "--format must be one of csv, parquet, json; got 'doc'"),
    ],
)
def test_what_cannot_be_compared_is_refused(words: list[str], message: str, trained: Path) -> None:
    done = command("compare", *words, "--runs", trained)
    assert isinstance(done.exception, ValueError) and message in str(done.exception)


def test_curve_is_drawn_on_one_scale() -> None:
    assert compare.sparkline([0.0, 0.5, 1.0], 0.0, 1.0, 3) == "▁▅█"
    assert compare.sparkline([0.0, None], 0.0, 1.0, 4) == "▁   "
    assert compare.sparkline([float(value) for value in range(80)], 0, 79, 80, width=8) == "▁▂▃▄▅▆▇█"


def test_figures_recomputed_from_checkpoints_are_as_recorded(trained: Path) -> None:
    text = printed("verify", "--runs", trained, "--count", 4, "--device", "cpu", "--tolerance", 1e-9)
    assert "recomputing 4 of 6 finished runs (--seed 0)" in text
    assert text.count("as recorded (largest difference 0 points)") == 4
    assert "0 of 4 differ; 0 findings in the rows of tables" in text


def test_choice_hangs_on_the_seed_alone() -> None:
    runs = [f"run{number}" for number in range(20)]
    first = verify.choose(runs, 5, 3)
    assert first == verify.choose(runs[::-1], 5, 3) and len(set(first)) == 5
    assert first != verify.choose(runs, 5, 4) and len(verify.choose(runs, 50, 0)) == 20


def test_result_that_its_checkpoint_does_not_give_is_reported(runs: Path) -> None:
    path = cell(runs, "small", "rankmatch-4-s0") / "result.json"
    content = json.loads(path.read_text())
    was, content["best_miou"] = content["best_miou"], content["best_miou"] + 0.01
    path.write_text(json.dumps(content))
    words = ["seed=0", "method=rankmatch", "grid=small", "--runs", runs, "--device", "cpu"]
    text = printed("verify", *words, code=1)
    assert f"rankmatch-4-s0: mIoU is {100 * was:.2f}, recorded {100 * was + 1:.2f}" in text
    assert "1 of 1 differ" in text
    assert "0 of 1 differ" in printed("verify", *words, "--tolerance", 1.1)


def test_checkpoint_that_is_torn_or_gone_is_reported(runs: Path) -> None:
    words = ["seed=0", "grid=small", "--runs", runs, "--device", "cpu"]
    torn = cell(runs, "small", "rankmatch-4-s0") / "attempts" / "1" / "best.pt"
    torn.write_bytes(torn.read_bytes()[:1000])
    (cell(runs, "small", "supervised-4-s0") / "attempts" / "1" / "best.pt").unlink()
    text = printed("verify", *words, code=1)
    assert "rankmatch-4-s0: cannot be recomputed: " in text
    assert "supervised-4-s0: cannot be recomputed: no attempt has kept best.pt" in text


def test_other_weights_give_other_figures(runs: Path) -> None:
    path = cell(runs, "small", "supervised-4-s1") / "attempts" / "1" / "best.pt"
    state = torch.load(path, weights_only=True)
    for name in ("classifier.weight", "classifier.bias"):  # each class is taken for the next one
        state["model"][name] = state["model"][name].roll(1, 0)
    torch.save(state, path)
    text = printed("verify", "method=supervised", "seed=1", "--runs", runs, "--device", "cpu", code=1)
    assert "DIFFERS" in text and "best.pt is not the file that the training published; mIoU is" in text


def test_run_of_other_code_is_marked_in_the_table_and_found(runs: Path) -> None:
    made_by(cell(runs, "other", "rankmatch-4-s1") / "result.json", {"difference_sha256": "5a" * 32})
    text = printed("verify", "grid=other", "--count", 1, "--runs", runs, "--device", "cpu", code=1)
    assert "ODD     other/" in text and "no value is the most common one in its row" in text
    assert "0 of 1 differ; 2 findings in the rows of tables" in text
    table = printed("table", "--grid", runs / "other.yaml", "--runs", runs, "trainer.device=cpu")
    assert "! made differently from the rest of its row (code)" in table


def test_run_whose_attempts_were_of_other_code_or_devices_is_marked_and_found(runs: Path, tmp_path: Path) -> None:
    path = cell(runs, "small", "rankmatch-4-s1") / "result.json"
    made_by(path, {"commit": "c0ffee" * 7, "device": "GPU A"}, {"device": "GPU B"})
    text = printed("verify", "grid=small", "--count", 1, "--runs", runs, "--device", "cpu", code=1)
    told = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("ODD")]
    several = "its epochs were trained with several values of"
    assert told == [f"{several} code: c0ffeec0ffee, then abc", f"{several} device: GPU A, then GPU B"]
    table = printed("table", "--grid", SMALL, "--runs", runs, "trainer.device=cpu")
    assert "! made differently from the rest of its row (code, device)" in table
    out = tmp_path / "runs.csv"
    printed("results", "grid=small", "seed=1", "method=rankmatch", "--runs", runs, "--format", "csv", "-o", out)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert (row["commit"], row["device"]) == (f"{'c0ffee' * 7}, abc", "GPU A, GPU B")


def test_run_in_another_image_is_marked_in_the_table_and_found(runs: Path) -> None:
    made_by(cell(runs, "small", "rankmatch-4-s0") / "result.json", {"image": "a.sif", "image_sha256": "5a" * 32})
    made_by(cell(runs, "small", "rankmatch-4-s1") / "result.json", {"image": "a.sif", "image_sha256": "c0" * 32})
    path = cell(runs, "small", "supervised-4-s0") / "result.json"
    made_by(path, {"image": "docker://rankmatch:1"}, {"image": "docker://rankmatch:2"})
    text = printed("verify", "grid=small", "--count", 1, "--runs", runs, "--device", "cpu", code=1)
    told = {line.partition(": ")[2] for line in text.splitlines() if line.startswith("ODD")}
    assert {
        "image 5a5a5a5a5a5a, no value is the most common one in its row",
        "image c0c0c0c0c0c0, no value is the most common one in its row",
        "its epochs were trained with several values of image: docker://rankmatch:1, then docker://rankmatch:2",
    } <= told
    table = printed("table", "--grid", SMALL, "--runs", runs, "trainer.device=cpu")
    assert "! made differently from the rest of its row (image)" in table


@pytest.mark.parametrize(("why", "code"), [("git refuses: dubious ownership", 1), ("no repository", 0), (None, 0)])
def test_run_of_code_that_no_commit_names_is_said_by_table_and_verify(why: str, code: int, runs: Path) -> None:
    path = cell(runs, "small", "supervised-4-s1")
    result = json.loads((path / "result.json").read_text())
    made = {name: value for name, value in result["provenance"].items() if name not in ("commit", "attempts")}
    result["provenance"] = {"commit": "", **made} | ({"commit_unknown": why} if why else {})
    (path / "result.json").write_text(json.dumps(result))
    said = " ".join(printed("table", "--runs", runs, "--grid", "small").split())
    assert "by code of no known commit (1 of 4 cells)" in said
    said = printed("verify", "--runs", runs / "small", "--count", 1, code=code)
    assert f"NO CODE small/{path.name}: no commit is known for its code: {why or 'no reason was recorded'}" in said


def test_damaged_run_is_left_out_of_a_comparison_and_found(runs: Path) -> None:
    path = cell(runs, "small", "rankmatch-4-s0") / "result.json"
    path.write_text("{")
    with pytest.warns(DamageWarning, match="result.json is damaged: it is no JSON"):
        text = printed("compare", "small", "other", "--runs", runs)
    assert "over 1 pair" in text
    told = printed("verify", "grid=small", "--count", 1, "--runs", runs, "--device", "cpu", code=1)
    assert any(line.startswith("DAMAGED small/") and "result.json" in line for line in told.splitlines())


def test_without_a_finished_run_there_is_nothing_to_verify(runs: Path) -> None:
    for path in runs.glob("*/cells/*/result.json"):
        path.unlink()
    done = command("verify", "--runs", runs)
    assert "there must be a finished run to verify among the 6 below" in str(done.exception)


def test_table_is_written_in_every_format(runs: Path, tmp_path: Path) -> None:
    words = ["table", "--grid", SMALL, "--runs", runs, "trainer.device=cpu"]
    for kind, mark in (("markdown", "| vs supervised |"), ("latex", r"\toprule"), ("html", "<b>"), ("csv", "metric,")):
        out = tmp_path / f"table.{kind}"
        assert printed(*words, "--format", kind, "-o", out).strip() == str(out)
        assert printed(*words, "--format", kind) == out.read_text() and mark in out.read_text()
    last = printed(*words, "--metric", "last", "--statistics")
    assert "last epoch: mean ± standard deviation over 2 cells each" in last
    assert "Paired with supervised, in points" in last and "too few pairs to tell (2)" in last
    (tmp_path / "my.yaml").write_text("rows: [seed]\nblocks: [split]\ncolumns: [method]\n")
    mine = printed(*words, "--layout", tmp_path / "my.yaml", "--format", "markdown")
    assert "**split=4**\n\n| seed | method=supervised | method=rankmatch |\n" in mine


def test_grid_that_was_launched_is_found_by_name_file_and_folder(trained: Path) -> None:
    (launch,) = (trained / "small" / "launches").iterdir()
    places = ["small", SMALL, trained / "small", trained / "small" / "grid.yaml", launch / "grid.yaml"]
    for place in places[:1] + places[2:]:
        table = printed("table", "--grid", place, "--runs", trained, "--format", "csv")
        assert table.count(",2,2,") == 2
        assert "4 cells: 4 keep" in printed("plan", "--grid", place, "--runs", trained, "--cluster", "inline")
    for place in places[:4]:
        assert printed("status", "--grid", place, "--runs", trained).count(" done") >= 4
    assert "B - A over 2 pairs" in printed("compare", SMALL, trained / "other", "--runs", trained)


def test_table_of_a_name_is_of_the_grid_as_it_was_launched(runs: Path) -> None:
    (runs / "other").rename(runs / "demo")  # experiments/grids has one of that name
    assert printed("table", "--grid", "demo", "--runs", runs, "--format", "csv").count("rankmatch") == 1
    assert "12 cells: 12 submit" in printed("plan", "--grid", "demo", "--runs", runs)


def test_unknown_grid_names_those_that_were_launched(trained: Path) -> None:
    for words in (["table"], ["launch", "--dry-run"], ["status"], ["tune", "no", "--dry-run"]):
        grid_words = [] if words[0] == "tune" else ["--grid", "no"]
        done = command(*words, *grid_words, "--runs", trained)
        assert f"launched into {trained} (other, small)" in str(done.exception) and "'no'" in str(done.exception)


def test_search_that_was_started_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(SMALL.with_name("search.yaml"), tmp_path / "mine" / "grid.yaml")
    assert "points" in printed("tune", "mine", "--runs", tmp_path, "--dry-run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "worst"], "--metric must be best or last; got 'worst'"),
        (["--format", "pdf"], "--format must be one of markdown, latex, html, csv; got 'pdf'"),
        (["-o", "x"], "--format must be one of markdown, latex, html, csv where --output is given; got nothing"),
        (["--layout", "no.yaml"], "--layout must be a YAML file; there is no no.yaml"),
        (["--runs", "nowhere"], "--runs must hold the folder of grid small; there is no"),
    ],
)
def test_bad_words_of_a_table_are_refused(words: list[str], message: str, trained: Path) -> None:
    done = command("table", "--grid", SMALL, "--runs", trained, *words)
    assert isinstance(done.exception, ValueError) and message in str(done.exception)
