from typing import Any

import pytest

from orchestration.grids.cells import Cell, compose
from orchestration.planning.order import added_last, makespan, rounds
from orchestration.planning.plan import Action, Plan, format_duration, make_plan, summary, without
from orchestration.runs.failures import FailureClass
from orchestration.runs.run_folder import FolderState as State
from orchestration.runs.states import CellState

CELLS = [Cell(compose({"seed": seed}), {"seed": str(seed)}) for seed in range(3)]


def plan_of(*states: State | None, **options: Any) -> Plan:
    by_signature = {cell.signature: state for cell, state in zip(CELLS, states, strict=False) if state}
    steps = {cell.signature: 100 for cell in CELLS}
    paces = {cell.signature: 2.0 for cell in CELLS}
    arguments = {"num_steps": steps, "seconds_per_step": paces} | options
    return make_plan(CELLS[: len(states)], by_signature, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "action", "reason", "estimate_s"),
    [
        (None, Action.SUBMIT, "new", 200),
        (State(CellState.MISSING), Action.SUBMIT, "new", 200),
        (State(CellState.DONE, step=100), Action.KEEP, "done", 0),
        (State(CellState.RUNNING, 1, step=40), Action.RUNNING, "attempt 1 at step 40", 120),
        (State(CellState.INTERRUPTED, step=40), Action.RESUME, "interrupted, from step 40", 120),
        (
            State(CellState.FAILED, step=40, failure="out of memory"),
            Action.RESUME,
            "failed: out of memory, from step 40",
            120,
        ),
        (State(CellState.FAILED), Action.SUBMIT, "failed before the first checkpoint", 200),
    ],
)
def test_state_decides_the_action(state: State | None, action: Action, reason: str, estimate_s: float) -> None:
    item = plan_of(state).items[0]
    assert (item.action, item.reason, item.estimate_s) == (action, reason, estimate_s)


def test_cell_that_would_fail_again_is_given_up_with_its_reason() -> None:
    state = State(CellState.FAILED, step=40, failure="the loss is nan", failure_class=FailureClass.NON_FINITE_LOSS)
    item = plan_of(state).items[0]
    assert (item.action, item.to_do, item.estimate_s) == (Action.GIVE_UP, False, 0)
    assert item.reason.startswith("failed: the loss is nan; the same would fail again: change a setting, or retry it")


def test_cell_that_would_fail_again_and_is_retried_by_name_is_so_with_a_warning() -> None:
    state = State(CellState.FAILED, step=40, failure="the loss is nan", failure_class=FailureClass.NON_FINITE_LOSS)
    item = plan_of(state, retried=[CELLS[0].signature]).items[0]
    assert item.action is Action.RESUME
    assert item.reason.endswith("from step 40; where nothing has changed the same would fail again: change a setting")


def test_cells_that_others_show_to_be_needed_start_last_and_in_their_order() -> None:
    assert added_last({"a": 0, "b": 1, "c": 1, "d": 0}, {"c": 2, "d": 1}) == {"a": 0, "b": 1, "c": 3, "d": 2}


def test_cell_kept_from_another_commit_is_marked() -> None:
    assert plan_of(State(CellState.DONE, commit="aaa"), commit="bbb").items[0].reason == "done, trained by commit aaa"
    assert plan_of(State(CellState.DONE, commit="aaa"), commit="aaa").items[0].reason == "done"
    assert plan_of(State(CellState.DONE, commit="aaa")).items[0].reason == "done"  # nothing to compare with
    made = {"commit": "b" * 40, "attempts": [{"commit": "a" * 40}, {"commit": "b" * 40}]}
    mixed = State(CellState.DONE, commit="b" * 40, provenance=made)
    assert plan_of(mixed, commit="b" * 40).items[0].reason == f"done, trained by commit {'a' * 12}, {'b' * 12}"


def test_kept_cells_of_other_grids_are_counted_by_grid() -> None:
    states = [State(CellState.DONE, grid=name) for name in ("b", "a", "b")]
    said = [line for line in summary(plan_of(*states, grid="own")) if "kept from" in line]
    assert said == ["2 cells are kept from grid b", "1 cell is kept from grid a"]
    running = [State(CellState.RUNNING, 1, grid="b"), State(CellState.DONE, grid="own")]
    assert not [line for line in summary(plan_of(*running, grid="own")) if "kept from" in line]


def test_cells_of_other_grids_are_named_and_cost_this_one_nothing() -> None:
    trained, kept = State(CellState.RUNNING, 1, step=40, grid="other"), State(CellState.DONE, grid="other")
    awaited = {CELLS[2].signature: ("third", "job 7 is pending")}
    planned = plan_of(trained, kept, None, grid="own", awaited=awaited, uses_gpus=True)
    assert {item.cell.slug: item.reason for item in planned.items} == {
        "s0": "running, for grid other: attempt 1 at step 40",
        "s1": "done, for grid other",
        "s2": "running, for grid third: job 7 is pending",
    }
    assert planned.jobs == [] and planned.gpu_hours == 0 and "1 cell is kept from grid other" in summary(planned)
    mine = plan_of(trained, kept, grid="other", uses_gpus=True)
    assert mine.items[0].reason == "attempt 1 at step 40" and mine.gpu_hours > 0


def test_longest_job_goes_first_and_kept_cells_last() -> None:
    steps = {CELLS[0].signature: 100, CELLS[1].signature: 300, CELLS[2].signature: 200}
    order = [item.cell.slug for item in plan_of(None, None, None, num_steps=steps).items]
    assert order == ["s1", "s2", "s0"]
    mixed = plan_of(State(CellState.DONE), State(CellState.RUNNING, step=1), None)
    assert [item.action for item in mixed.items] == [Action.SUBMIT, Action.RUNNING, Action.KEEP]
    assert [item.cell.slug for item in mixed.jobs] == ["s2"]


@pytest.mark.parametrize("status", [CellState.DONE, CellState.INTERRUPTED])
def test_other_data_is_a_conflict(status: str) -> None:
    state = State(status, step=5, provenance={"split_sha256": "a" * 64, "data_fingerprint": "c"})
    now = {CELLS[0].signature: {"split_sha256": "b" * 64, "data_fingerprint": "c"}}
    conflicts = plan_of(state, provenance=now).conflicts
    assert len(conflicts) == 1
    assert CELLS[0].folder_name in conflicts[0]
    assert "the split lists differ from those it was trained with (split_sha256 aaaaaaaaaaaa then, bbb" in conflicts[0]


def test_data_that_nobody_looked_at_is_no_conflict() -> None:
    assert plan_of(State(CellState.DONE, provenance={"split_sha256": "a"})).conflicts == []
    same = {CELLS[0].signature: {"split_sha256": "a"}}
    assert plan_of(State(CellState.DONE, provenance={"split_sha256": "a"}), provenance=same).conflicts == []


AXES = [{"split": split, "seed": seed} for split in ("4", "8") for seed in ("0", "1")]
SHORT_AND_LONG = [
    Cell(compose({"split": axes["split"], "seed": int(axes["seed"]), "trainer.epochs": 1}), axes) for axes in AXES
]


def test_a_cell_of_each_entry_starts_before_a_second_one_and_the_longest_first_in_each_round() -> None:
    steps = {cell.signature: 100 if cell.axes["split"] == "4" else 300 for cell in SHORT_AND_LONG}
    paces = dict.fromkeys(steps, 1.0)
    options: dict[str, Any] = {"num_steps": steps, "seconds_per_step": paces, "max_concurrent": 2}
    plan = make_plan(SHORT_AND_LONG, {}, rounds=rounds(SHORT_AND_LONG, ["seed"]), **options)
    found = [(item.cell.axes["seed"], item.cell.axes["split"]) for item in plan.items]
    assert found == [("0", "8"), ("0", "4"), ("1", "8"), ("1", "4")]
    assert [plan.ends_s[item.cell.signature] for item in plan.items] == [300, 100, 400, 400]
    assert plan.makespan_s == 400
    assert "2 at a time, a first cell of each entry of the table before second ones, longest first" in summary(plan)[-2]
    by_split = make_plan(SHORT_AND_LONG, {}, rounds=rounds(SHORT_AND_LONG, ["split"]), **options)
    assert [item.cell.axes["split"] for item in by_split.items] == ["4", "4", "8", "8"]
    without = make_plan(SHORT_AND_LONG, {}, rounds=rounds(SHORT_AND_LONG, []), **options)
    assert [item.cell.axes["split"] for item in without.items] == ["8", "8", "4", "4"]


def test_finished_first_seed_lets_no_second_one_overtake_another_entrys_first() -> None:
    steps, paces = ({cell.signature: 100 for cell in SHORT_AND_LONG}, {cell.signature: 1.0 for cell in SHORT_AND_LONG})
    done = {
        SHORT_AND_LONG[0].signature: State(CellState.DONE),
        SHORT_AND_LONG[3].signature: State(CellState.RUNNING, 1),
    }
    order = rounds(SHORT_AND_LONG, ["seed"])
    plan = make_plan(SHORT_AND_LONG, done, num_steps=steps, seconds_per_step=paces, rounds=order)
    assert [(item.cell.axes["split"], item.cell.axes["seed"]) for item in plan.jobs] == [("8", "0"), ("4", "1")]
    assert plan.makespan_s == 300 and plan.ends_s[SHORT_AND_LONG[3].signature] == 100


def test_makespan_fills_what_comes_free_first() -> None:
    assert makespan([3, 3, 2, 2, 2], 2) == 7
    assert makespan([5, 1], 4) == 5
    assert makespan([], 2) == 0


def test_summary_counts_and_sums() -> None:
    lines = summary(plan_of(State(CellState.DONE), State(CellState.FAILED, step=50), None, max_concurrent=2))
    assert len(lines) == 6
    assert lines[0].split() == ["submit", CELLS[2].signature, "s2", "100", "steps", "~3", "min", "new"]
    assert lines[-3] == "3 cells: 1 submit, 1 resume, 1 keep"
    assert lines[-2] == "rough estimate: 5 min in total, 3 min with 2 at a time, longest first"
    assert lines[-1] == "disk: about 0.5 GB when all is done, at most 3.1 GB while cells train"


def test_gpu_hours_are_those_of_all_workers() -> None:
    cell = Cell(compose({"trainer.num_workers": 4}), {})
    made = make_plan([cell], {}, num_steps={cell.signature: 1800}, seconds_per_step={cell.signature: 2}, uses_gpus=True)
    assert made.gpu_hours == 4
    assert "GPU-hours: 4.0 in all, 4.0 for the longest cell" in summary(made)
    assert summary(made)[0].split()[-3:] == ["4.0", "GPU-h", "new"]
    assert plan_of(None).gpu_hours == 0


def test_hardly_any_gpu_hours_are_said_to_be_so_in_a_column_of_their_own() -> None:
    made = make_plan([CELLS[0]], {}, num_steps={CELLS[0].signature: 10}, seconds_per_step={CELLS[0].signature: 0.1},
                     uses_gpus=True)  # fmt: skip
    assert summary(made)[0].split()[-5:] == ["~1", "s", "<0.01", "GPU-h", "new"]


def test_scaled_learning_rate_is_told_once() -> None:
    settings = {"dataset": "pascal", "trainer.labeled_batch_size": 4}
    cells = [Cell(compose(settings | {"seed": seed}), {}) for seed in range(2)]
    told = [line for line in summary(make_plan(cells, {}, num_steps={}, seconds_per_step={})) if "note" in line]
    assert told == [
        "note: trainer.learning_rate=0.001 is for 8 labeled images a step; with 4 it is multiplied by 4/8",
    ]


def plan_notes(changes: dict[str, object]) -> list[str]:
    settings = {"dataset": "camvid", "augment.crop_size": 129, **changes}
    cells = [Cell(compose(settings | {"seed": seed}), {}) for seed in range(2)]
    return [line for line in summary(make_plan(cells, {}, num_steps={}, seconds_per_step={})) if "note" in line]


def test_crop_that_leaves_taps_untrained_is_told_once_with_their_number_and_the_settings_that_mend_it() -> None:
    assert plan_notes({}) == [
        "note: augment.crop_size=129 leaves 16 of the 27 taps of the dilated convolutions untrained: its 9x9 features "
        "do not reach those of rate 12 and 18, and larger images meet them as random as they began. "
        "evaluation.mode=sliding scores by windows of the crop, as the network was trained; "
        "backbone.unreached_taps=zero begins and keeps them at zero; a crop of 289 or more trains all",
    ]
    assert "leaves 8 of the 27" in plan_notes({"augment.crop_size": 241})[0]
    assert "a crop of 145 or more" in plan_notes({"backbone.output_stride": 8})[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"augment.crop_size": 289},
        {"evaluation.mode": "sliding"},
        {"backbone.unreached_taps": "zero"},
        {"dataset": "synthetic"},  # its images are too small to meet a tap that the crop does not reach
    ],
)
def test_nothing_is_said_where_no_score_depends_on_an_untrained_tap(changes: dict[str, object]) -> None:
    assert plan_notes(changes) == []


def test_drawn_scenes_that_are_larger_than_the_crop_reaches_are_told() -> None:
    assert len(plan_notes({"dataset": "synthetic", "dataset.scenes.size": 193})) == 1


def test_cell_with_a_job_is_left_alone_and_one_that_the_policy_refuses_is_given_up() -> None:
    first, second, third = (cell.signature for cell in CELLS)
    queued = {first: "job 3 is pending", third: "job 4"}
    failed = State(CellState.FAILED, failure="x")
    made = plan_of(None, failed, State(CellState.DONE), queued=queued, refused={second: "code error"})
    assert {item.cell.signature: (item.action, item.reason) for item in made.items} == {
        first: (Action.RUNNING, "job 3 is pending"),
        second: (Action.GIVE_UP, "code error"),
        third: (Action.KEEP, "done"),
    }


def test_retried_cell_is_submitted_however_it_failed() -> None:
    state = State(CellState.FAILED, failure="the loss is nan", failure_class=FailureClass.NON_FINITE_LOSS)
    assert plan_of(state, retried={CELLS[0].signature}).items[0].action is Action.SUBMIT


def test_supervised_cells_of_another_number_of_steps_are_summed_apart() -> None:
    cells = [CELLS[0], Cell(compose({"method": "supervised"}), {"method": "supervised"})]
    steps = {cells[0].signature: 100, cells[1].signature: 10}
    paces = {cell.signature: 2.0 for cell in cells}
    line = "of which the 1 supervised cells, by their own number of steps: 20 s"
    assert line in summary(make_plan(cells, {}, num_steps=steps, seconds_per_step=paces))
    equal = {cell.signature: 100 for cell in cells}
    assert not [
        part for part in summary(make_plan(cells, {}, num_steps=equal, seconds_per_step=paces)) if "of which" in part
    ]


def test_summary_says_what_it_cannot_estimate() -> None:
    lines = summary(plan_of(None, None, num_steps={CELLS[0].signature: 10}))
    assert "? steps" in lines[1]
    assert lines[-2].endswith(
        "20 s with 1 at a time, longest first, without 1 cell that cannot be estimated, as the split lists are not here"
    )


def test_duration_has_a_fitting_unit() -> None:
    assert [format_duration(value) for value in (45, 720, 12_600)] == ["45 s", "12 min", "3.5 h"]


def test_cells_that_something_speaks_against_are_left_out_with_that_and_those_at_work_go_on() -> None:
    running, why = State(CellState.RUNNING, 1), dict.fromkeys((cell.signature for cell in CELLS[:2]), "over the budget")
    planned = without(plan_of(running, None, None), why)
    assert [(item.cell.slug, item.action, item.reason, item.estimate_s) for item in planned.items] == [
        ("s2", Action.SUBMIT, "new", 200),
        ("s0", Action.RUNNING, "attempt 1 at step 0", 200),
        ("s1", Action.LEAVE_OUT, "over the budget", 0),
    ]


def test_number_of_steps_is_in_its_words() -> None:
    steps = {cell.signature: number for cell, number in zip(CELLS, (1, 2, None), strict=True)}
    said = summary(plan_of(None, None, None, num_steps=steps, seconds_per_step={}))
    assert [line.partition("steps" if "steps" in line else "step")[0].split()[-1] for line in said[:3]] == [
        "2",
        "1",
        "?",
    ]
    assert " 1 step " in said[1] and " ? steps " in said[2]


def test_cell_of_which_nothing_is_known_starts_behind_those_that_are_estimated() -> None:
    paces = {CELLS[1].signature: 0.001, CELLS[2].signature: 2.0}
    steps = {CELLS[1].signature: 10, CELLS[2].signature: 10}
    planned = plan_of(None, None, None, num_steps=steps, seconds_per_step=paces)
    assert [item.cell.slug for item in planned.items] == ["s2", "s1", "s0"]


def test_cell_that_ran_out_of_something_is_retried_with_more_of_it_and_it_is_said() -> None:
    state = State(CellState.FAILED, step=40, failure="no memory", failure_class=FailureClass.HOST_MEMORY)
    assert plan_of(state).items[0].action is Action.GIVE_UP
    item = plan_of(state, larger={CELLS[0].signature: "1.5 times the memory"}).items[0]
    assert (item.action, item.reason) == (Action.RESUME, "failed: no memory, from step 40; 1.5 times the memory")


def test_cells_of_an_entry_come_in_rounds_of_their_own() -> None:
    assert [*rounds(CELLS, ["seed"]).values()] == [0, 1, 2]
    assert [*rounds(CELLS, []).values()] == [0, 0, 0]


def test_duration_is_in_hours_from_100_minutes_on() -> None:
    assert [format_duration(seconds) for seconds in (99.4, 100, 5999, 6000)] == ["99 s", "2 min", "100 min", "1.7 h"]
