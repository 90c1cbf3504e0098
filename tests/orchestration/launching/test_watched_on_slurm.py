"""Whoever watches a grid on Slurm: outlives what does not answer, and ends with what their own launch has."""

import errno
import os
from collections.abc import Callable

import pytest
from campaign_life import SMALL, Life
from typed_words import Options
from typed_words import launch as launch_on_slurm

from orchestration.launching import control, overview
from orchestration.on_slurm.commands import SlurmError


@pytest.fixture
def after_a_while(life: Life, monkeypatch) -> Callable[[Callable[[], None]], list[float]]:
    """Have something happen while somebody who watches waits for the second time."""
    monkeypatch.setattr(control, "_sync", lambda *_, **__: None)

    def have(happen: Callable[[], None]) -> list[float]:
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 2:
                happen()

        monkeypatch.setattr(control.clock, "sleep", sleep)
        return waits

    return have


def is_silent(command: list[str]) -> str:
    raise SlurmError("scontrol did not answer within 30 s")


def test_status_and_whoever_watches_outlive_a_slurm_that_tells_jobs_and_not_what_room_there_is(
    life: Life, after_a_while, monkeypatch
) -> None:
    life.launch(cluster_settings=("cluster.controller=false",))
    life.ends(life.cell("rankmatch-4-s0"), "lost")
    with monkeypatch.context() as away:
        away.setattr(life.slurm, "_scontrol", is_silent)
        seen = overview.of_grid(life.grid_dir)
        (said,) = [note for note in seen.notes if "is unknown" in note]
        assert said == f"what launch {life.campaign.name} does next is unknown: scontrol did not answer within 30 s"
        assert len(seen.rows) == 4 and seen.is_unclear
        waits = after_a_while(life.done)
        assert control.stay(life.grid_dir, life.console) == 0
    assert len(waits) == 2


@pytest.mark.parametrize("watch", [control.stay, lambda *words: control.status(*words, watch=True)])
def test_whoever_watches_outlives_a_file_server_that_is_away(watch, life: Life, after_a_while, monkeypatch) -> None:
    life.launch()
    life.done()
    life.controller()
    look = overview.of_grid

    def away(grid_dir):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(grid_dir))

    monkeypatch.setattr(overview, "of_grid", away)
    waits = after_a_while(lambda: monkeypatch.setattr(overview, "of_grid", look))
    assert not watch(life.grid_dir, life.console) and len(waits) == 2
    said = life.console.export_text()
    assert said.count("small cannot be looked at for now: [Errno 116] Stale file handle") == 2 and "4 done" in said


def test_exit_code_of_a_watched_launch_is_that_of_its_own_cells(life: Life) -> None:
    life.launch()
    life.done(*(life.cell(name) for name in ("rankmatch-4-s0", "supervised-4-s0", "supervised-4-s1")))
    life.ends(life.cell("rankmatch-4-s1"), "code error")
    life.controller()
    assert life.campaign.over(life.grid_dir).exists()
    options = Options(
        grid=str(SMALL), overrides=("trainer.device=cpu", "seed=0"), runs=life.runs, cluster="slurm", watch=True
    )
    assert launch_on_slurm(options, life.console) == 0
    assert control.stay(life.grid_dir, life.console) == 1
    assert control.stay(life.grid_dir, life.console, [life.cell("rankmatch-4-s1").signature]) == 1
