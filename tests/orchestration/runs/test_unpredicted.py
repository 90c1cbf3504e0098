"""A validation class that is not learned is told in the output, the log, status and report, with what to look at."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from launcher import Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids.cells import Cell
from orchestration.results import missed_classes
from orchestration.runs import unpredicted
from orchestration.runs.run_folder import folders
from rankmatch.config import TrainConfig

IOUS = {"class_iou_0": 0.9, "class_iou_1": 0.0, "class_iou_3": 0.009, "class_iou_4": None, "class_iou_5": 0.01}
NAMES = [f"c{number}" for number in range(6)]


def run(*words: object) -> str:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False).output


@pytest.mark.parametrize(
    ("epoch", "num_epochs", "classes"), [(3, 10, ()), (4, 10, (1, 3)), (3, 9, (1, 3)), (2, 2, ()), (1, 3, (1, 3))]
)
def test_class_counts_as_not_predicted_after_a_third_of_the_run(
    epoch: int, num_epochs: int, classes: tuple[int, ...]
) -> None:
    assert unpredicted.of_row({**IOUS, "epoch": epoch, "num_epochs": num_epochs}) == classes


def test_class_without_validation_pixels_is_none_that_is_missed() -> None:
    assert unpredicted.of_result({"last_class_iou": [0.5, None, 0.0], "epoch": 9, "num_epochs": 9}) == (2,)
    assert unpredicted.of_result({"last_class_iou": None, "epoch": 9}) == ()


def test_classes_are_named_and_of_many_the_first() -> None:
    assert unpredicted.in_words([1], NAMES) == "almost never predicts class 'c1' where it is (IoU below 1 %)"
    assert unpredicted.in_words(range(7)) == (
        "almost never predicts classes 0, 1, 2, 3, 4 and 2 others where they are (IoU below 1 %)"
    )


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """A launch of one cell that learns nothing within its six steps."""
    launcher = Launcher(tmp_path_factory.mktemp("missed"))
    with pytest.warns(UserWarning) as said:
        launcher.code = launcher(
            "method=rankmatch", "seed=0", "trainer.epochs=3", "trainer.learning_rate=1e-9", "class_names=[a,b,c,d,e,f]"
        )
    assert any("trainer.learning_rate=1e-09 does nothing" in str(one.message) for one in said)
    return launcher


def test_launch_says_once_of_a_cell_which_classes_it_lacks_and_what_to_look_at(missed: Launcher) -> None:
    assert missed.code == 0
    assert missed.printed.count("/3 it almost never predicts classes '") == 1
    assert missed.printed.count(unpredicted.ADVICE) == 1


def test_log_status_and_report_say_it_too(missed: Launcher) -> None:
    words = ("--grid", "small", "--runs", missed.runs)
    for said in (
        run("logs", "rankmatch", *words),
        run("status", *words),
        (missed.runs / "small/report.md").read_text(),
    ):
        assert "almost never predicts classes '" in said and said.count(unpredicted.ADVICE) == 1


def test_table_of_cells_that_lack_classes_says_so_below_its_figures(missed: Launcher) -> None:
    warning = "warning: 1 of 1 cell: each almost never predicts classes '"
    assert warning in missed.printed
    words = ("table", "--grid", "small", "--runs", missed.runs)
    assert warning in run(*words) and "warning" not in run(*words, "--format", "csv")


def test_class_of_one_data_set_is_not_named_for_the_cells_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig()
    city, pascal, same = (
        Cell(replace(config, execution=replace(config.execution, class_names=names)), {})
        for names in ([*"abcdef"], [*"uvwxyz"], [*"abcdef"])
    )
    monkeypatch.setattr(missed_classes, "of_cells", lambda _, cells: [(cell, (1,)) for cell in cells])
    (alike,) = missed_classes.in_a_line(tmp_path, [city, same])
    (unlike,) = missed_classes.in_a_line(tmp_path, [city, pascal])
    assert alike.startswith("warning: 2 of 2 cells: each almost never predicts class 'b' where it is")
    assert unlike.startswith("warning: 2 of 2 cells: each almost never predicts some class; ")


def test_run_that_is_not_done_says_it(missed: Launcher, tmp_path: Path) -> None:
    shutil.copytree(missed.runs, tmp_path / "runs", symlinks=True)
    (folder,) = folders(tmp_path / "runs" / "small").values()
    (folder.path / "result.json").unlink()
    path = folder.path / "attempts" / "1" / "epochs.jsonl"
    row = json.loads(path.read_text().splitlines()[-1]) | {"num_epochs": 9}
    path.write_text(json.dumps(row) + "\n")
    assert "almost never predicts classes '" in run("status", "--grid", "small", "--runs", tmp_path / "runs")
    path.write_text(json.dumps(row | {"num_epochs": 10}) + "\n")
    assert "almost never predicts" not in run("status", "--grid", "small", "--runs", tmp_path / "runs")


def test_cell_that_finds_every_class_is_not_warned_of(missed: Launcher, tmp_path: Path) -> None:
    shutil.copytree(missed.runs, tmp_path / "runs", symlinks=True)
    (folder,) = folders(tmp_path / "runs" / "small").values()
    path = folder.path / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"last_class_iou": [0.5] * 6}))
    words = ("--grid", "small", "--runs", tmp_path / "runs")
    assert "almost never" not in run("status", *words) + run("table", *words)
    assert "## Warnings" not in (tmp_path / "runs/small/report.md").read_text()
