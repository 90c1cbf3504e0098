"""Which seeds are needed, in which order they start, and what a plan says of them."""

from dataclasses import replace

import pytest

from orchestration.grids.cells import Cell, compose
from orchestration.grids.composed import Grid
from orchestration.planning import adaptive, order
from orchestration.planning.plan import Action, make_plan, without
from orchestration.runs.run_folder import FolderState as State
from orchestration.runs.states import CellState
from orchestration.tables.layouts import Layout

METHODS, NUM_SEEDS = ("supervised", "fixmatch", "rankmatch"), 5
LAYOUT = Layout(["method"], ["split"], ["seed"], adaptive=3)
CELLS = [
    Cell(compose({"method": method, "split": "8", "seed": seed}), {"method": method, "split": "8", "seed": str(seed)})
    for method in METHODS
    for seed in range(NUM_SEEDS)
]
GRID = Grid("small", CELLS, {}, {"method": "supervised"}, LAYOUT, "")
BASE = [0.5, 0.52, 0.48, 0.51, 0.5]
GAINS = {"supervised": [0.0] * 5, "fixmatch": [0.03, 0.01, -0.02, 0.01, 0.0], "rankmatch": [0.2, 0.21, 0.205, 0.2, 0.2]}


def name(signature: str) -> str:
    (cell,) = (cell for cell in CELLS if cell.signature == signature)
    return f"{cell.axes['method']}-{cell.axes['seed']}"


def numbers(num: int, without: str = "", gains: dict[str, list[float]] = GAINS) -> dict[str, float]:
    """Return the numbers of the first seeds of all methods, but of one cell."""
    return {
        cell.signature: BASE[int(cell.axes["seed"])] + gains[cell.axes["method"]][int(cell.axes["seed"])]
        for cell in CELLS
        if int(cell.axes["seed"]) < num and name(cell.signature) != without
    }


def needed(found: adaptive.Needs) -> dict[str, int]:
    """Return how many cells each method needs."""
    words = [name(signature).partition("-")[0] for signature in found.cells]
    return {method: words.count(method) for method in METHODS}


def test_launch_begins_with_the_first_seeds_of_every_entry():
    found = adaptive.needs([GRID], {})
    assert needed(found) == dict.fromkeys(METHODS, 3) and found.cells == found.begin
    why = found.why_not([cell.signature for cell in CELLS])
    assert {name(signature).rpartition("-")[2] for signature in why} == {"3", "4"}
    assert {*why.values()} == {"adaptive: no pair needs its seed so far"}
    assert adaptive.in_words(found) == ["pairs: 0 of 2 are decided", "2 of them have no cell that is done"]


def test_only_the_pair_that_is_not_decided_gets_another_seed_and_its_baseline_with_it():
    found = adaptive.needs([GRID], numbers(3))
    assert needed(found) == {"supervised": 4, "fixmatch": 4, "rankmatch": 3}
    (pair,) = found.pairs
    assert (pair.place, pair.num_seeds, pair.most, pair.can_go_on) == ("method=fixmatch split=8", 4, 5, True)
    assert sorted(map(name, pair.cells)) == ["fixmatch-3", "supervised-3"]


def test_pair_that_stays_open_with_all_seeds_needs_nothing_more():
    found = adaptive.needs([GRID], numbers(5))
    assert [(pair.num_seeds, pair.can_go_on) for pair in found.pairs] == [(5, False)]
    assert needed(found) == {"supervised": 5, "fixmatch": 5, "rankmatch": 3}
    assert adaptive.in_words(found) == ["pairs: 1 of 2 are decided, 1 stay open with all seeds"]


def test_cell_that_is_not_done_keeps_its_pair_alone_from_going_on():
    found = adaptive.needs([GRID], numbers(3, without="rankmatch-1"))
    assert needed(found) == {"supervised": 4, "fixmatch": 4, "rankmatch": 3}
    assert [pair.num_seeds for pair in found.pairs] == [4, 3]
    assert sorted(name(cell) for pair in found.pairs for cell in pair.cells) == [
        "fixmatch-3", "rankmatch-1", "supervised-3"
    ]  # fmt: skip


def test_decisions_are_the_same_whoever_replays_them_from_the_finished_cells():
    """Each number that comes is looked at at once; what was needed before stays needed."""
    everything, seen = numbers(5), set[str]()
    for signature in sorted(everything):
        now = adaptive.needs([GRID], {key: value for key, value in everything.items() if key <= signature})
        assert seen <= now.cells
        seen |= now.cells
    assert seen == adaptive.needs([GRID], everything).cells


def test_what_decides_most_for_its_gpu_hours_starts_first():
    gains = GAINS | {"fixmatch": [0.02, 0.03, 0.024, 0.03, 0.02], "rankmatch": [0.03, -0.03, 0.0, 0.01, 0.0]}
    found = adaptive.needs([GRID], numbers(3, gains=gains))
    chances = {pair.place: pair.chance for pair in found.pairs}
    assert chances["method=fixmatch split=8"] > 0.1 > chances["method=rankmatch split=8"]
    ranks = {name(key): rank for key, rank in found.ranks({}).items()}
    assert ranks == {"fixmatch-3": 1, "supervised-3": 1, "rankmatch-3": 2}
    dear = {key: 1e9 for key in found.cells if name(key) == "fixmatch-3"}
    assert {name(key): rank for key, rank in found.ranks(dear).items()}["fixmatch-3"] == (
        1 if chances["method=rankmatch split=8"] == 0 else 2
    )


def test_added_cells_start_after_those_of_the_first_seeds_by_their_rank():
    assert order.added_last({"a": 0, "b": 2, "c": 3, "d": 3}, {"c": 2, "d": 1}) == {"a": 0, "b": 2, "c": 5, "d": 4}


def test_table_with_another_rule_needs_all_its_cells():
    plain = replace(GRID, table=replace(LAYOUT, adaptive=0))
    assert len(adaptive.needs([plain], {}).cells) == len(CELLS)
    assert len(adaptive.needs([GRID, plain], {}).cells) == len(CELLS)


@pytest.mark.parametrize("uses_gpus", [True, False])
def test_plan_says_what_is_trained_now_and_what_at_most_may_follow(uses_gpus):
    found = adaptive.needs([GRID], numbers(3))
    steps = {cell.signature: 3600 for cell in CELLS}
    done = {key: State(CellState.DONE) for key in numbers(3)}
    planned = make_plan(CELLS, done, num_steps=steps, seconds_per_step=dict.fromkeys(steps, 1.0), uses_gpus=uses_gpus)
    planned = without(planned, found.why_not([*steps]))
    assert sorted(name(item.cell.signature) for item in planned.jobs) == ["fixmatch-3", "supervised-3"]
    assert [item.action for item in planned.items].count(Action.LEAVE_OUT) == 4
    hours = ", 4.0 GPU-hours" if uses_gpus else ""
    assert adaptive.lines(found, planned) == [
        f"seeds are added adaptively: 2 cells now, at most 4 cells more{hours}, for pairs that are not decided",
        "pairs: 1 of 2 are decided",
        "not decided: method=fixmatch split=8 against its baseline, 4 of 5 seeds, 2 cells to come",
    ]
