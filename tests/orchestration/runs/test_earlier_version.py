"""Folders that commit 045d81f wrote, as today's commands read them: text files alone, with paths and hosts changed."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import launch_order
from orchestration.launching.controller import State
from orchestration.on_slurm import submissions
from orchestration.on_slurm.campaign_file import open_campaigns
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import folders

MADE = Path(__file__).parent / "made_by_an_earlier_version" / "runs"
CAMPAIGN = "20261128T113351.642536-31691"


@pytest.fixture
def runs(tmp_path) -> Path:
    return Path(shutil.copytree(MADE, tmp_path / "runs"))


def said(*words: str) -> str:
    done = CliRunner().invoke(app, [*words])
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.output, done.exception)
    return done.output


def test_status_tells_how_its_cells_stand(runs):
    text = said("status", "--grid", "small", "--runs", str(runs))
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line[:1].isalnum()}
    assert "done" in rows["6568b337a97a"] and "done" in rows["84042338ba57"]
    assert "failed" in rows["2a1fe1c68b32"] and "the loss is nan at step 3 of 60" in rows["2a1fe1c68b32"]


def test_results_have_its_figures(runs):
    text = said("results", "--runs", str(runs), "grid=small", "--format", "json", "-o", str(runs / "out.json"))
    rows = [json.loads(line) for line in (runs / "out.json").read_text().splitlines()]
    done = {row["signature"]: row for row in rows if row["status"] == "done"}
    assert sorted(done) == ["6568b337a97a", "84042338ba57"], text
    assert done["6568b337a97a"]["best_miou"] == pytest.approx(0.0196, abs=1e-3)
    assert {row["commit"][:7] for row in done.values()} == {"045d81f"}
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert failed["signature"] == "2a1fe1c68b32" and failed["num_attempts"] == 1


def test_plan_keeps_what_is_done_and_leaves_what_failed_for_good(runs):
    text = said("launch", "--grid", str(runs / "small"), "--runs", str(runs), "--cluster", "inline", "--dry-run")
    actions = {
        line.split()[1]: line.split()[0] for line in text.splitlines() if line.split()[1:2] and line[0].isalpha()
    }
    assert actions["6568b337a97a"] == actions["84042338ba57"] == "keep"
    assert "the loss is nan" in text


def test_rows_and_events_of_its_attempts_are_read(runs):
    found = folders(runs / "small")
    assert [row["epoch"] for row in found["6568b337a97a"].epochs()] == [1]
    (attempt,) = found["2a1fe1c68b32"].attempts()
    assert attempt.owner()["launch"] == "20261128T113231.397714-27388"
    assert [event["event"] for event in attempt.events()] == ["started", "environment", "failed"]
    assert len(attempt.system()[0]) == 1


def test_stray_file_among_the_launches_is_none(runs):
    (runs / "small" / "launches" / "zzz.txt").write_text("notes")
    grid = GridFolder(runs / "small")
    assert "zzz.txt" not in {launch.path.name for launch in grid.launches()} and grid.launches()
    assert launch_order.newest(grid.path)[0].cluster == "inline"


def test_files_of_its_campaign_on_slurm_are_read(runs):
    ((newest, campaign),) = open_campaigns(runs / "on_slurm").items()
    assert (campaign.name, newest.name) == (CAMPAIGN, "20261128T113352.139526-31691")
    first, again = (submission for _, submission in submissions.read(runs / "on_slurm"))
    assert (first.job_id, len(first.cells)) == ("1", 4) and (again.job_id, len(again.cells)) == ("2", 1)
    assert State.read(campaign.controllers(runs / "on_slurm")).job == "9001"
    campaign.over(runs / "on_slurm").write_text("{}")
    assert not open_campaigns(runs / "on_slurm")
