from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestration.grids.cells import Cell, compose
from orchestration.planning import until
from orchestration.planning.order import rounds
from orchestration.planning.plan import Action, Plan, make_plan
from orchestration.runs.run_folder import FolderState as State
from orchestration.runs.states import CellState

NOW = 1_800_000_000.0
AXES = [{"split": split, "seed": seed} for split in ("4", "8") for seed in ("0", "1")]
CELLS = [Cell(compose({"split": axes["split"], "seed": int(axes["seed"])}), axes) for axes in AXES]
HOURS = {"4": 1, "8": 3}


def planned(until_h: float, states: dict[str, State] | None = None, **options: Any) -> Plan:
    """Plan cells of one hour (split 4) and of three (split 8)."""
    steps = {cell.signature: HOURS[cell.axes["split"]] for cell in CELLS}
    paces = {cell.signature: 3600.0 for cell in CELLS}
    arguments: dict[str, Any] = {"num_steps": steps, "seconds_per_step": paces} | options
    plan = make_plan(CELLS, states or {}, rounds=rounds(CELLS, ["seed"]), **arguments)
    return until.left_out(plan, NOW + 3600 * until_h, NOW)


def names(plan: Plan, action: Action) -> list[str]:
    return [f"{item.cell.axes['split']}-{item.cell.axes['seed']}" for item in plan.items if item.action is action]


@pytest.mark.parametrize(
    ("hours", "places", "fit", "left"),
    [
        (8, 1, ["8-0", "4-0", "8-1", "4-1"], []),
        (7.5, 1, ["8-0", "4-0", "8-1"], ["4-1"]),
        (6, 1, ["8-0", "4-0", "4-1"], ["8-1"]),  # what does not fit takes no place from what does
        (2, 1, ["4-0", "4-1"], ["8-0", "8-1"]),
        (3, 2, ["8-0", "4-0", "4-1"], ["8-1"]),
        (0.5, 9, [], ["8-0", "4-0", "8-1", "4-1"]),
    ],
)
def test_what_would_end_later_is_left_out(hours, places, fit, left):
    plan = planned(hours, max_concurrent=places)
    assert (names(plan, Action.SUBMIT), names(plan, Action.LEAVE_OUT)) == (fit, left)
    assert [item.cell.signature for item in plan.jobs] == [item.cell.signature for item in plan.items[: len(fit)]]
    assert plan.makespan_s <= 3600 * hours and plan.total_s == sum(3600 * HOURS[name[0]] for name in fit)


def test_cells_at_work_keep_their_places_and_are_never_left_out():
    running = State(CellState.RUNNING, 1)
    plan = planned(2, {CELLS[2].signature: running}, max_concurrent=1)
    assert names(plan, Action.RUNNING) == ["8-0"] and names(plan, Action.LEAVE_OUT) == ["4-0", "8-1", "4-1"]
    [first, *_] = [item for item in plan.items if item.action is Action.LEAVE_OUT]
    assert first.reason == f"would end about {until.in_words(NOW + 4 * 3600)}, after {until.in_words(NOW + 7200)}"


def test_entries_that_are_complete_by_then_are_counted_and_the_others_named():
    plan = planned(4.5, {CELLS[1].signature: State(CellState.DONE)}, max_concurrent=1)
    found = until.entries(CELLS, plan, ["seed"], 4.5 * 3600)
    assert found == [until.Entry({"split": "4"}, 2, 2), until.Entry({"split": "8"}, 2, 1)]
    end = NOW + 4.5 * 3600
    assert until.lines(plan, found, end, NOW) == [
        f"by {until.in_words(end)}, with 1 at a time: 3 of 4 cells are done, 1 are left out",
        "complete by then: 1 of 2 entries of the table",
        "not complete: split=8 (1 of 2 cells)",
    ]


def test_tables_that_are_complete_by_then_are_named_where_there_are_several():
    plan = planned(4.5, {CELLS[1].signature: State(CellState.DONE)}, max_concurrent=1)
    found = [replace(entry, table=name) for name in ("short", "long")
             for entry in until.entries(CELLS, plan, ["seed"], 4.5 * 3600)
             if (entry.axes["split"] == "4") == (name == "short")]  # fmt: skip
    assert until.lines(plan, found, NOW + 4.5 * 3600, NOW)[1:] == [
        "complete by then: 1 of 2 entries of the tables",
        "tables that are complete by then: short, of 2",
        "not complete: long split=8 (1 of 2 cells)",
    ]


def test_complete_tables_are_listed_in_the_order_of_the_tables():
    plan, whole, part = planned(9), until.Entry({"split": "4"}, 2, 2), until.Entry({}, 2, 1)
    found = [
        replace(one, table=name) for name, one in (("c", whole), ("b", part), ("a", whole), ("c", whole), ("b", whole))
    ]
    assert until.lines(plan, found, NOW + 1, NOW)[1:] == [
        "complete by then: 4 of 5 entries of the tables",
        "tables that are complete by then: c, a, of 3",
        "not complete: b the only one (1 of 2 cells)",
    ]
    none = [replace(part, table=name) for name in "ab"]
    assert until.lines(plan, none, NOW + 1, NOW)[2] == "tables that are complete by then: none, of 2"


def test_of_many_entries_that_are_not_complete_twenty_are_named():
    found = [until.Entry({"split": str(number)}, 2, 1) for number in range(22)]
    last = until.lines(planned(9), found, NOW + 1, NOW)[-1]
    assert last.endswith("split=18 (1 of 2 cells), split=19 (1 of 2 cells), 2 more")
    assert until.lines(planned(9), found[:20], NOW + 1, NOW)[-1].endswith("split=19 (1 of 2 cells)")


def test_cell_that_cannot_be_estimated_is_not_taken_for_done():
    plan = planned(9, num_steps={})
    assert [one.num_done for one in until.entries(CELLS, plan, ["seed"], 9 * 3600)] == [0, 0]


def test_time_is_that_of_this_machine_unless_a_zone_is_given():
    later = datetime.fromtimestamp(NOW) + timedelta(days=1)
    assert until.parse(later.strftime("%Y-%m-%d %H:%M:%S"), NOW) == NOW + 86_400
    assert until.parse(later.strftime("%Y-%m-%dT%H:%M:%S"), NOW) == NOW + 86_400
    in_utc = (datetime.fromtimestamp(NOW, UTC) + timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S")
    assert until.parse(f"{in_utc}+00:00", NOW) == until.parse(f"{in_utc}Z", NOW) == NOW + 86_400


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-12-18", "18:00", "2026-13-18 18:00", "2026-12-18 25:00", "9"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="--until must be a date and a time to come, such as '2026-12-18 18:00'"):
        until.parse(text, NOW)


@pytest.mark.parametrize("text", ["2020-12-18 18:00", "0001-01-01 00:00"])
def test_time_that_has_passed_is_refused(text):
    with pytest.raises(ValueError, match=f"--until must be a date and a time to come.*got '{text}'"):
        until.parse(text, NOW)
