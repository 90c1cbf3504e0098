"""Cells that keep to a budget, and the option that leaves out the others instead of refusing the plan."""

import json

import pytest
from two_grids import NUM_DISTINCT, TwoGrids

from orchestration.grids.cells import Cell, compose
from orchestration.planning import budget
from orchestration.planning.plan import Plan, make_plan
from orchestration.runs.run_folder import FolderState
from orchestration.runs.states import CellState

CELLS = [Cell(compose({"seed": seed}), {"seed": str(seed)}) for seed in range(4)]
HOURS = (8, 4, 2, 1)


def planned(states: dict[str, FolderState] | None = None, *, uses_gpus: bool = True) -> Plan:
    steps = {cell.signature: 3600 * hours for cell, hours in zip(CELLS, HOURS, strict=True)}
    return make_plan(
        CELLS, states or {}, num_steps=steps, seconds_per_step=dict.fromkeys(steps, 1.0), uses_gpus=uses_gpus
    )


@pytest.mark.parametrize(
    ("hours", "left_out"), [(15, []), (14.5, [3]), (14, [3]), (13, [2]), (7, [0]), (3, [0, 1]), (0, [0, 1, 2, 3])]
)
def test_what_does_not_fit_is_left_out_and_takes_nothing_from_what_does(hours, left_out):
    found = budget.over(planned(), hours)
    assert {*found} == {CELLS[number].signature for number in left_out}
    assert all(why.startswith("over the budget: ") and why.endswith(f"{hours:g} at most") for why in found.values())


def test_cells_that_run_count_first_and_finished_ones_not_at_all():
    states = {CELLS[0].signature: FolderState(CellState.RUNNING, 1), CELLS[1].signature: FolderState(CellState.DONE)}
    assert {*budget.over(planned(states), 10)} == {CELLS[3].signature}


def test_without_gpus_there_are_no_gpu_hours():
    assert budget.over(planned(uses_gpus=False), 0) == {}


def test_plan_keeps_to_the_budget_where_that_is_asked_for_and_says_which_tables_are_whole(tmp_path):
    made = TwoGrids(tmp_path, [{"grid": "agents.yaml", "priority": -1}, "methods.yaml"])
    words = ("plan", "--grid", made.file, "--cluster", "slurm")
    whole = json.loads(made(*words, "--json"))
    two = sum(cell["gpu_hours"] for cell in whole["cells"][:4]) * 1.0001  # the four of the part that comes first
    refused = made(*words, "--budget-gpu-hours", two, code=2)
    assert "--budget-gpu-hours must be at least" in refused
    said = made(*words, "--budget-gpu-hours", two, "--within-budget")
    assert f"{NUM_DISTINCT} cells: 4 submit, 2 leave out" in said
    assert "--within-budget leaves out 2 cells (2 of Table 1: methods)" in said
    assert "complete with what is trained: Table 2: agents, of 2 tables" in said
    kept = json.loads(made(*words, "--budget-gpu-hours", two, "--within-budget", "--json"))
    assert kept["gpu_hours"] <= two and [one["num_left_out"] for one in kept["tables"]] == [0, 2]


def test_budget_to_keep_to_must_be_given(tmp_path):
    made = TwoGrids(tmp_path)
    said = made("plan", "--grid", made.file, "--within-budget", code=2)
    assert "--budget-gpu-hours must be given with --within-budget; got --within-budget alone" in said
