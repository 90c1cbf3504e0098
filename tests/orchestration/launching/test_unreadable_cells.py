"""A cell that cannot be read harms only itself: the others of its grid are submitted, retried and told of."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign_life import Life
from orchestration_fakes import FakeSlurm
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import control, overview
from orchestration.machine import clock
from orchestration.on_slurm import never_began, policy, submissions
from orchestration.runs.retries import HOLD_S, decision_of, decisions
from orchestration.runs.run_folder import RunFolder, folders

pytestmark = pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
CELL = "rankmatch-4-s0"


def answers_with_an_error(cell: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.listdir

    def listdir(path):
        if cell.signature in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)


def is_a_file(cell: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    cell.attempts_dir.write_text("no folder")


def has_an_owner_without_its_job(cell: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    cell.claim({"commit": "abc", "host": "n1", "pid": 1, "process_started": 1, "slurm": {"node": "n1"}})


def has_a_foreign_file(cell: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = cell.claim({"commit": "abc", "host": "n1", "pid": 1, "process_started": 1})
    attempt.event("started", step=0)
    (attempt.path / "system-old.jsonl").write_text("")


@pytest.mark.parametrize(
    "attempts", [answers_with_an_error, is_a_file, has_an_owner_without_its_job, has_a_foreign_file]
)
def test_others_are_submitted_beside_a_cell_whose_attempts_cannot_be_read(
    attempts, life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    other = life.cell("rankmatch-4-s1")
    attempts(life.cell(CELL), monkeypatch)
    life.ends(other, "lost")
    num_scripts = len(slurm.scripts)
    assert life.controller() == 0 and len(slurm.scripts) == num_scripts + 1
    assert f"running  {other.signature}" not in life.console.export_text(clear=False)
    assert not any("does not resume" in text for text in life.said())
    assert CELL in "\n".join(overview.of_grid(life.grid_dir).lines)


@pytest.mark.parametrize("attempts", [answers_with_an_error, is_a_file])
def test_cell_that_cannot_be_read_and_has_no_job_is_told_of_once_by_name(
    attempts, life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    attempts(cell, monkeypatch)
    life.ends(cell, None)
    others = [one for one in life.jobs("RUNNING") if one in slurm.queued]
    assert len(others) == 3
    for _ in range(2):
        assert life.controller() == 0
    (told,) = life.said()
    assert told.startswith(f"small: nothing is done with {cell.name}: {cell.attempts_dir} cannot be read")
    assert not life.campaign.over(life.grid_dir).exists()


def test_several_cells_that_cannot_be_read_are_told_of_together(life: Life) -> None:
    life.launch()
    for name in (CELL, "supervised-4-s1"):
        cell = life.cell(name)
        cell.attempts_dir.write_text("no folder")
        life.ends(cell, None)
    for _ in range(2):
        assert life.controller() == 0
    (told,) = life.said()
    assert f"nothing is done with {life.cell(CELL).name} and 1 other: " in told


def test_cell_that_was_unreadable_for_a_while_is_tried_again_when_it_can_be_read(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(cell, "lost")
    with monkeypatch.context() as away:
        answers_with_an_error(cell, away)
        num_scripts = len(slurm.scripts)
        assert life.controller() == 0 and len(slurm.scripts) == num_scripts
    assert life.controller() == 0 and len(slurm.scripts) == num_scripts + 1


@pytest.mark.parametrize("attempts", [answers_with_an_error, is_a_file, has_a_foreign_file])
@pytest.mark.parametrize("command", ["status", "table", "report", "plan"])
def test_readers_show_the_other_cells(command: str, attempts, life: Life, slurm: FakeSlurm, monkeypatch) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.done(life.cell("rankmatch-4-s1"), life.cell("supervised-4-s1"))
    attempts(cell, monkeypatch)
    words = [command, "small"] if command == "report" else [command, "--grid", "small"]
    done = CliRunner().invoke(app, [*words, "--runs", str(life.runs)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.exception, done.output)
    shown = (life.grid_dir / "report.html").read_text() if command == "report" else done.stdout
    assert "50.0" in shown if command in ("table", "report") else "rankmatch-4-s1" in shown


def test_campaign_with_a_damaged_cell_ends_with_the_table_of_the_others(life: Life) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.done(*(one for one in (life.cell(name) for name in ("rankmatch-4-s1", "supervised-4-s0", "supervised-4-s1"))))
    life.ends(cell, None)
    cell.attempts_dir.write_text("no folder")
    assert life.controller() == 0 and life.campaign.over(life.grid_dir).exists()
    assert life.said()[-1] == "small: 3 of 4 cells are done, 1 are given up"
    assert any(text.startswith(f"small: nothing is done with {cell.name}: ") for text in life.said())
    assert Path(life.grid_dir / "report.md").is_file()


def fails(life: Life, cell: RunFolder, slurm: FakeSlurm) -> None:
    life.ends(cell, "code error")


def waits(life: Life, cell: RunFolder, slurm: FakeSlurm) -> None:
    life.ends(cell, "file system")


def ran_out_of_memory(life: Life, cell: RunFolder, slurm: FakeSlurm) -> None:
    life.runs_out_of(cell, "out of host memory")


def is_cancelled(life: Life, cell: RunFolder, slurm: FakeSlurm) -> None:
    control.cancel(life.grid_dir, [cell.signature], life.console)
    life.ends(cell, "cancelled")


@pytest.mark.parametrize(("ends", "num_due"), [(fails, 0), (waits, 0), (ran_out_of_memory, 1), (is_cancelled, 0)])
def test_nothing_is_done_with_a_cell_that_could_not_be_read_when_the_policy_decided(
    ends: Callable[[Life, RunFolder, FakeSlurm], None], num_due: int, life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.done(*(one for one in folders(life.grid_dir).values() if one.name != cell.name))
    ends(life, cell, slurm)
    with monkeypatch.context() as away:
        left = policy.left

        def look(*args, **kwargs):
            with monkeypatch.context() as meanwhile:
                answers_with_an_error(cell, meanwhile)
                return left(*args, **kwargs)

        away.setattr(policy, "left", look)
        assert life.controller() == 0
    assert len(slurm.scripts) == 1 and not life.campaign.over(life.grid_dir).exists()
    assert f"nothing is done with {cell.name}: {cell.attempts_dir} cannot be read for now" in life.said()[-1]
    assert life.controller() == 0
    assert len(slurm.scripts) == 1 + num_due
    if num_due:
        assert "--mem=24576MB" in slurm.scripts[1]


def test_cell_with_an_earlier_attempt_that_cannot_be_read_is_not_submitted_and_told_of_once(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(cell, "lost")
    assert life.controller() == 0
    life.ends(cell, "lost")
    earlier = str(cell.attempts()[0].path / "events.jsonl")
    real = RunFolder.ends

    def ends(folder: RunFolder, campaign: str):
        if folder.name == cell.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), earlier)
        return real(folder, campaign)

    monkeypatch.setattr(RunFolder, "ends", ends)
    num = len(slurm.scripts)
    for _ in range(4):
        assert life.controller() == 0
    assert len(slurm.scripts) == num
    assert [text for text in life.said() if cell.name in text and "nothing is done with" in text] == life.said()[-1:]


def test_cell_is_not_given_up_while_others_that_may_have_ended_with_it_cannot_be_read(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cells = [*folders(life.grid_dir).values()]
    for cell in cells:
        life.ends(cell, "disk full")
    one, campaign = cells[0], life.campaign.name
    assert decision_of(one, campaign).again  # the same ended all of them
    for cell in cells[2:]:
        answers_with_an_error(cell, monkeypatch)
    with pytest.raises(OSError, match="Input/output error"):
        decision_of(one, campaign)
    assert decisions({"one": one, "another": cells[1]}, campaign) == {}


def test_nothing_is_submitted_under_a_budget_that_cells_which_cannot_be_read_may_have_spent(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch(budget_gpu_hours=1000.0, overrides=("trainer.device=cuda",))
    cell, other = life.cell(CELL), life.cell("rankmatch-4-s1")
    life.ends(other, "lost")
    life.done(cell)
    result = json.loads(cell.result_file.read_text())
    cell.result_file.write_text(json.dumps({**result, "gpu_duration_s": 3600 * 1001.0}) + "\n")
    with monkeypatch.context() as away:
        answers_with_an_error(cell, away)
        for _ in range(2):
            assert life.controller() == 0
    assert len(slurm.scripts) == 1 and not life.campaign.over(life.grid_dir).exists()
    (told,) = life.said()
    assert f"nothing is done with {other.name}: {cell.attempts_dir} cannot be read for now" in told
    assert "so --budget-gpu-hours may be spent" in told
    assert life.controller() == 0 and len(slurm.scripts) == 2


def test_what_a_budget_was_used_for_needs_not_be_read_where_nothing_is_to_be_submitted(life: Life, monkeypatch) -> None:
    life.launch(budget_gpu_hours=1000.0, overrides=("trainer.device=cuda",))
    life.done()
    answers_with_an_error(life.cell(CELL), monkeypatch)
    assert life.controller() == 0 and life.campaign.over(life.grid_dir).exists()


def test_cell_is_given_up_though_another_cannot_be_read_six_hours_after_it_ended(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell, other = life.cell(CELL), life.cell("rankmatch-4-s1")
    life.done(*(one for one in folders(life.grid_dir).values() if one.name != cell.name))
    life.ends(cell, "disk full")
    answers_with_an_error(other, monkeypatch)
    assert life.controller() == 0 and not life.campaign.over(life.grid_dir).exists()
    assert f"nothing is done with {cell.name}: {other.attempts_dir} cannot be read for now" in life.said()[-1]
    monkeypatch.setattr(clock, "now", lambda: time.time() + HOLD_S)
    assert life.controller() == 0 and life.campaign.over(life.grid_dir).exists()


def test_cells_of_a_pilot_are_not_taken_for_untried_while_one_of_them_cannot_be_read(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch(num_nodes=2)
    launch_dir, pilot = submissions.read(life.grid_dir)[-1]
    cell = life.cell(CELL)
    slurm_job = {"job": f"{pilot.nodes_id}_0", "name": pilot.nodes_name, "restart": 0}
    owner = {"commit": "abc", "campaign": life.campaign.name, "launch": launch_dir.name, "host": "n1", "pid": 1}
    attempt = cell.claim({**owner, "process_started": 1, "slurm": slurm_job})
    attempt.event("failed", kind="lost", message="gone", step=0)
    slurm.queued.clear()
    slurm.accounted = {pilot.job_id: ("NODE_FAIL", "n1")}
    answers_with_an_error(cell, monkeypatch)
    found, unread = never_began.record(life.grid_dir)
    assert found == [] and unread.keys() == {cell.signature}


def test_how_long_cells_wait_is_found_with_two_looks_at_each_however_many_have_failed(life: Life, monkeypatch) -> None:
    life.launch()
    cells = {one.signature: one for one in folders(life.grid_dir).values()}
    for cell in cells.values():
        life.ends(cell, "disk full")
    looks: list[str] = []
    real = RunFolder.ends

    def ends(folder: RunFolder, campaign: str):
        looks.append(folder.name)
        return real(folder, campaign)

    monkeypatch.setattr(RunFolder, "ends", ends)
    assert policy.waiting_cells(life.grid_dir, cells).keys() == cells.keys()
    assert len(looks) == 2 * len(cells)


def test_cells_that_cannot_be_read_by_turns_are_told_of_once_each_and_together(life: Life, monkeypatch) -> None:
    life.launch()
    cells = [life.cell(name) for name in (CELL, "rankmatch-4-s1", "supervised-4-s0")]
    for cell in cells:
        life.ends(cell, "code error")
    now, real, away = time.time(), os.listdir, list[RunFolder]()

    def listdir(path):
        if any(cell.signature in str(path) for cell in away):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    for hours, by_turns in ((0, ([0], [0, 1], [1], [1, 2], [2], [0, 2])), (2, ([0], [0, 1, 2])), (4, ([1], [2, 0]))):
        monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)  # noqa: B023
        for places in by_turns:
            away[:] = [cells[place] for place in places]
            assert life.controller() == 0
    told = [text for text in life.said() if "nothing is done" in text]
    others = sorted((cells[1], cells[2]), key=lambda cell: cell.signature)
    assert len(told) == 2 and f"with {cells[0].name}: " in told[0] and f"with {others[0].name} and 1 other: " in told[1]
    known = json.loads((life.grid_dir / "notices.json").read_text())
    (kept,) = (one for cause, one in known.items() if cause.startswith("unreadable"))
    assert kept["about"] == sorted(cell.signature for cell in cells)
