"""A cell whose folder does not answer, from the first look or at times, keeps nobody from the others."""

import errno
import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from campaign_life import Life
from orchestration_fakes import FakeSlurm
from rich.console import Console
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.launching import campaign, control, controller, overview, step
from orchestration.launching.watching import Watched
from orchestration.machine import clock
from orchestration.on_slurm import never_began, policy, queue_state, submissions
from orchestration.on_slurm.campaign_file import open_campaigns
from orchestration.runs import folder_states
from orchestration.runs.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
CELL, OTHER = "rankmatch-4-s0", "rankmatch-4-s1"
CALLS = ((Path, "stat"), (Path, "open"), (os, "listdir"), (os, "scandir"))


def goes_away(
    cell: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    number: int = errno.EIO,
    *,
    below: str = "",
    when: Callable[[], bool] = lambda: True,
) -> None:
    """Have all that is asked of a cell's folder answered by an error, as of a file server that is gone."""

    def is_meant(path: object) -> bool:
        return cell.signature in str(path) and below in str(path) and when()

    def answered(real):
        def ask(path, *args, **kwargs):
            if is_meant(path):
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *args, **kwargs)

        return ask

    for place, name in CALLS:
        monkeypatch.setattr(place, name, answered(getattr(place, name)))
    allowed = os.access  # which says so by False
    monkeypatch.setattr(os, "access", lambda path, mode: not is_meant(path) and allowed(path, mode))


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


@pytest.mark.parametrize("file", ["config.yaml", "axes.json", "attempts"])
def test_others_are_submitted_beside_a_cell_of_which_one_file_does_not_answer(
    file: str, life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    assert (cell.path / file).exists() or file == "attempts"
    life.ends(cell, "lost")
    life.ends(life.cell(OTHER), "lost")
    with monkeypatch.context() as away:
        goes_away(cell, away, below=file)
        assert life.controller() == 0 and len(slurm.scripts) == 2
    assert [cell.name in text and file in text for text in life.said()] == [True]
    assert life.controller() == 0 and len(slurm.scripts) == 3


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


def is_lost(life: Life, cell: RunFolder, word: str) -> None:
    """Have a job end as Slurm says, so suddenly that its training recorded nothing."""
    attempt = cell.claim(life.owner_of(cell))
    attempt.event("started", step=0)
    life.ends(cell, None, state=word)
    for path in (attempt.path, *attempt.path.iterdir()):
        os.utime(path, (time.time() - 3600,) * 2)


def away_in(place: object, name: str, cell: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a cell be away while a function looks, and only then."""
    real = getattr(place, name)

    def look(*args, **kwargs):
        with monkeypatch.context() as meanwhile:
            goes_away(cell, meanwhile)
            return real(*args, **kwargs)

    monkeypatch.setattr(place, name, look)


@pytest.mark.parametrize(("word", "num_due"), [("OUT_OF_MEMORY", 1), ("CANCELLED", 0)])
def test_cell_is_not_tried_again_before_it_is_recorded_how_it_ended(
    word: str, num_due: int, life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    is_lost(life, cell, word)
    with monkeypatch.context() as away:
        away_in(queue_state, "record_lost", cell, away)
        assert life.controller() == 0 and len(slurm.scripts) == 1
    assert [f"nothing is done with {cell.name}: " in text for text in life.said()] == [True]
    assert life.controller() == 0 and len(slurm.scripts) == 1 + num_due
    assert bool(submissions.larger_cells(life.grid_dir)) == bool(num_due)


def test_how_a_cell_ended_is_recorded_at_the_second_look(life: Life, slurm: FakeSlurm, monkeypatch) -> None:
    life.launch()
    cell, waited = life.cell(CELL), list[float]()
    is_lost(life, cell, "OUT_OF_MEMORY")
    monkeypatch.setattr(folder_states, "WAITS_S", (1.0, 2.0))
    monkeypatch.setattr(controller.clock, "sleep", waited.append)
    goes_away(cell, monkeypatch, when=lambda: not waited)
    assert life.controller() == 0 and submissions.larger_cells(life.grid_dir) and not life.said()


def test_cell_whose_job_never_began_is_not_tried_again_before_that_is_recorded(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(cell, None)
    with monkeypatch.context() as away:
        away_in(never_began, "record", cell, away)
        assert life.controller() == 0 and len(slurm.scripts) == 1
    assert life.controller() == 0 and [end.kind for end in cell.ends(life.campaign.name)] == ["never began"]


def test_retry_leaves_a_cell_of_which_it_could_not_read_how_it_ended(life: Life, slurm: FakeSlurm, monkeypatch) -> None:
    life.launch()
    cell = life.cell(CELL)
    is_lost(life, cell, "OUT_OF_MEMORY")
    away_in(queue_state, "record_lost", cell, monkeypatch)
    with pytest.raises(ValueError, match="nothing was submitted: .* cannot be read for now.* type it again"):
        control.retry(life.grid_dir, [cell.signature], [], [], life.console)
    assert len(slurm.scripts) == 1
    assert not life.campaign.over(life.grid_dir).exists()


BUDGET = {"budget_gpu_hours": 100.0, "overrides": ("trainer.device=cuda",)}


def test_budget_is_kept_though_a_cell_cannot_be_read_just_when_it_is_asked_for(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch(**BUDGET)
    cell = life.cell(CELL)
    life.ends(cell, "lost")
    monkeypatch.setattr(policy, "gpu_hours_spent", lambda *_: (500.0, {}))
    with monkeypatch.context() as away:
        away_in(step, "over_budget", cell, away)
        assert life.controller() == 0 and len(slurm.scripts) == 1
    assert not life.campaign.over(life.grid_dir).exists()
    assert life.controller() == 0 and len(slurm.scripts) == 1
    assert "would become about 500" in life.said()[-1]


def test_finished_cell_that_cannot_be_read_counts_for_a_budget_with_what_its_result_says(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch(**BUDGET)
    dead = life.cell(OTHER)
    life.done(dead)
    life.ends(life.cell(CELL), "lost")
    result = json.loads(dead.result_file.read_text())
    dead.result_file.write_text(json.dumps({**result, "gpu_duration_s": 36_000.0}) + "\n")
    goes_away(dead, monkeypatch, below="attempts")
    assert life.controller() == 0 and len(slurm.scripts) == 2
    (told,) = life.said()
    assert str(dead.attempts_dir) in told and "up to 10.0 GPU-hours may have been used there" in told
    life.ends(life.cell(CELL), "lost")
    dead.result_file.write_text(json.dumps({**result, "gpu_duration_s": 360_000.0}) + "\n")
    assert life.controller() == 0 and len(slurm.scripts) == 2 and not life.campaign.over(life.grid_dir).exists()
    assert "so --budget-gpu-hours may be spent" in life.said()[-1]


@pytest.mark.parametrize(("hours", "is_room"), [(90, True), (110, False)])
def test_cell_that_cannot_be_read_counts_for_a_budget_with_the_time_until_its_last_job_ended(
    hours: int, is_room: bool, life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch(**BUDGET)
    cell, dead = life.cell(CELL), life.cell(OTHER)
    life.ends(cell, "lost")
    life.ends(dead, "lost")
    job = submissions.newest_jobs(life.grid_dir)[dead.name]
    ended = datetime.now() + timedelta(hours=hours)
    slurm.ended[job.number] = f"{ended:%Y-%m-%dT%H:%M:%S}"
    goes_away(dead, monkeypatch)
    monkeypatch.setattr(clock, "now", lambda: time.time() + 10 * 86_400)
    assert life.controller() == 0 and len(slurm.scripts) == 1 + is_room
    told = "\n".join(life.said())
    assert "nothing is done with" in told and str(dead.attempts_dir) in told
    assert f"up to {hours}." in told
    assert ("so --budget-gpu-hours may be spent" in told) is not is_room
    assert not life.campaign.over(life.grid_dir).exists()


@pytest.mark.parametrize("kind", ["file system", "lost", "code error", None])
def test_step_is_taken_at_once_though_a_cell_goes_away_after_it_was_decided_about(
    kind: str | None, life: Life, slurm: FakeSlurm, monkeypatch, capsys
) -> None:
    life.launch()
    cell = life.cell(CELL)
    life.ends(life.cell(OTHER), "lost")
    life.ends(cell, kind)
    if kind is None:  # launches of it are in vain, as jobs of another grid have it
        monkeypatch.setattr(never_began, "record", lambda *_: ([], {}))
        monkeypatch.setattr(policy, "MAX_WITHOUT_PROGRESS", 1)
    decide = policy.left

    def decided(*args, **kwargs):
        found = decide(*args, **kwargs)
        goes_away(cell, monkeypatch)
        return found

    monkeypatch.setattr(policy, "left", decided)
    assert life.controller() == 0 and len(slurm.scripts) == 2
    assert "tried again: " not in capsys.readouterr().out
    told = [text for text in life.said() if cell.name in text and "is not tried again" in text]
    assert len(told) == (kind == "code error")  # which was decided while it could be read


def test_next_campaign_gets_its_step_though_the_folder_of_one_cannot_be_read(
    life: Life, slurm: FakeSlurm, monkeypatch
) -> None:
    life.launch(cluster_settings=("cluster.controller=false",))
    life.ends(life.cell(CELL), "code error")
    control.retry(life.grid_dir, [life.cell(CELL).signature], [], [], life.console)
    first, second = (one.name for one in open_campaigns(life.grid_dir).values())
    taken = list[str]()

    def take_step(launch_dir: Path, console: Console) -> step.Step:
        taken.append(launch_dir.name)
        if launch_dir.name == first:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(launch_dir))
        return step.Step()

    monkeypatch.setattr(step, "take_step", take_step)
    with pytest.raises(OSError, match="Input/output error"):
        campaign.go_on(life.grid_dir, life.console)
    assert taken == [first, second]
