import math
import time
from collections import Counter

import pytest
from typer.testing import CliRunner

from orchestration.commands import main as cli
from orchestration.grids.cells import Cell, compose
from orchestration.planning import simulate
from orchestration.planning.costs import checkpoint_s
from orchestration.planning.order import makespan
from orchestration.planning.plan import make_plan
from orchestration.planning.simulate import Pool, Task, best_interval_s, expected_waste_s, replay, tasks
from orchestration.runs.failures import POLICY, FailureClass, Treatment

HOUR = 3600.0
TEN_HOURS = Task(10 * HOUR, interval_s=2 * HOUR, checkpoint_s=0.1 * HOUR)


def hours(seconds: float) -> float:
    return round(seconds / HOUR, 9)


@pytest.fixture
def happens(monkeypatch):
    """Say at what hour of each attempt a failure and a preemption would come, in place of the draws."""

    def script(*attempts: tuple[float, float]) -> None:
        times = iter([HOUR * hour for attempt in attempts for hour in attempt])
        monkeypatch.setattr(simulate, "_draw", lambda draws, mean_s: next(times))

    return script


def test_one_failure_costs_the_work_since_the_last_checkpoint(happens):
    happens((5, math.inf), (math.inf, math.inf))
    outcome = replay([TEN_HOURS], Pool(1, queue_min=30))
    # Two parts of 2 + 0.1 hours are kept of the 5; three more follow.
    assert hours(outcome.makespan_s) == 0.5 + 5 + 0.5 + 3 * 2.1
    assert hours(outcome.bound_s) == 10.5
    assert (hours(outcome.wasted_gpu_s), hours(outcome.writing_gpu_s)) == (0.8 + 0.5, 0.5)
    assert outcome.ends == {FailureClass.NODE_FAILURE: 1} and outcome.num_done == 1


def test_preempted_job_writes_a_checkpoint_and_loses_nothing(happens):
    happens((math.inf, 5), (math.inf, math.inf))
    outcome = replay([TEN_HOURS], Pool(1))
    assert hours(outcome.makespan_s) == 10.6  # 5.1, then 5.2 and three checkpoints
    assert hours(outcome.wasted_gpu_s) == hours(outcome.writing_gpu_s) == 0.6


def test_policy_gives_up_what_does_not_get_on(happens):
    happens(*[(1, math.inf)] * 3)
    outcome = replay([TEN_HOURS], Pool(1))
    assert outcome.given_up == {"no progress in 3 attempts, last: node failure": 1}
    assert (outcome.num_done, hours(outcome.makespan_s), hours(outcome.wasted_gpu_s)) == (0, 3, 3)


def test_policy_is_the_one_of_the_launch(happens, monkeypatch):
    monkeypatch.setitem(POLICY, FailureClass.NODE_FAILURE, Treatment(retries=0))
    happens((5, math.inf))
    assert replay([TEN_HOURS], Pool(1)).given_up == {"node failure": 1}


def test_longest_waiting_cell_starts_when_a_failed_one_frees_its_gpu(happens):
    happens((1, math.inf), *[(math.inf, math.inf)] * 3)
    outcome = replay([Task(4 * HOUR), Task(5 * HOUR), Task(2 * HOUR)], Pool(1))
    # The one of 5 hours starts first, fails after 1, and is the longest again.
    assert hours(outcome.makespan_s) == 1 + 5 + 4 + 2


def test_cells_of_an_earlier_round_start_first(happens):
    happens(*[(math.inf, math.inf)] * 3)
    outcome = replay([Task(4 * HOUR, round=1), Task(2 * HOUR), Task(3 * HOUR)], Pool(2))
    assert hours(outcome.makespan_s) == 2 + 4  # not 5, as with the longest first of all


def test_without_failures_ten_thousand_cells_end_as_planned_and_near_the_bound():
    cells = [Task(HOUR * (1 + 29 * (place * 7919 % 10_000) / 10_000)) for place in range(10_000)]
    began = time.process_time()
    outcome = replay(cells, Pool(512))
    assert time.process_time() - began < 10
    assert outcome.makespan_s == pytest.approx(makespan(sorted((task.duration_s for task in cells), reverse=True), 512))
    assert outcome.makespan_s < 1.05 * outcome.bound_s
    assert outcome.wasted_gpu_s == pytest.approx(0, abs=1e-3)


def test_ten_thousand_cells_with_failures_and_advice_take_seconds():
    cells = [Task(HOUR * (1 + place % 30), num_epochs=80, interval_s=600, checkpoint_s=4) for place in range(10_000)]
    began = time.process_time()
    text = simulate.lines(cells, Pool(512, mtbf_hours=200, preempt_hours=50, queue_min=10))
    assert time.process_time() - began < 10
    assert text[0] == "simulated: 10,000 cells on 512 GPUs, 10,000 done"


@pytest.mark.parametrize(("mtbf_hours", "written_s"), [(24, 30), (200, 4), (5, 4)])
def test_best_interval_is_that_of_young_and_daly(mtbf_hours, written_s):
    cells = [Task(500 * HOUR, checkpoint_s=written_s)]
    formula_s = math.sqrt(2 * written_s * mtbf_hours * HOUR)
    assert best_interval_s(cells, Pool(1, mtbf_hours)) == pytest.approx(formula_s, rel=0.1)


@pytest.mark.parametrize(("gpus", "mtbf_hours"), [(1, 25), (4, 100)])
def test_replayed_waste_is_the_expected_one_and_least_at_the_best_interval(gpus, mtbf_hours):
    pool = Pool(64, mtbf_hours)

    def wasted(interval_s: float) -> float:
        cells = [Task(20 * HOUR, gpus, interval_s=interval_s, checkpoint_s=10)] * 1000
        outcome = replay(cells, pool)
        assert outcome.num_done == 1000
        assert outcome.wasted_gpu_s == pytest.approx(expected_waste_s(Counter(cells), pool, interval_s), rel=0.1)
        return outcome.wasted_gpu_s

    best_s = best_interval_s([Task(20 * HOUR, gpus, checkpoint_s=10)], pool)
    assert wasted(best_s) < min(wasted(best_s / 3), wasted(3 * best_s))


def test_ends_of_epochs_write_checkpoints_however_long_the_interval():
    assert Task(80 * HOUR, num_epochs=80, interval_s=24 * HOUR).num_parts() == 80
    assert Task(80 * HOUR, num_epochs=80, interval_s=0.4 * HOUR).num_parts() == 240


def test_seed_decides_what_happens():
    cells, times = [TEN_HOURS] * 50, {seed: Pool(4, 20, 20, seed=seed) for seed in (0, 1)}
    assert replay(cells, times[0]) == replay(cells, times[0])
    assert replay(cells, times[0]).busy_gpu_s != replay(cells, times[1]).busy_gpu_s


def test_cell_wider_than_the_pool_is_refused():
    with pytest.raises(ValueError, match="--gpus must be at least 8, the workers of the widest cell; got 4"):
        replay([Task(1.0, num_gpus=8)], Pool(4))


def test_tasks_are_the_cells_left_to_do_with_their_estimates():
    cells = [Cell(compose({"seed": seed, "trainer.num_workers": 4}), {"seed": str(seed)}) for seed in range(2)]
    planned = make_plan(cells, {}, num_steps={cell.signature: 100 for cell in cells}, seconds_per_step={
        cells[0].signature: 2.0
    })  # fmt: skip
    config = cells[0].config
    assert tasks(planned) == [Task(200, 4, config.numerics.trainer.epochs, 600, checkpoint_s(config))]
    assert tasks(planned, checkpoint_min=3)[0].interval_s == 180


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "4"], "--simulate must be given with --gpus; got --gpus alone"),
        (["--simulate"], "--gpus must be given with --simulate; got none"),
        (["--simulate", "--gpus", "0"], "--gpus must be at least 1; got 0"),
        (["--simulate", "--gpus", "1", "--mtbf-hours", "0"], "--mtbf-hours must be at least 0.1; got 0"),
        (["--simulate", "--gpus", "1", "--preempt-hours", "nan"], "--preempt-hours must be at least 0.1; got nan"),
        (["--simulate", "--gpus", "1", "--queue-min", "-1"], "--queue-min must be at least 0; got -1"),
        (["--simulate", "--gpus", "1", "--checkpoint-min", "0"], "--checkpoint-min must be at least 0.1; got 0"),
        (["--simulate", "--gpus", "1", "--grid", "camvid"], "cells to train whose time can be estimated; got none"),
    ],
)
def test_bad_value_is_refused_in_one_message(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(cli.app, ["plan", "--runs", str(tmp_path), *words], catch_exceptions=False)


def test_command_says_makespan_waste_and_interval(tmp_path):
    words = ["plan", "--grid", "pascal_classic", "--runs", str(tmp_path), "--simulate", "--gpus", "16"]
    done = CliRunner().invoke(cli.app, [*words, "--mtbf-hours", "100", "--seed", "3"], catch_exceptions=False)
    found = [line.partition(":")[0] for line in done.output.splitlines()[-5:]]
    assert found == ["simulated", "makespan", "attempts that ended early", "wasted", "checkpoint interval"]
    assert not list(tmp_path.iterdir())
