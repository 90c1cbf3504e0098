"""A grid that was launched is known by its name, from its folder of runs alone, with all cells it ever had."""

import json
import re
import shlex
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from orchestration_fakes import FakeSlurm
from own_grid import DONE, NAN, OwnGrid
from rich.console import Console

from orchestration.grids import grid, launched
from orchestration.grids.cells import Cell, compose
from orchestration.grids.own_dataset import OwnDataset
from orchestration.launching.step import take_step
from orchestration.machine import damage, snapshot
from orchestration.runs.states import CellState


def test_every_command_knows_a_launched_grid_by_name_without_any_file_that_it_was_launched_from(
    own: OwnGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("membranes.yaml", "scan.yaml"):
        (own.folder / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    by_name = ("--grid", "membranes")
    assert "3 cells: 2 done, 1 failed" in own("status", *by_name)
    assert "rankmatch" in own("table", *by_name) and "supervised" in own("table", *by_name, "--format", "csv")
    assert "rankmatch" in Path(own("report", "membranes")).read_text()
    assert "crop" in own("describe", "membranes")
    assert "3 cells: 2 keep, 1 give up" in own("plan", *by_name)
    assert "3 cells: 2 keep, 1 give up" in own("launch", *by_name, "--dry-run")
    assert own("sync", *by_name) == "MLflow is up to date"
    assert "membranes.supervised.mobilenet_v2 version 1" in own("register", *by_name)
    assert "settings: the same" in own("compare", "membranes", "membranes")
    assert "3 runs" in own("results", "grid=membranes")
    assert "is at work" in own("cancel", *by_name)
    assert "1 submit, 2 keep" in own("retry", *by_name, code=1)
    stored = launched.load_folder(own.runs / "membranes")
    assert {cell.folder_name.partition("-")[0] for cell in stored.cells} == {
        path.name.partition("-")[0] for path in (own.runs / "membranes" / "cells").iterdir()
    }


def test_grid_whose_data_set_file_an_earlier_version_did_not_keep_is_told_by_its_run_folders(
    own: OwnGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = own.runs / "membranes" / "grid.yaml"
    stored.write_text(stored.read_text().partition("datasets:")[0])
    monkeypatch.chdir(own.folder)
    assert "3 cells: 2 keep" in own("plan", "--grid", "membranes") and own.warned == []
    monkeypatch.chdir(tmp_path)
    assert "3 cells: 2 keep, 1 give up" in own("plan", "--grid", "membranes")
    (warning,) = own.warned
    assert "there is no" in warning and "its cells are those that have run folders" in warning
    assert "supervised" in own("table", "--grid", "membranes")


def test_paths_of_a_grid_file_start_where_it_lies(own: OwnGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    (own.folder / "grids").mkdir()
    text = (own.folder / "membranes.yaml").read_text().replace("scan.yaml", "../scan.yaml\n  split_root: lists")
    (own.folder / "grids" / "membranes.yaml").write_text(text)
    monkeypatch.chdir("/")
    loaded = grid.load(str(own.folder / "grids" / "membranes.yaml"))
    execution = loaded.cells[0].config.execution
    assert execution.data_root == str(own.folder / "images")
    assert execution.split_root == str(own.folder / "grids" / "lists")
    assert "must be an existing YAML file; got '../scan.yaml', and there is no /" in own(
        "plan", "--grid", _without(own.folder / "scan.yaml", own.folder / "grids" / "membranes.yaml"), code=2
    )


def _without(gone: Path, kept: Path) -> Path:
    gone.unlink()
    return kept


@pytest.mark.parametrize("command", ["plan", "table", "launch"])
def test_missing_grid_file_is_called_missing(command: str, own: OwnGrid) -> None:
    said = own(command, "--grid", own.folder / "mebranes.yaml", code=2)
    assert said == f"error: a grid must be an existing file, or a name; there is no {own.folder}/mebranes.yaml"


def test_file_that_is_named_without_its_suffix_is_proposed(own: OwnGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    (own.folder / "membranes.yaml").rename(own.folder / "mine.yaml")
    monkeypatch.chdir(own.folder)
    assert own("plan", "--grid", "mine", code=2).endswith("; got 'mine'; did you mean mine.yaml?")


def test_launch_of_finished_cells_prints_the_table_where_the_data_are_gone(own: OwnGrid) -> None:
    (own.folder / "images").rename(own.folder / "elsewhere")
    said = own.launch("method=supervised")
    assert "nothing is to be trained, so what is not there was not looked at: data_root must be" in said
    assert "mIoU" in said and "report.md" in said
    said = own.launch("method=supervised", "seed=2", code=2)
    assert said.startswith("error: data_root must be the folder of scan; there is no ")


def test_launch_of_a_part_composes_the_whole_grid_once(own: OwnGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    composed, whole = [], launched.whole
    monkeypatch.setattr(launched, "whole", lambda *some, **more: composed.append(some) or whole(*some, **more))
    said = own.launch("method=supervised")
    assert "this launch trains 2 of the 3 cells" in said and "rankmatch" in said and len(composed) == 1


def test_launch_on_slurm_of_finished_cells_prints_the_table_where_the_data_are_gone(
    own: OwnGrid, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    (own.folder / "images").rename(own.folder / "elsewhere")
    command = ("launch", "--grid", own.folder / "membranes.yaml", "--cluster", "slurm", "method=supervised")
    said = own(*command)
    assert "nothing is to be trained, so what is not there was not looked at: data_root must be" in said
    assert "nothing to submit" in said and "mIoU" in said and "report.md" in said and not slurm.scripts
    (over,) = own.runs.glob("membranes/launches/*/ended.json")
    over.unlink()  # as if the launch had been killed before its end, which a controller then comes to
    (own.runs / "membranes" / "report.md").unlink()
    assert take_step(over.parent, Console(quiet=True)).is_over
    assert over.exists() and (own.runs / "membranes" / "report.md").exists()
    assert own(*command, "seed=2", code=2).startswith("error: data_root must be the folder of scan; there is no ")
    assert not slurm.scripts and not slurm.controllers


def test_lists_that_are_gone_are_read_as_the_launch_kept_them(own: OwnGrid) -> None:
    shutil.rmtree(own.folder / "images" / "splits")
    shutil.move(own.folder / "images", own.folder / "moved")
    said = own("plan", "--grid", "membranes")
    assert "1 step " in said and "? steps" not in said
    assert any("are read from" in warning and "no " in warning for warning in own.warned)
    assert "3 cells: 2 keep" in own("plan", "--grid", "membranes", f"data_root={own.folder / 'moved'}")


def test_data_that_moved_are_found_by_every_command_once_a_launch_was_told_where(own: OwnGrid) -> None:
    own.launch("method=supervised", "seed=1", "trainer.epochs=2")  # the other cells were trained where data still are
    gone, moved = own.folder / "images", own.folder / 'my "moved" images'
    shutil.move(gone, moved)
    said = own("plan", "--grid", "membranes")
    assert f"data_root must be the folder of scan; there is no {gone}; if it has moved: data_root=FOLDER" in said
    retry = f"`rankmatch retry --set data_root=FOLDER --grid membranes --runs {own.runs}`"
    assert f"if it has moved, what was launched goes on with {retry}" in said
    verify = ("verify", "grid=membranes", "--count", 9, "--device", "cpu")
    said = own(*verify, code=1)
    assert said.count("UNCHECKED") == 1 and "DIFFERS" not in said and "(for verify, --set data_root=FOLDER)" in said
    assert "0 of 3 differ; 1 could not be recomputed; " in said
    said = own(*verify, "--set", f"data_root='{moved}'")
    assert said.count("as recorded") == 3 and "0 of 3 differ; 0 findings" in said
    part = ("method=supervised", "seed=1")
    own("launch", "--grid", "membranes", "--cluster", "inline", *part, f"data_root='{moved}'")
    for said in (own("plan", "--grid", "membranes"), own("plan", "--grid", "membranes", "trainer.epochs=2")):
        assert "must be" not in said
    cells = launched.load_folder(own.runs / "membranes").cells
    assert {Path(cell.config.execution.data_root).is_dir() for cell in cells} == {True}
    assert own(*verify).count("as recorded") == 3
    assert "4 cells: 3 keep, 1 give up" in own("launch", "--grid", "membranes", "--cluster", "inline", code=1)
    assert "1 submit, 3 keep" in own("retry", "--grid", "membranes", code=1)


def test_command_that_is_named_where_data_moved_trains_what_is_left(own: OwnGrid) -> None:
    own("drop", DONE, "--grid", "membranes")
    moved = own.folder / "Aufnahmen 2027 ö"
    shutil.move(own.folder / "images", moved)
    said = own("resume", "--grid", "membranes", code=2)
    (command,) = re.findall("goes on with `(.+?)`", said)
    words = shlex.split(command.replace("FOLDER", f"'{moved}'"))
    assert words[0] == "rankmatch" and words[-2:] == ["--runs", str(own.runs)]
    assert "got 'data_root=x', which is for --set of retry" in own(
        "retry", "data_root=x", "--grid", "membranes", code=2
    )
    assert "submit" in own(*words[1:-2], code=1)
    assert own.cell(DONE).has_result()


def test_launch_of_a_part_says_so_and_changes_nothing_else(own: OwnGrid) -> None:
    stored = own.runs / "membranes" / "grid.yaml"
    before = stored.read_text()
    said = own.launch("method=supervised", "seed=1")
    assert "this launch trains 1 of the 3 cells of grid membranes" in said
    assert "rankmatch" in said.partition("this launch")[2]  # the table holds all
    assert stored.read_text() == before
    assert "3 cells: 2 done, 1 failed" in own("status", "--grid", "membranes")
    report = (own.runs / "membranes" / "report.md").read_text()
    assert "2 of 3 cells are done" in report
    newest = sorted((own.runs / "membranes" / "launches").iterdir())[-1]
    assert "method: [supervised]" in (newest / "grid.yaml").read_text()
    assert len(grid.load(str(newest / "grid.yaml")).cells) == 1


def test_table_of_a_part_leaves_the_report_of_all(own: OwnGrid) -> None:
    assert "rankmatch" not in own("table", "--grid", "membranes", "method=supervised").partition("/")[0]
    assert "2 of 3 cells are done" in (own.runs / "membranes" / "report.md").read_text()


def test_cells_with_other_settings_are_added_with_what_tells_them_apart(own: OwnGrid) -> None:
    said = own.launch("method=supervised", "seed=1", "trainer.epochs=2")
    assert "this launch trains 1 of the 4 cells" in said
    stored = launched.load_folder(own.runs / "membranes")
    assert [(cell.axes["method"], cell.axes["trainer.epochs"]) for cell in stored.cells] == [
        ("supervised", "1"),
        ("supervised", "1"),
        ("rankmatch", "30"),
        ("supervised", "2"),
    ]
    assert stored.baseline == {"method": "supervised"} and "trainer.epochs" in stored.table.rows
    assert "4 cells: 3 done, 1 failed" in own("status", "--grid", "membranes")
    assert "4 cells: 3 keep, 1 give up" in own("plan", "--grid", "membranes")
    assert "1 cell: 1 keep" in own("plan", "--grid", "membranes", "trainer.epochs=2", "seed=1")
    assert "3 of 4 cells are done" in (own.runs / "membranes" / "report.md").read_text()
    file = own.folder / "membranes.yaml"
    assert "3 cells: 2 keep, 1 give up" in own("plan", "--grid", file)  # the file itself is what it was


def test_row_whose_setting_is_given_per_method_is_compared_with_the_baseline_as_without_earlier_cells(
    own: OwnGrid,
) -> None:
    file = own.folder / "membranes.yaml"
    file.write_text(file.read_text().replace("learning_rate: 100, trainer.epochs: 30", "learning_rate: 0.02"))
    own.launch("seed=0")
    stored = launched.load_folder(own.runs / "membranes")
    assert "trainer.learning_rate" in stored.axes and "trainer.epochs" in stored.axes
    assert stored.baseline == {"method": "supervised"}
    said = own("table", "--grid", "membranes")
    assert said.count("vs supervised, 0.001") == 1 and "not compared" not in said
    own.launch("method=rankmatch", "trainer.epochs=2")
    said = own("table", "--grid", "membranes")
    named = "not compared: rankmatch, 2, 0.02: no row of supervised has the same trainer.epochs, trainer.learning_rate"
    assert said.count("vs supervised, 0.001") == 1 and named in said


def test_grid_that_an_earlier_version_cut_to_its_last_launch_has_all_its_cells_again(own: OwnGrid) -> None:
    folder = own.runs / "membranes"
    text = (folder / "grid.yaml").read_text().replace("[supervised, rankmatch]", "[supervised]")
    (folder / "grid.yaml").write_text(text.replace("seed: [0, 1]", "seed: [0]").partition("per:")[0])
    lines = (folder / "index.jsonl").read_text().splitlines(keepends=True)
    (folder / "index.jsonl").write_text(lines[0])
    shutil.copy(own.folder / "scan.yaml", folder)
    assert "3 cells: 2 keep, 1 give up" in own("plan", "--grid", "membranes")
    own.launch(code=1)
    assert "3 cells: 2 done, 1 failed" in own("status", "--grid", "membranes")


def test_settings_of_one_value_of_an_axis_are_those_of_its_cells(own: OwnGrid) -> None:
    loaded = grid.load(str(own.folder / "membranes.yaml"))
    trainers = {cell.axes["method"]: cell.config.numerics.trainer for cell in loaded.cells}
    assert (trainers["rankmatch"].learning_rate, trainers["rankmatch"].epochs) == (100, 30)
    assert (trainers["supervised"].learning_rate, trainers["supervised"].epochs) == (0.001, 1)
    plain = own.folder / "plain.yaml"
    head, _, tail = (own.folder / "membranes.yaml").read_text().partition("per:")
    plain.write_text(head + "exclude:" + tail.partition("exclude:")[2])
    words = ["method=rankmatch", "trainer.learning_rate=100", "trainer.epochs=30"]
    assert grid.load(str(plain), words).cells[0].signature == loaded.cells[-1].signature
    again = grid.load(str(own.folder / "membranes.yaml"), ["trainer.epochs=2"])
    assert {cell.config.numerics.trainer.epochs for cell in again.cells} == {2}
    assert {cell.config.numerics.trainer.learning_rate for cell in again.cells} == {0.001, 100}
    part = grid.load(str(own.folder / "membranes.yaml"), ["method=supervised"])
    assert {cell.axes["method"] for cell in part.cells} == {"supervised"}
    assert "rankmatch: {trainer.learning_rate: 100.0, trainer.epochs: 30}" in part.text  # comparisons depend on it


@pytest.mark.parametrize(
    ("per", "message"),
    [
        ("{split: {2: {seed: 1}}}", "per may name the axes method, seed; got 'split'"),
        ("{method: {fixmatch: {trainer.epochs: 1}}}", "per: method must be one of supervised, rankmatch; got fixmatch"),
        ("{method: {rankmatch: {trainer.epoch: 1}}}", "unknown key 'trainer.epoch'; did you mean trainer.epochs?"),
        ("{method: {rankmatch: {seed: 1}}}", "per: method: rankmatch: seed must not be an axis; its values belong in"),
        ("{method: {rankmatch: {trainer.epochs: [1, 2]}}}", "per: method: rankmatch: trainer.epochs must be one value"),
        ("{method: {rankmatch: 3}}", "per: method: rankmatch must be a mapping; got '3'"),
        ("[method]", "per must be a mapping; got ['method']"),
    ],
)
def test_wrong_settings_of_a_value_are_refused(per: str, message: str, own: OwnGrid) -> None:
    head, _, tail = (own.folder / "membranes.yaml").read_text().partition("per:")
    text = f"{head}per: {per}\nexclude:{tail.partition('exclude:')[2]}"
    (own.folder / "membranes.yaml").write_text(text)
    assert message in own("plan", "--grid", own.folder / "membranes.yaml", code=2)


def test_dropped_cell_is_trained_anew_or_brought_back(own: OwnGrid) -> None:
    own("sync", "--grid", "membranes")
    said = own("drop", DONE, "--grid", "membranes")
    (trash,) = (own.runs / ".trash" / "membranes").glob(f"*/*-{DONE}")
    assert str(trash) in said and "bring it back" in said
    assert "1 done, 1 failed, 1 not submitted" in own("status", "--grid", "membranes")
    assert "2 runs" in own("results")
    assert "1 submit" in own("plan", "--grid", "membranes")
    own.launch(code=1)
    assert own.cell(DONE).state().status is CellState.DONE and trash.is_dir()


def test_dropped_cell_that_the_newest_launch_was_not_of_stays_a_cell_of_the_grid(own: OwnGrid) -> None:
    by_name = ("--grid", "membranes")
    own("launch", *by_name, "--cluster", "inline", "method=supervised", "seed=[0,1,2]")
    own("drop", NAN, *by_name)
    assert "4 cells: 3 done, 1 not submitted" in own("status", *by_name)
    assert "4 cells: 1 submit, 3 keep" in own("plan", *by_name)
    assert "rankmatch" in own("table", *by_name).partition("/")[0]
    own("report", "membranes")
    assert "3 of 4 cells are done" in (own.runs / "membranes" / "report.html").read_text()
    assert "1 submit, 3 keep" in own("retry", NAN, *by_name, code=1)
    assert own.cell(NAN).state().status is CellState.FAILED
    own("drop", NAN, *by_name)
    own("launch", *by_name, "--cluster", "inline", "method=supervised", "seed=[0,3]")  # nor does that lose it
    assert "5 cells: 1 submit, 4 keep" in own("plan", *by_name)


def test_cell_that_failed_for_good_is_retried_where_it_was_launched(own: OwnGrid) -> None:
    assert "3 cells: 2 keep, 1 give up" in own.launch(code=1)
    said = own("retry", "rankmatch", "--grid", "membranes", code=1)
    assert "1 submit, 2 keep" in said and "loss is not finite" in said
    assert "where nothing has changed the same would fail again: change a setting" in said
    assert [len(own.cell(name).attempts()) for name in (NAN, DONE)] == [2, 1]
    assert "there must be a cell of class node failure" in own(
        "retry", "--grid", "membranes", "--class", "node failure", code=2
    )
    others = own("retry", "--grid", "membranes", "--set", "trainer.learning_rate=0.001", code=2)
    assert "--set must change how cells are carried out, not what they are" in others


def test_data_set_file_is_known_by_what_it_holds() -> None:
    one, other = (OwnDataset("scan.yaml", content) for content in ('{"a": "1"}', '{"a": "2"}'))
    assert one != other and str(one) == "scan.yaml" and one.hydras_name != other.hydras_name


def test_signature_of_a_cell_is_the_same_from_the_file_and_from_what_is_stored(own: OwnGrid) -> None:
    fixed = {"dataset": str(own.folder / "scan.yaml"), "backbone": "mobilenet_v2", "backbone.pretrained": False,
             "backbone.width": 0.25, "method.num_agents": 4, "method": "supervised"}  # fmt: skip
    cell = Cell(compose(fixed | {"seed": 0}), {})
    assert own.cell(DONE).path.name.startswith(cell.signature)
    assert cell.signature in {each.signature for each in launched.load_folder(own.runs / "membranes").cells}


@pytest.mark.parametrize(
    "words",
    [
        ("table", "--grid", "membranes"),
        ("status", "--grid", "membranes"),
        ("results",),
        ("compare", "membranes", "membranes"),
        ("report", "membranes"),
        ("sync", "--grid", "membranes"),
        ("describe", "membranes"),
        ("plan", "--grid", "membranes"),
    ],
    ids=lambda words: words[0],
)
def test_torn_result_is_named_and_stops_no_command(
    words: tuple[str, ...], own: OwnGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own.cell(DONE).path / "result.json"
    path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setattr(damage, "_told", set())
    said = own(*words)
    assert any(str(path) in text for text in (said, *own.warned))
    assert own.cell("supervised-s1").result() is not None


def test_log_of_a_cell_that_failed_ends_with_its_error(own: OwnGrid) -> None:
    failed = own.cell(NAN).attempts()[-1].events()[-1]
    said = own("logs", NAN, "--grid", "membranes")
    assert "begins at step" in said and said.count("NonFiniteLossError: ") == 1
    assert said.endswith(" ".join(failed["traceback"].split()))
    assert "Error" not in own("logs", DONE, "--grid", "membranes")


def test_row_without_finished_cells_makes_no_other_the_best_nor_one_of_fewer_steps(own: OwnGrid) -> None:
    table, page = own("table", "--grid", "membranes"), Path(own("report", "membranes")).read_text()
    report = (own.runs / "membranes" / "report.md").read_text()
    assert "rankmatch —" in table and "| rankmatch | — |" in report
    for text in (table, report, page):
        assert "best of a column" not in text and "‡" not in text
    own(
        "launch",
        "--grid",
        "membranes",
        "--cluster",
        "inline",
        "trainer.learning_rate=0.002",
        "method=supervised",
        "seed=0",
    )
    table = own("table", "--grid", "membranes")
    assert "an entry with fewer cells than others in its column does not compete" in table
    assert "best of a column" not in table


def test_report_names_each_version_once(own: OwnGrid) -> None:
    own("report", "membranes")
    lines = (own.runs / "membranes" / "report.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("- torch: ")] == [f"- torch: {torch.__version__} (3)"]


def test_splits_that_read_other_label_files_are_made_alike_to_table_report_and_verify(own: OwnGrid) -> None:
    lists = own.folder / "images" / "splits"
    (lists / "3").mkdir()
    (lists / "3" / "labeled.txt").write_text((lists / "2" / "labeled.txt").read_text() + "02.png 02_label.png\n")
    (lists / "3" / "unlabeled.txt").write_text("".join(f"{number:02}.png\n" for number in range(3, 12)))
    (lists / "2" / "unlabeled.txt").write_text("".join(f"{number:02}.png\n" for number in range(2, 12)))
    file = own.folder / "splits.yaml"
    text = own.folder.joinpath("membranes.yaml").read_text().partition("axes:")[0]
    file.write_text(text + "  seed: 5\naxes: {method: [supervised], split: [2, 3]}\n")
    said = own("launch", "--grid", file, "--cluster", "inline")
    records = [json.loads(path.read_text()) for path in own.runs.glob("splits/cells/*/result.json")]
    assert len({record["provenance"]["data_fingerprint"] for record in records}) == 2
    odd = "made differently from the rest of its row"
    assert odd not in said and odd not in own("table", "--grid", "splits")
    assert odd not in Path(own("report", "splits")).read_text()
    checked = own("verify", "grid=splits", "--device", "cpu")
    assert "ODD" not in checked and "0 of 2 differ; 0 findings" in checked


def test_hash_of_the_weights_is_named_only_where_nothing_else_tells_the_cells_apart_and_then_shortly(
    own: OwnGrid,
) -> None:
    for name in "ab":
        (own.folder / f"{name}.pth").write_bytes(name.encode())

    def with_weights(*names: str) -> grid.Grid:
        weights = [[f"backbone.weights={own.folder / name}.pth", "backbone.pretrained=true"] for name in names]
        plain, *others = [
            grid.load_file(own.folder / "membranes.yaml", ["seed=0", "method=supervised", *words])
            for words in ([], *weights)
        ]
        earlier = [cell for one in others for cell in one.cells]
        return launched._joined(plain, earlier, own.runs / "none")

    apart = with_weights("a")
    assert "backbone.pretrained" in apart.axes and "backbone.weights_sha256" not in apart.axes
    alike = with_weights("a", "b")
    slugs = [cell.slug for cell in alike.cells]
    hashes = [sha256(name).hexdigest()[:8] for name in (b"a", b"b")]
    assert [slug.rpartition("_")[2] for slug in slugs] == ["none", *hashes]
    assert {*alike.table.names["backbone.weights_sha256"].values()} == {"none", *hashes}
