"""Clocks of nodes that are days ahead of those of the controllers, and of the file server."""

import time

import pytest

from orchestration.launching import control, overview
from orchestration.machine import files
from orchestration.runs.retries import failed_hosts

DAYS_S = 3 * 86_400.0


def at(seconds: float) -> pytest.MonkeyPatch:
    """Return what sets the clock so many seconds ahead until it is undone."""
    now, changed = time.time(), pytest.MonkeyPatch()
    changed.setattr(time, "time", lambda: now + seconds)
    return changed


def test_cell_whose_node_is_days_ahead_is_retried_after_its_wait_and_status_says_how_long_that_is(life):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    ahead = at(DAYS_S)
    life.ends(cell, "file system")
    ahead.undo()
    num = len(life.slurm.scripts)
    assert life.controller() == 0 and len(life.slurm.scripts) == num
    assert life.slurm.controllers[min(life.slurm.controllers)]["begin"] == "now+121"
    row = next(row for row in overview.of_grid(life.grid_dir).rows if row.cell.slug == "rankmatch-4-s0")
    assert row.standing == "waiting"
    assert row.note == "waits 2 min before its next try, after file system: it ended"
    later = at(125)
    assert life.controller() == 0 and len(life.slurm.scripts) == num + 1
    later.undo()
    a_day_later = at(86_500)
    assert not failed_hosts(cell, life.campaign.name)
    a_day_later.undo()


def test_cell_that_was_cancelled_waits_for_no_try(life):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    life.ends(cell, "file system")
    control.cancel(life.grid_dir, [cell.signature], life.console)
    row = next(row for row in overview.of_grid(life.grid_dir).rows if row.cell.slug == "rankmatch-4-s0")
    assert (row.standing, row.note) == ("failed", "file system: it ended")


def test_controllers_are_overdue_though_the_clock_of_the_last_one_was_days_ahead(life):
    life.launch()
    assert life.controller() == 0
    state = files.read_json(life.folder.state_file)
    files.replace(life.folder.state_file, files.to_text({**state, "time": time.time() + DAYS_S}))
    assert not any("was at work since" in note for note in overview.of_grid(life.grid_dir).notes)
    later = at(2 * 86_400)
    notes = overview.of_grid(life.grid_dir).notes
    later.undo()
    assert any("no controller of launch" in note and "was at work since" in note for note in notes)
