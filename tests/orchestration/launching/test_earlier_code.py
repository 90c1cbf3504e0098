"""Campaigns of an earlier version, whose sources have other modules than today's scripts and tasks name."""

import pickletools
from pathlib import Path

import pytest
from orchestration_fakes import FakeSlurm
from rich.console import Console
from typed_words import Options
from typed_words import launch as launch_on_slurm

from orchestration.launching import control, controller, earlier_code
from orchestration.launching.step import take_step
from orchestration.machine import provenance, snapshot
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.runs.folders import GridFolder

SMALL = Path(__file__).parents[1] / "small.yaml"
OF_EARLIER_SOURCES = ("orchestration/cli.py", "orchestration/on_slurm/controller.py", "orchestration/on_slurm/job.py")


@pytest.fixture
def console() -> Console:
    return Console(width=2000, record=True)


@pytest.fixture
def grid_dir(tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    return tmp_path / "runs" / "small"


def launch(grid_dir: Path, *settings: str, console: Console, **more: object) -> Campaign:
    options = Options(grid=str(SMALL), overrides=("trainer.device=cpu",), runs=grid_dir.parent, cluster="slurm",
                      cluster_settings=settings, **more)  # fmt: skip
    assert launch_on_slurm(options, console) == 0
    return Campaign.read(GridFolder(grid_dir).launches()[0].path)


def has_earlier_sources(campaign: Campaign) -> None:
    for name in OF_EARLIER_SOURCES:
        path = Path(campaign.snapshot, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("settings", [(), ("cluster.controller=false",)])
def test_its_next_step_is_refused_before_anything_is_written_and_status_says_who_takes_it(
    settings, grid_dir, slurm, console
):
    campaign = launch(grid_dir, *settings, console=console)
    has_earlier_sources(campaign)
    slurm.queued, slurm.controllers = {}, {}
    before = contents(grid_dir)
    sources = f"env PYTHONPATH={campaign.snapshot} PYTHONSAFEPATH=1"
    for act in (control.resume, control.reconcile):
        with pytest.raises(ValueError, match="nothing was done for launch .* begun by an earlier version") as caught:
            act(grid_dir, console)
        assert f"`{sources}" in str(caught.value) and "from orchestration.cli import main" in str(caught.value)
        assert "rankmatch cancel --grid small" in str(caught.value)
    with pytest.raises(ValueError, match="lack orchestration.launching.controller"):
        take_step(GridFolder(grid_dir).launches()[0].path, console)
    with pytest.raises(ValueError, match="lack orchestration.launching.controller"):
        controller.begin(campaign, grid_dir)
    console.export_text()
    control.status(grid_dir, console)
    said = console.export_text()
    assert sources in said and "rankmatch retry --grid small" in said and "rankmatch resume" not in said
    assert contents(grid_dir) == before and len(slurm.scripts) == 1


def test_what_is_left_of_it_is_trained_by_this_version_once_it_is_cancelled(grid_dir, slurm, console):
    has_earlier_sources(launch(grid_dir, console=console))
    slurm.queued = {}
    control.cancel(grid_dir, [], console)
    newer = grid_dir / "snapshots" / "newer"
    snapshot.take = lambda *_, **__: snapshot.Snapshot(newer, "def", "")  # the fixture puts it back
    control.retry(grid_dir, [], [], [], console)
    assert len(slurm.scripts) == 2 and f"PYTHONPATH={newer}" in slurm.scripts[1]


def test_sources_that_are_gone_or_of_this_version_are_not_refused(grid_dir, slurm, console):
    campaign = launch(grid_dir, console=console)
    assert earlier_code.advice(campaign, grid_dir) == ""
    for name in (f"{module.replace('.', '/')}.py" for module in earlier_code.NEEDED):
        assert (provenance.ROOT / name).is_file()
        Path(campaign.snapshot, name).parent.mkdir(parents=True, exist_ok=True)
        Path(campaign.snapshot, name).write_text("")
    assert earlier_code.advice(campaign, grid_dir) == ""


@pytest.mark.parametrize("num_nodes", [None, 1])
def test_every_module_that_a_task_names_is_looked_for(num_nodes, grid_dir, slurm, console):
    launch(grid_dir, "cluster.cpus_per_worker=1", "cluster.mem_gb_per_worker=2", console=console, num_nodes=num_nodes)
    words = {
        value
        for path in GridFolder(grid_dir).launches()[0].jobs_dir.glob("*.pkl")
        for _, value, _ in pickletools.genops(path.read_bytes())
        if isinstance(value, str)
    }
    named = {word for word in words if (provenance.ROOT / f"{word.replace('.', '/')}.py").is_file() and "." in word}
    assert "orchestration.on_slurm.notices" in named and named <= {*earlier_code.NEEDED}, named
