"""A cell that cannot be read harms only itself: the others of its grid are submitted, retried and told of."""

import errno
import json
import os
import time
from pathlib import Path

import pytest
from campaign_life import Life
from orchestration_fakes import FakeSlurm
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import overview
from orchestration.runs.run_folder import RunFolder

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
