"""Numbers of plans, status, tables and data checks do not mislead."""

import io
import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from launcher import Launcher
from rich.console import Console
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids import grid
from orchestration.launching import steps
from orchestration.launching.options import Workers
from orchestration.launching.target import Target
from orchestration.planning import costs, disk_space
from orchestration.planning.plan import Plan, format_amount, format_duration
from orchestration.runs.run_folder import folders
from orchestration.tables.formats import show, to_csv, to_html, to_latex, to_markdown, to_rich
from orchestration.tables.layouts import Layout
from orchestration.tables.lines import notes
from orchestration.tables.table import Table, build

Usage = namedtuple("Usage", "total used free")


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return f"{done.output}{done.exception or ''}"


def test_plan_without_data_says_that_it_does_not_know(tmp_path: Path) -> None:
    printed = run("plan", "--grid", "camvid", "--runs", tmp_path)
    expected = "rough estimate: not known, for 15 cells that cannot be estimated, as the split lists are not here"
    assert expected in printed
    assert "0 s" not in printed


def test_plan_with_some_data_says_what_it_leaves_out(tmp_path: Path) -> None:
    printed = run("plan", "--grid", "demo", "--runs", tmp_path, "dataset=[synthetic,camvid]", "split=4", "seed=0")
    assert "in total, " in printed and "without 3 cells that cannot be estimated" in printed


def test_budget_of_cells_that_nobody_can_estimate_is_refused(tmp_path: Path) -> None:
    words = ("--grid", "camvid", "--cluster", "slurm", "--budget-gpu-hours", 1, "--runs", tmp_path)
    assert "--budget-gpu-hours=1 cannot be held: 15 cells cannot be estimated" in run("plan", *words)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.0"), (12.34, "12.3"), (0.1, "0.1"), (0.096, "0.1"), (0.094, "0.09"), (0.05, "0.05"), (0.00042, "0.0004")],
)
def test_small_amount_is_never_written_as_nothing(amount: float, text: str) -> None:
    assert format_amount(amount) == text


def test_what_takes_time_never_takes_0_s() -> None:
    assert [format_duration(seconds) for seconds in (0, 0.2, 1.4, 45)] == ["0 s", "1 s", "1 s", "45 s"]


def test_hours_of_short_cells_are_not_0(launched: Launcher) -> None:
    report = (launched.runs / "small" / "report.md").read_text()
    hours = [line.split("|")[-3].strip() for line in report.splitlines() if "| done |" in line]
    assert len(hours) == 4 and all(float(text.strip("<")) > 0 for text in hours)
    rows = [line.partition("1/1")[2].split() for line in run("results", "--runs", launched.runs).splitlines()]
    assert [float(row[0].strip("<")) > 0 for row in rows if row] == [True] * 4


def plan_of(runs: Path, cluster: str = "inline") -> Plan:
    loaded = grid.load(str(runs / "small" / "grid.yaml"))
    return steps.plan_of(Target.of(loaded, runs / "small", Workers(cluster)))


@pytest.fixture
def copied(launched: Launcher, tmp_path: Path) -> Path:
    shutil.copytree(launched.runs, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


def test_interrupted_attempt_says_how_fast_its_method_is(copied: Path) -> None:
    for folder in folders(copied / "small").values():
        (folder.path / "result.json").unlink()
        (path := folder.path / "attempts" / "1" / "epochs.jsonl").write_text(
            json.dumps(json.loads(path.read_text()) | {"duration_s": 30.0, "evaluation_s": 10.0}) + "\n"
        )
    assert [item.seconds_per_step for item in plan_of(copied).items] == [20.0] * 4


def test_pace_of_a_cpu_plans_no_gpu_and_the_other_way_round(copied: Path) -> None:
    result = next(iter(folders(copied / "small").values())).result()
    assert result is not None and result["provenance"]["num_gpus"] == 0
    for item in plan_of(copied, cluster="slurm").items:
        assert item.seconds_per_step == costs.seconds_per_step(item.cell.config, "cuda")
    for item in plan_of(copied).items:
        assert item.seconds_per_step != costs.seconds_per_step(item.cell.config, "cpu")
    for folder in folders(copied / "small").values():
        path = folder.path / "result.json"
        content = json.loads(path.read_text())
        for made in (content["provenance"], *content["provenance"]["attempts"]):
            made["num_gpus"] = 1
        path.write_text(json.dumps(content))
    for item in plan_of(copied).items:
        assert item.seconds_per_step == costs.seconds_per_step(item.cell.config, "cpu")


def test_launch_that_the_disk_cannot_hold_is_refused_before_anything_is_made(
    fresh: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 1000))
    lacking = r"--runs must be on a disk with 0.00\d+ GB of room, .* has 0.000001 GB left"
    with pytest.raises(ValueError, match=lacking):
        fresh()
    assert not (fresh.runs / "small" / "cells").exists()


def test_plan_says_what_the_disk_lacks_and_is_no_failure(fresh: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 1000))
    assert fresh(dry_run=True) == 0
    assert "needed before launching: --runs must be on a disk with 0.00" in fresh.printed


def test_disk_that_checkpoints_may_fill_is_warned_of(fresh: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    config = grid.load(str(fresh.file)).cells[0].config
    free = int(4 * costs.finished_bytes(config)) + 1000
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, free))
    assert fresh(dry_run=True) == 0
    assert "warning: the cells may take up to " in fresh.printed and "if all of them are interrupted" in fresh.printed


LAYOUT = Layout(["method"], ["split"], ["seed"])


def record(method: str, seed: int, best: float | None, **more: object) -> dict[str, object]:
    return {"method": method, "split": "4", "seed": str(seed), "best_miou": best, "last_miou": best, **more}


def said(table: Table) -> list[str]:
    return notes(table, best="¹", second="²", significant="*", odd="!", with_n=False)


def test_legend_of_incomplete_entries_has_the_numbers_of_the_table() -> None:
    table = build([record("a", 0, 0.5), record("a", 1, 0.6), record("a", 2, None)], LAYOUT)
    assert "55.0 ± 7.1 (2/3)" in to_markdown(table)
    assert "(2/3): 2 of 3 cells are done; such an entry does not compete for the best of its column" in said(table)


def test_row_of_fewer_steps_is_marked() -> None:
    records = [record("supervised", 0, 0.5, num_steps=440), record("rankmatch", 0, 0.6, num_steps=2200)]
    table = build(records, LAYOUT)
    assert "| supervised ‡ | 50.0 (1) |" in to_markdown(table) and "| rankmatch | " in to_markdown(table)
    assert "‡ takes fewer steps than another row of its column: 440 against 2,200" in said(table)
    ((_, drawn),) = to_rich(table)
    assert [str(text) for text in drawn.columns[0].cells] == ["supervised ‡", "rankmatch"]
    equal = build([records[0] | {"num_steps": 2200}, records[1]], LAYOUT)
    unfinished = build([records[0], records[1] | {"best_miou": None, "last_miou": None}], LAYOUT)
    for other in (equal, unfinished):
        assert "‡" not in to_markdown(other) + "".join(said(other))


def test_row_that_was_trained_on_validation_images_is_marked() -> None:
    table = build([record("supervised", 0, 0.5), record("rankmatch", 0, 0.6, transductive=24)], LAYOUT)
    assert "| rankmatch § |" in to_markdown(table) and "| supervised |" in to_markdown(table)
    assert (
        "§ trained without their labels on what it is scored on: 24 validation images are in the unlabeled list"
        in said(table)
    )


def test_entry_of_a_cell_that_left_out_a_step_is_marked_in_every_format_with_the_largest_share() -> None:
    records = [
        record("supervised", 0, 0.5, num_steps=400),
        record("rankmatch", 0, 0.6, num_steps=400, steps_left_out=[7]),
        record("rankmatch", 1, 0.6, num_steps=200, steps_left_out=[3]),
        record("unimatch", 0, None, num_steps=10, steps_left_out=[1]),
    ]
    table = build(records, LAYOUT)
    for text in (to_markdown(table), to_latex(table), to_html(("small", table)), drawn_text(table)):
        assert re.search(r"60\.0.* ¶", text), text
        assert not re.search(r"50\.0.* ¶", text) and "— ¶" not in text
    assert "¶ a cell made no update at a step that was not finite (trainer.when_not_finite): 1 of 200 steps" in said(
        table
    )
    lines = to_csv(table).splitlines()
    assert ["a step left out" in line for line in lines[1:]] == [False, True, False]
    without = build([{**made, "steps_left_out": []} for made in records], LAYOUT)
    assert "¶" not in to_markdown(without) + "".join(said(without))


def test_result_that_says_it_took_no_step_and_left_one_out_harms_no_table() -> None:
    table = build([record("a", 0, 0.5, num_steps=0, steps_left_out=[1]), record("b", 0, 0.6, num_steps=9)], LAYOUT)
    assert "| 50.0 (1) ¶ |" in to_markdown(table) and "| **60.0 (1)** |" in to_markdown(table)


def drawn_text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(table, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_unequal_steps_are_marked_in_the_table_of_a_launch(launched: Launcher, copied: Path) -> None:
    for folder in folders(copied / "small").values():
        if "supervised" in folder.path.name:
            path = folder.path / "result.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"num_steps": 1}))
    printed = run("table", "--grid", "small", "--runs", copied)
    assert "supervised ‡" in printed and "1 against 2" in printed


def test_data_check_refuses_the_batch_that_the_plan_refuses(tiny_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"numerics: {{split: '2', dataset: {{name: mine, num_classes: 3}}, trainer: {{unlabeled_batch_size: 11}}}}\n"
        f"execution: {{data_root: {tiny_root}}}\n"
    )
    fault = "trainer.unlabeled_batch_size must be at most 10, the unlabeled images of split 2; got 11"
    words = (
        f"dataset={file}",
        "split=2",
        "method=rankmatch",
        "backbone.pretrained=false",
        "method.num_agents=8",
        "seed=0",
    )
    assert fault in run("plan", "--grid", "demo", *words)
    assert f"a method that sees unlabeled images cannot train on split 2: {fault}" in run("data", "check", file)
    said = run("data", "check", file, "trainer.unlabeled_batch_size=10", "trainer.labeled_batch_size=3")
    assert "unlabeled images cannot" not in said
    assert (
        "method supervised cannot train on split 2: trainer.labeled_batch_size must be at most 2, the labeled images "
        "of split 2; got 3; with method.supervised_steps=equal it can"
    ) in said


def test_search_without_data_says_that_it_does_not_know(tmp_path: Path) -> None:
    printed = run("tune", Path(__file__).with_name("search.yaml"), "--dry-run", "--runs", tmp_path, "dataset=camvid")
    assert "rough estimate: not known, as the split lists are not here" in printed
