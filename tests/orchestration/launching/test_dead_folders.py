"""A cell whose folder does not answer, from the first look or at times, keeps nobody from the others."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign_life import Life
from orchestration_fakes import FakeSlurm
from rich.console import Console
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import overview
from orchestration.launching.watching import Watched
from orchestration.runs.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
CELL, OTHER = "rankmatch-4-s0", "rankmatch-4-s1"
CALLS = ((Path, "stat"), (Path, "open"), (os, "listdir"), (os, "scandir"))


def goes_away(
    cell: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int = errno.EIO, when: Callable[[], bool] = lambda: True
) -> None:
    """Have all that is asked of a cell's folder answered by an error, as of a file server that is gone."""

    def answered(real):
        def ask(path, *args, **kwargs):
            if cell.signature in str(path) and when():
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *args, **kwargs)

        return ask

    for place, name in CALLS:
        monkeypatch.setattr(place, name, answered(getattr(place, name)))
    allowed = os.access  # which says so by False
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (cell.signature in str(path) and when()) and allowed(path, mode)
    )


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("has_job", [True, False])
def test_others_are_submitted_beside_a_cell_whose_folder_does_not_answer(
    number: int, has_job: bool, life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(life.cell(OTHER), "lost")
    if not has_job:
        life.ends(cell, "lost")
    with monkeypatch.context() as away:
        goes_away(cell, away, number)
        assert life.controller() == 0 and len(slurm.scripts) == 2
        assert [cell.name in text for text in life.said()] == ([] if has_job else [True])
        (row,) = (line for line in overview.of_grid(life.grid_dir).lines if line.startswith(cell.signature))
        assert "cannot be read for now" in row or has_job
    assert life.controller() == 0 and len(slurm.scripts) == (2 if has_job else 3)


@pytest.mark.parametrize("words", [["status"], ["plan"], ["resume"], ["retry", OTHER], ["table"]])
def test_commands_go_on_beside_a_cell_whose_folder_does_not_answer(
    words: list[str], life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    life.done(life.cell("supervised-4-s1"))
    life.ends(life.cell(OTHER), "code error")
    life.ends(life.cell(CELL), "lost")
    goes_away(life.cell(CELL), monkeypatch)
    where = ["--grid", "small", "--runs", str(life.runs)]
    done = CliRunner().invoke(app, [*words, *where], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.exception, done.output)
    assert len(slurm.scripts) == (2 if words[0] == "retry" else 1)


def test_launch_submits_the_others_beside_a_cell_whose_folder_does_not_answer(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    life.ends(life.cell(OTHER), "lost")
    life.ends(life.cell(CELL), "lost")
    goes_away(life.cell(CELL), monkeypatch)
    life.launch()
    assert "submitted: 1 cell as job" in life.console.export_text()


def test_watched_grid_is_shown_beside_a_cell_whose_folder_does_not_answer(life: Life, monkeypatch) -> None:
    life.launch()
    life.ends(life.cell(CELL), "lost")
    goes_away(life.cell(CELL), monkeypatch)
    console = Console(width=200, record=True)
    with Watched(console) as watched:
        seen = watched.look(life.grid_dir)
    assert seen and len(seen.rows) == 4 and OTHER in console.export_text()
