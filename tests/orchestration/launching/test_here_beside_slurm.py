"""A launch here of a grid that is on Slurm too: what a plan says of the other's jobs, and who ends which cells."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from campaign_life import Life
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import control, launch_order, overview, waiting
from orchestration.launching.launch_folder import only_launch_of
from orchestration.launching.options import Workers
from orchestration.machine.processes import this_process
from orchestration.on_slurm import submissions
from orchestration.on_slurm.campaign_file import cancelled_in
from orchestration.runs.folders import GridFolder, LaunchFolder
from orchestration.runs.run_folder import RunFolder
from rankmatch.durable import make_folder

CELL = "rankmatch-4-s0"


@contextmanager
def launch_here(life: Life, *cells: RunFolder) -> Iterator[str]:
    """Be a launch at work that has some cells; yield its name."""
    new = GridFolder(life.grid_dir).next_launch()
    make_folder(new.path)
    launch_order.keep(new.path, Workers("inline"), "")
    signatures = [cell.signature for cell in cells]
    with only_launch_of(life.grid_dir), waiting.at_work(life.grid_dir), waiting.noted(new.path, signatures):
        yield new.path.name


def left_a_note_elsewhere(life: Life, *cells: RunFolder) -> LaunchFolder:
    """Leave what a launch on another machine has there while it lives, and once it was killed."""
    new = GridFolder(life.grid_dir).next_launch()
    make_folder(new.path)
    launch_order.keep(new.path, Workers("inline"), "")
    for file, signatures in ((new.grid.launcher_file, []), (new.launcher_file, [cell.signature for cell in cells])):
        waiting.Launcher("gpu07", 4711, 5, "", cells=signatures).to_file(file)
    return new


def trains(cell: RunFolder, launch: str, host: str = "") -> None:
    at = {**this_process(), "host": host} if host else this_process()
    cell.claim({"commit": "abc", "launch": launch, "grid": "small", **at}).event("started", step=0)


@pytest.mark.parametrize("is_begun", [True, False])
def test_cell_of_a_launch_here_is_not_cancelled_by_name_nor_noted_so_for_the_one_on_slurm(is_begun, life: Life) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(cell, "lost")
    with launch_here(life, cell) as launch:
        if is_begun:
            trains(cell, launch)
        with pytest.raises(ValueError, match=f"CELL must be left out: .* is ended as a whole; got '{cell.name}'"):
            control.cancel(life.grid_dir, [cell.signature], life.console)
        assert not cancelled_in(life.grid_dir, life.campaign.name)


def test_other_cells_and_those_whose_job_slurm_has_are_cancelled_by_name_beside_a_launch_here(life: Life) -> None:
    life.launch()
    cell, queued = life.cell(CELL), life.cell("supervised-4-s0")
    life.ends(cell, "lost")
    with launch_here(life, cell, queued) as launch:
        trains(cell, launch)
        control.cancel(life.grid_dir, ["rankmatch-4-s1", queued.signature], life.console)
    assert "2 cells were told to end" in life.console.export_text()
    assert cancelled_in(life.grid_dir, life.campaign.name) == {queued.name, life.cell("rankmatch-4-s1").name}


def test_cell_that_a_launch_here_has_ended_with_is_noted_as_cancelled_for_the_one_on_slurm(life: Life) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(cell, "lost")
    with launch_here(life, cell) as launch:
        trains(cell, launch)
        cell.attempts()[-1].event("failed", kind="lost", message="it ended", step=0)
        control.cancel(life.grid_dir, [cell.signature], life.console)
    assert cancelled_in(life.grid_dir, life.campaign.name) == {cell.name}


@pytest.mark.parametrize("trains_elsewhere", [False, True])
def test_note_of_a_launch_elsewhere_counts_beside_a_newer_launch_only_if_it_trains(
    trains_elsewhere, life: Life
) -> None:
    life.launch()
    cell, other, third = life.cell(CELL), life.cell("rankmatch-4-s1"), life.cell("supervised-4-s0")
    old = left_a_note_elsewhere(life, cell, other)
    life.slurm.queued.clear()
    for one in (cell, third):
        life.ends(one, "code error")
    control.retry(life.grid_dir, [cell.signature, third.signature], [], [], life.console)
    life.slurm.queued |= life.jobs("RUNNING")
    newest = max(one.name for one in old.grid.launches_dir.iterdir())
    life.ends(cell, "network", campaign=newest)  # it waits before its next try
    if trains_elsewhere:  # it shares the files, and not the lock
        trains(other, old.path.name, host="gpu07")
    assert waiting.is_at_work(life.grid_dir) == trains_elsewhere
    assert ("process 4711" in "\n".join(overview.of_grid(life.grid_dir).lines)) == trains_elsewhere
    if not trains_elsewhere:
        control.cancel(life.grid_dir, [cell.signature], life.console)
        assert cancelled_in(life.grid_dir, newest) == {cell.name}
        assert "4711" not in life.console.export_text()


def test_cell_of_a_launch_that_was_killed_elsewhere_is_cancelled_by_name_and_the_note_named(life: Life) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(cell, "lost")
    left = left_a_note_elsewhere(life, cell)
    control.cancel(life.grid_dir, [cell.signature], life.console)
    assert cancelled_in(life.grid_dir, life.campaign.name) == {cell.name}
    said = " ".join(life.console.export_text().split())
    assert "process 4711 on gpu07 has cells of these too, and counts as dead" in said
    assert str(left.launcher_file) in said


@pytest.mark.parametrize("sign", ["the lock", "a training"])
def test_cell_of_a_launch_elsewhere_that_may_live_is_not_cancelled_by_name_and_the_note_named(
    sign, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.launch()
    cell, other = life.cell(CELL), life.cell("rankmatch-4-s1")
    life.ends(cell, "lost")
    left = left_a_note_elsewhere(life, cell, other)
    monkeypatch.setattr(control, "CANCEL_LOOK_S", 0.0)
    with ExitStack() as held:
        if sign == "the lock":
            held.enter_context(only_launch_of(life.grid_dir))
        else:
            trains(other, left.path.name, host="gpu07")
        with pytest.raises(ValueError, match=f"4711 on gpu07 has ended, .* remove {left.launcher_file}"):
            control.cancel(life.grid_dir, [cell.signature], life.console)
    assert not cancelled_in(life.grid_dir, life.campaign.name)


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_plan_of_a_launch_here_says_that_slurm_does_not_answer_and_a_launch_waits_for_that(words, life: Life) -> None:
    life.launch()
    life.slurm.is_down = True
    place = ("--grid", str(life.grid_dir / "grid.yaml"), "--runs", str(life.runs))
    asked = CliRunner().invoke(app, ["plan", *words, *place, "trainer.device=cpu"])
    assert asked.exit_code == 0, (asked.exception, asked.output)
    assert "cells that have a job are planned, too: " in (asked.stderr if words else asked.stdout)
    assert len(submissions.newest_jobs(life.grid_dir)) == 4
