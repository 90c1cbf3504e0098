"""Seeded histories of a cluster that lies; a seed that breaks something stays a test of its own.

`make test` plays the first ones, `make test-simulation` many more.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulation import play_many, seams
from simulation.history import KINDS, Outcome, play
from simulation.play_many import MEMORY, play_and_remove
from simulation.tally import SIMULATED, Tally
from simulation.world import World

from orchestration.launching import controller, step
from orchestration.launching.over_budget import OverBudget
from orchestration.machine import files
from orchestration.on_slurm import submissions

NUM, NUM_IN_EACH_TEST = 200, 10
BLOCKS = [range(first, first + NUM_IN_EACH_TEST) for first in range(0, NUM, NUM_IN_EACH_TEST)]
AWAY_BLOCKS = [range(first, first + 50, play_many.EVERY) for first in range(0, NUM, 50)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: nothing is to outlive the test."""
    place = MEMORY if MEMORY.is_dir() else tmp_path
    with tempfile.TemporaryDirectory(prefix="rankmatch-simulation-", dir=place) as made:
        yield Path(made)


@pytest.fixture
def played(
    folder: Path, tell_points: Callable[[str, int, list[str]], None], record_property: Callable[[str, object], None]
) -> Callable[[range, bool, str], Tally]:
    """Plays histories, none of which may break something; returns their tally."""

    def play_each(seeds: range, cells_away: bool, what: str) -> Tally:
        outcomes = [play_and_remove(folder, seed, cells_away=cells_away) for seed in seeds]
        broken, tally = [outcome.in_words() for outcome in outcomes if outcome.broken], Tally.of(outcomes)
        record_property(SIMULATED, tally.to_json())
        tell_points(f"histories {seeds.start}-{seeds[-1]} {what}", len(outcomes), broken)
        assert not broken, "\n\n".join(broken)
        return tally

    return play_each


@pytest.mark.parametrize("seeds", BLOCKS, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_no_cell_is_trained_twice_or_forgotten_whatever_befalls_slurm_and_whatever_it_says(
    seeds: range, played: Callable[[range, bool, str], Tally]
) -> None:
    played(seeds, False, "of a simulated Slurm")


@pytest.mark.parametrize("seeds", AWAY_BLOCKS, ids=lambda seeds: f"{seeds.start}-{seeds[-1]}")
def test_no_cell_is_trained_twice_or_forgotten_where_single_cells_cannot_be_read_at_times(
    seeds: range, played: Callable[[range, bool, str], Tally]
) -> None:
    assert played(seeds, True, "with cells that are away").injected["cell away"] > len(seeds)


@pytest.mark.parametrize("cells_away", [False, True])
def test_history_is_the_same_whenever_its_seed_is_played(cells_away: bool, folder: Path) -> None:
    first, second = (play(folder / name, 3, cells_away=cells_away) for name in ("first", "second"))
    assert len(first.diary) > 20
    assert first.diary == second.diary
    assert ("cell away" in first.faults) == cells_away


def test_every_tenth_seed_has_a_second_history_with_cells_that_are_away() -> None:
    assert play_many.histories_of(range(9, 12)) == [(9, False), (10, False), (10, True), (11, False)]


def test_cell_that_is_away_fails_whatever_reads_it_on_its_hosts_and_only_while_it_lasts(folder: Path) -> None:
    (folder / "world").mkdir()
    world = World(folder / "world", 0, cells_away=True)
    away, other = (world.grid_dir / "cells" / name for name in ("aaa-4-s0", "bbb-4-s0"))
    for cell in (away, other):
        (cell / "attempts").mkdir(parents=True)
        (cell / "axes.json").write_text("{}")

    def num_failing(cell: Path, host: str) -> int:
        reads: list[Callable[[], object]] = [
            cell.exists, (cell / "attempts").is_dir, (cell / "axes.json").read_text, lambda: [*cell.iterdir()],
            lambda: [*os.scandir(cell)], lambda: files.read_bytes(str(cell / "axes.json")),
        ]  # fmt: skip

        def look() -> int:
            for read in reads:
                try:
                    read()
                except OSError as error:
                    errors.append(error.errno)
            return 0

        errors: list[int | None] = []
        world.hub.start("look", host, {}, look)
        while world.hub.processes:
            assert world.hub.next_event(world.hub.now)
        assert {*errors} <= {errno.ESTALE}
        return len(errors)

    with seams.of_world(world):
        assert world.cells_away
        world.cells_away.begin("aaa", lasts_s=60.0, hosts="n")
        assert [num_failing(away, "n1"), num_failing(away, "login"), num_failing(other, "n1")] == [6, 0, 0]
        world.hub.now += 61
        assert num_failing(away, "n1") == 0


def test_steps_that_do_not_look_for_jobs_whose_numbers_were_lost_are_seen_to_submit_cells_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "settle", lambda _: [])
    assert "have two jobs at once" in play(folder / "9", 9).broken


def test_steps_that_do_not_count_what_was_used_are_seen_to_exceed_the_budget(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "over_budget", lambda *_: OverBudget())
    assert "0.82 of 0.7 GPU-hours are used" in play(folder / "4", 4).broken


@pytest.mark.parametrize("seed", [186, 5005, 5009])
def test_job_that_comes_after_sbatch_gave_up_never_trains_beside_its_successor(folder: Path, seed: int) -> None:
    outcome = play_and_remove(folder, seed)
    assert outcome.faults["sbatch fails and submits"]
    assert not outcome.broken, outcome.in_words()


def test_controller_of_a_pilot_that_was_closed_meanwhile_submits_nothing(folder: Path) -> None:
    outcome = play_and_remove(folder, 123)
    assert "pilot=2" in outcome.diary[0]
    assert not outcome.broken, outcome.in_words()


def test_head_of_a_pilot_whose_nodes_were_refused_ends_at_once(folder: Path) -> None:
    outcome = play_and_remove(folder, 481)
    assert "pilot=2" in outcome.diary[0]
    assert not outcome.broken, outcome.in_words()


@pytest.mark.parametrize("seed", [437, 1843])  # in the second one nodes train on for a head that Slurm gave up
def test_pilot_that_keeps_a_limit_is_alone(folder: Path, seed: int) -> None:
    outcome = play_and_remove(folder, seed)
    assert "pilot=2" in outcome.diary[0]
    assert not outcome.broken, outcome.in_words()


def test_cell_whose_retry_was_killed_after_sbatch_is_submitted_again(folder: Path) -> None:
    outcome = play_and_remove(folder, 344)
    assert outcome.faults["retry"]
    assert not outcome.broken, outcome.in_words()


@pytest.mark.parametrize("seed", [5487, 5782])  # the second: slurmctld forgot the job that another was to wait for
def test_cell_that_is_given_up_after_its_job_and_one_that_is_refused_a_job_are_not_forgotten(
    folder: Path, seed: int
) -> None:
    outcome = play_and_remove(folder, seed)
    assert not outcome.broken, outcome.in_words()


def test_cell_that_a_pilot_gave_up_is_retried_in_another_while_the_first_is_at_work(folder: Path) -> None:
    outcome = play_and_remove(folder, 654)
    assert outcome.faults["retry"]
    assert not outcome.broken, outcome.in_words()


def test_steps_that_do_not_withdraw_a_submission_without_an_answer_are_seen_to_submit_cells_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions.Submission, "is_unanswered", False)
    assert "have two jobs at once" in play(folder / "5005", 5005).broken


def test_status_that_says_nothing_of_a_launch_without_controllers_is_seen_to_leave_cells_to_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "standing", lambda *_: [])
    assert "nobody is due to act" in play(folder / "9", 9).broken


def test_many_histories_end_in_a_table_of_what_befell_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert play_many.main(["--histories=1", "--first=3", "--processes=1"]) == 0
    said = capsys.readouterr()
    assert "1 of 1 histories, 0 broken" in said.err
    assert "1 histories, " in said.out and "0 histories broken" in said.out
    assert "killed after sbatch" in said.out


def test_table_says_in_how_many_histories_with_a_fault_something_broke_or_a_cell_was_forgotten() -> None:
    outcomes = [
        Outcome(0, 10, {"held": 2, "ESTALE": 1}), Outcome(1, 10, {"held": 1}, "two jobs at once"),
        Outcome(2, 10, {"held": 1}, "it never ends", is_lost=True),
    ]  # fmt: skip
    tally = Tally.of(outcomes[:1])
    tally += Tally.from_json(Tally.of(outcomes[1:]).to_json())
    head, _, *rows = tally.lines()
    assert head == "3 histories, 30 events, 5 faults: 2 histories broken, 1 of them with a cell that was forgotten"
    assert [row.split() for row in rows] == [["held", "4", "3", "2", "1"], ["ESTALE", "1", "1", "0", "0"]]
    assert tally.lacking() == []
    assert Tally(num_histories=500, injected=tally.injected).lacking() == sorted(KINDS - {"held", "ESTALE"})
