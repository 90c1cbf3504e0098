"""Launches that add seeds only where they decide something: here, killed and resumed, and by controllers on Slurm."""

import json
import re

import pytest
from campaign_life import RESULT
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import control, steps
from orchestration.on_slurm import submissions
from orchestration.runs.run_folder import RunFolder, folders

SEEDS = "seed=[0,1,2,3,4]"
BASE = [0.5, 0.52, 0.48, 0.51, 0.5]
GAINS = {"supervised": [0.0] * 5, "fixmatch": [0.03, 0.01, -0.02, 0.01, 0.0], "rankmatch": [0.2, 0.21, 0.205, 0.2, 0.2]}
METHODS = "method=[supervised,fixmatch,rankmatch]"


def rankmatch(*words: str) -> str:
    told = CliRunner().invoke(app, [*map(str, words)])
    assert told.exit_code == 0, told.output + repr(told.exception)
    return told.output


def number_of(cell: RunFolder) -> float:
    method, _, seed = cell.path.name.split("-")[1:4]
    return BASE[int(seed[1:])] + GAINS[method][int(seed[1:])]


def named(cells) -> list[str]:
    return sorted("-".join(cell.path.name.split("-")[1::2]) for cell in cells)


def of_round(life) -> list[str]:
    """Return the cells that the newest launch submitted."""
    jobs, newest = life.jobs("RUNNING"), submissions.newest_jobs(life.grid_dir)
    return named(cell for cell in folders(life.grid_dir).values() if newest.get(cell.path.name) and
                 newest[cell.path.name].number in jobs)  # fmt: skip


def finish(life, *without: str) -> None:
    """Have all cells that have a job end with their numbers."""
    newest = submissions.newest_jobs(life.grid_dir)
    for cell in folders(life.grid_dir).values():
        if cell.path.name in newest and cell.result() is None and not any(one in cell.path.name for one in without):
            life.slurm.queued.pop(newest[cell.path.name].number, None)
            attempt = cell.claim({"commit": "abc", "host": "n1", "pid": 1, "process_started": 1})
            attempt.publish(RESULT | {"best_miou": number_of(cell), "last_miou": number_of(cell)})


def begin(life) -> None:
    life.launch(overrides=("trainer.device=cpu", METHODS, SEEDS), adaptive=True, first_seeds=3)


def test_controllers_submit_the_next_seed_of_the_pairs_that_are_not_decided_and_then_end(life):
    begin(life)
    assert of_round(life) == sorted(f"{method}-s{seed}" for method in GAINS for seed in range(3))
    finish(life)
    for seed in (3, 4):
        assert life.controller() == 0
        life.slurm.queued |= life.jobs("RUNNING")
        assert of_round(life) == [f"fixmatch-s{seed}", f"supervised-s{seed}"]
        finish(life)
    assert life.controller() == 0
    assert life.campaign.over(life.grid_dir).exists()
    assert "13 of 15 cells are done, 2 are seeds that no pair needed" in life.said()[-1]
    report = (life.grid_dir / "report.md").read_text()
    assert "seeds were added adaptively: each entry has the first 3" in report and "(3/5)" not in report
    sentence = "Seeds were added adaptively: each setting began with 3, and got one more at a time where"
    assert sentence in report
    assert sentence in rankmatch("describe", "small", "--runs", life.runs)
    said = rankmatch("status", "--grid", "small", "--runs", life.runs)
    assert "pairs: 1 of 2 are decided, 1 stay open with all seeds" in said
    assert "left out: adaptive: no pair needs its seed so far" in said and "--until" not in said
    (life.runs / "mine.yaml").write_text("rows: [split]\ncolumns: [method]\nover: [seed]\n")
    said = rankmatch(
        "table", "--grid", "small", "--runs", life.runs, "--layout", life.runs / "mine.yaml", "--statistics"
    )
    assert "corrected for the 3 looks" in " ".join(said.split())


@pytest.mark.parametrize(
    ("seeds", "first", "fault"),
    [
        (SEEDS, 4, "--first-seeds must stay 3, as small has had looks at its first seeds, for which its tests are "
                   "corrected; got 4"),
        ("seed=[4,3,2,1,0]", 3, "seed must begin with 0, 1, 2, 3, 4, in this order, as small has had looks at its "
                                "first seeds, for which its tests are corrected; got 4, 3, 2, 1, 0"),
    ],
)  # fmt: skip
def test_later_launch_takes_no_other_looks(life, seeds, first, fault):
    begin(life)
    finish(life)
    before = (life.grid_dir / "grid.yaml").read_text()
    with pytest.raises(ValueError, match=re.escape(fault)):
        life.launch(overrides=("trainer.device=cpu", METHODS, seeds), adaptive=True, first_seeds=first)
    assert (life.grid_dir / "grid.yaml").read_text() == before


def test_status_names_the_pairs_that_are_not_decided_and_what_they_wait_for(life):
    begin(life)
    finish(life, "fixmatch-4-s1")
    said = rankmatch("status", "--grid", "small", "--runs", life.runs)
    assert "pairs: 1 of 2 are decided" in said
    assert "not decided: method=fixmatch split=4 against its baseline, 3 of 5 seeds, 1 cell to come" in said


def test_cell_that_is_given_up_keeps_its_pair_from_going_on_and_no_other(life):
    begin(life)
    finish(life, "rankmatch-4-s1")
    life.ends(life.cell("rankmatch-4-s1"), "data or configuration")
    assert life.controller() == 0
    life.slurm.queued |= life.jobs("RUNNING")
    assert of_round(life) == ["fixmatch-s3", "supervised-s3"]


def test_retry_of_all_cells_leaves_out_seeds_that_no_pair_needs(life):
    begin(life)
    finish(life, "rankmatch-4-s1")
    life.ends(life.cell("rankmatch-4-s1"), "data or configuration")
    control.retry(life.grid_dir, (), (), (), life.console)
    assert of_round(life) == ["fixmatch-s3", "rankmatch-s1", "supervised-s3"]


def test_seed_that_is_asked_for_by_name_is_trained_all_the_same(life):
    begin(life)
    finish(life)
    (signature,) = (
        row["signature"]
        for row in map(json.loads, (life.grid_dir / "index.jsonl").read_text().splitlines())
        if row["slug"] == "rankmatch-4-s4"
    )
    control.retry(life.grid_dir, [signature], (), (), life.console)
    assert of_round(life) == ["rankmatch-s4"]


@pytest.mark.long
def test_launch_here_trains_round_by_round_and_a_later_one_finds_nothing_to_do(again):
    """Of the first three seeds two are done already."""
    before = again.launches()
    assert again("seed=[0,1,2,3]", adaptive=True, first_seeds=3) == 0
    assert "2 cells now, at most 2 cells more" in again.printed
    assert "the numbers so far leave differences open, so these get another seed" in again.printed
    assert "8 of 8 cells are done" in again.printed and len(again.launches()) == len(before) + 2
    assert len(again.attempts()) == 8 and {*again.attempts().values()} == {1}
    said = rankmatch("plan", "--grid", "small", "--runs", again.runs)  # as stored, so that resume does the same
    assert "8 cells: 8 keep" in said and "pairs: 0 of 1 are decided, 1 stay open with all seeds" in said


def test_plan_says_what_is_trained_first_and_refuses_what_has_no_seeds_to_add(fresh):
    words = ("plan", "--grid", fresh.file, "--runs", fresh.runs, "--adaptive")
    said = rankmatch(*words, "--first-seeds", "3", SEEDS)
    assert "seeds are added adaptively: 6 cells now, at most 4 cells more, for pairs that are not decided" in said
    assert "6 cells now" not in rankmatch(*words, "--first-seeds", "4", SEEDS)
    told = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(told.exception, ValueError)
    assert str(told.exception) == (
        "--adaptive must be given for a grid with a baseline and seeds to add: small has 2 seeds, of which 5 are the "
        "first: 'seed=[0,1,2,3,4,5,6,7]' makes more"
    )


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--first-seeds", "4"], "--adaptive must be given with --first-seeds; got --first-seeds 4 alone"),
        (["--adaptive", "--first-seeds", "2"], "--first-seeds must be at least 3, as fewer cannot be tested; got 2"),
        (
            ["--adaptive", "--simulate", "--gpus", "2"],
            "--simulate must be left out with --adaptive: it plays the whole grid",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(fresh, words, fault):
    told = CliRunner().invoke(app, ["plan", "--grid", str(fresh.file), SEEDS, *words])
    assert str(told.exception) == fault


@pytest.mark.parametrize("dry_run", [True, False])
def test_budget_below_what_all_seeds_take_is_refused_where_nobody_asks_again(fresh, monkeypatch, dry_run):
    monkeypatch.setattr(steps, "_device", lambda _: "cuda")
    monkeypatch.setattr(steps, "_refuse_budget", lambda *_: None)  # it holds the first round alone
    with pytest.raises(
        ValueError, match="with --adaptive here, the estimate of what is left with all seeds; got 1e-09"
    ):
        fresh(SEEDS, adaptive=True, first_seeds=3, budget_gpu_hours=1e-9, dry_run=dry_run)
