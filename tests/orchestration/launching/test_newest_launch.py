"""What commands do while a launch on Slurm is open, whatever folder of a launch is the newest."""

import errno

import pytest

from orchestration.grids import index
from orchestration.launching import control, launch, launch_order, overview, steps
from orchestration.launching.options import Wanted, Workers
from orchestration.on_slurm import submissions
from orchestration.on_slurm.campaign_file import Campaign, open_campaigns
from orchestration.runs.folders import GridFolder


def begins_here(life):
    newest = GridFolder(life.grid_dir).next_launch()
    newest.path.mkdir()
    launch_order.keep(newest.path, Workers(), "")


def is_cancelled(life, slurm):
    life.console.export_text()
    control.cancel(life.grid_dir, [], life.console)
    return "told to end" in life.console.export_text() and bool(slurm.cancelled) and not open_campaigns(life.grid_dir)


def test_cancel_ends_the_jobs_of_an_open_launch_though_a_launch_here_came_after_it(life, slurm):
    life.launch()
    begins_here(life)
    assert is_cancelled(life, slurm)


def test_launch_that_was_cut_short_as_it_began_hides_no_jobs_and_turns_no_retry_into_a_training_here(
    life, slurm, monkeypatch
):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "code error")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "begin_mirror", interrupted)
    monkeypatch.setattr(launch, "launch_again", lambda *_, **__: pytest.fail("a retry of Slurm's cells trains here"))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            control.retry(life.grid_dir, ["rankmatch-4-s0"], [], [], life.console)
    assert is_cancelled(life, slurm)


def test_step_that_cannot_record_its_campaign_leaves_no_folder_of_a_launch(life, slurm, monkeypatch):
    life.launch()
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    before = GridFolder(life.grid_dir).launches()

    def full(self, launch_dir):
        raise OSError(errno.ENOSPC, "No space left on device", str(launch_dir))

    monkeypatch.setattr(Campaign, "write", full)
    assert life.controller() != 0
    assert [one.path for one in GridFolder(life.grid_dir).launches()] == [one.path for one in before]


def test_launch_here_leaves_cells_to_the_jobs_that_slurm_has_for_them(life, slurm):
    life.launch()
    slurm.queued = life.jobs("PENDING")
    life.console.export_text()
    wanted = Wanted(grid=str(life.grid_dir / "grid.yaml"), runs=life.grid_dir.parent)
    assert launch.dry_run(wanted, Workers(), life.console) == 0
    said = life.console.export_text()
    assert "4 cells: 4 running" in said and "is pending" in said


def is_resumed_in_vain(life, slurm):
    """Take the step that `resume` takes; tell whether it submitted nothing."""
    before = len(slurm.scripts)
    control.resume(life.grid_dir, life.console)
    return len(slurm.scripts) == before


WITHOUT_CONTROLLERS = ("cluster.controller=false",)


def test_step_that_a_running_node_of_a_pilot_puts_off_is_not_named(life, slurm):
    life.launch(num_nodes=2, cluster_settings=WITHOUT_CONTROLLERS)
    _, pilot = submissions.read(life.grid_dir)[-1]
    slurm.queued = {f"{pilot.nodes.number}_0": ("RUNNING", "n1")}  # its head died with its machine
    assert is_resumed_in_vain(life, slurm)
    [due] = overview.of_grid(life.grid_dir).due
    assert "once the pilot has ended" in due


def test_step_for_which_the_site_has_no_room_is_not_named(life, slurm):
    life.launch(cluster_settings=(*WITHOUT_CONTROLLERS, "cluster.max_submit=2"))
    slurm.queued = life.jobs("RUNNING")
    assert is_resumed_in_vain(life, slurm)
    [due] = overview.of_grid(life.grid_dir).due
    assert "once jobs of the grid have ended" in due


def test_step_of_an_earlier_launch_leaves_the_file_of_the_newest(life, slurm):
    life.launch()
    cell = life.cell("rankmatch-4-s0")
    life.launch(overrides=("trainer.device=cpu", "trainer.learning_rate=0.02"))
    text, partners = (life.grid_dir / "grid.yaml").read_text(), index.known_partners(index.read(life.grid_dir))
    assert "trainer.learning_rate: 0.02" in text
    life.ends(cell, "lost")
    assert life.controller() == 0 and len(slurm.scripts) == 3
    assert (life.grid_dir / "grid.yaml").read_text() == text
    assert index.known_partners(index.read(life.grid_dir)) == partners
