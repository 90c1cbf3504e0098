"""What a watched grid shows: a table on a terminal, and elsewhere at most a line a minute for each cell."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from orchestration.grids.index import IndexedCell
from orchestration.launching.live_table import short
from orchestration.launching.overview import Overview
from orchestration.launching.progress import Progress, Snapshot
from orchestration.launching.status import CellStatus, to_lines, totals
from orchestration.launching.watching import Watched
from orchestration.planning.plan import Item
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import FolderState
from orchestration.runs.states import CellState


def row(number: int, standing: CellState, step: int = 0, note: str = "") -> CellStatus:
    cell = IndexedCell(f"{number:012x}", f"rankmatch-4-s{number}", "rankmatch", 100, 0.5, 0)
    is_begun = standing not in (CellState.WAITING, CellState.NEW)
    begun = FolderState(CellState.RUNNING, 1, step, 100, step // 10, 10, 0.5, 0.6)
    state = begun if is_begun else FolderState(CellState.MISSING)
    return CellStatus(cell, standing, state, node="node7" if is_begun else "", note=note)


def overview(*rows: CellStatus) -> Overview:
    return Overview(list(rows), [*to_lines(rows), *totals(rows)], [])


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def watched(clock):
    file = io.StringIO()
    with Watched(Console(file=file, width=200), lambda: clock[0]) as found:
        yield found, file


def test_first_look_in_a_file_is_the_whole_table(watched):
    found, file = watched
    seen = overview(row(0, CellState.RUNNING, 10), row(1, CellState.WAITING))
    found.show(seen)
    assert file.getvalue().splitlines() == seen.lines


def test_cell_that_goes_on_has_at_most_a_line_a_minute_and_one_that_ends_has_it_at_once(watched, clock):
    found, file = watched
    begun = row(0, CellState.RUNNING)
    found.show(overview(begun, row(1, CellState.WAITING)))
    num_first = len(file.getvalue().splitlines())
    for second in range(0, 130, 10):
        clock[0] = float(second)
        found.show(overview(replace(begun, state=replace(begun.state, step=second)), row(1, CellState.WAITING)))
    of_cells = [line for line in file.getvalue().splitlines()[num_first:] if "rankmatch-4-s" in line]
    assert len(of_cells) == 2
    clock[0] += 1
    found.show(overview(row(0, CellState.DONE, 100), row(1, CellState.WAITING)))
    assert "rankmatch-4-s0" in file.getvalue().splitlines()[-1]
    assert "done  epoch 10/10  best mIoU 60.0  node7" in file.getvalue().splitlines()[-1]


def test_terminal_is_redrawn_with_bars_running_cells_first_and_no_more_rows_than_it_has():
    file = io.StringIO()
    console = Console(file=file, width=120, height=14, force_terminal=True, color_system=None, legacy_windows=False)
    rows = [*(row(number, CellState.DONE, 100) for number in range(20)), row(20, CellState.RUNNING, 50, "[red]")]
    with Watched(console) as found:
        found.show(overview(*rows))
    text = file.getvalue()
    lines = [line for line in text.splitlines() if "rankmatch-4-s" in line]
    assert "20/21 cells done" in text
    assert "rankmatch-4-s20" in lines[0]
    assert "━━━━━━━━" in lines[0] and "node7" in lines[0] and "[red]" in lines[0]
    assert "cells more" in text
    assert len({line.split()[0] for line in lines}) == 7


HOST = "gpu-node17.cluster.example.org"


def on_a_terminal(width: int, show) -> list[str]:
    """Return the lines of what is shown on a terminal of so many columns."""
    file = io.StringIO()
    show(Console(file=file, width=width, height=24, force_terminal=True, color_system=None, legacy_windows=False))
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()).splitlines()]


def watched_on(console: Console) -> None:
    begun = FolderState(CellState.RUNNING, 1, 40, 100, 103, 240, 0.5, 0.6)
    rows = [
        CellStatus(
            IndexedCell(f"{seed:012x}", f"rankmatch-1_16-resnet101-s{seed}-lr0.01", "rankmatch", 100, 0.5, 0),
            standing,
            begun,
            node=HOST,
            note="preempted; waits 120 s before its next try",
        )
        for seed, standing in enumerate((CellState.RUNNING, CellState.INTERRUPTED))
    ]
    with Watched(console) as found:
        found.show(overview(*rows))


def launched_on(console: Console) -> None:
    cell = SimpleNamespace(
        signature="0" * 12,
        slug="rankmatch-1_16-resnet101-s1-lr0.01",
        config=SimpleNamespace(numerics=SimpleNamespace(method=SimpleNamespace(name="rankmatch"))),
    )
    item = cast(Item, SimpleNamespace(cell=cell, num_steps=100, estimate_s=4000.0))
    state = FolderState(CellState.RUNNING, 1, 30, 100, 103, 240, 0.5, 0.6, host=HOST)
    with Progress(console) as progress:
        progress.show(Snapshot([item], {"0" * 12: JobState.RUNNING}, {"0" * 12: state}, 1, 20.0))


def test_terminal_of_80_columns_shows_a_watched_grids_states_and_numbers_whole_and_what_tells_cells_apart():
    lines = on_a_terminal(80, watched_on)
    first, second = (next(line for line in lines if line.startswith("rank") and word in line) for word in ("s0", "s1"))
    assert "s0-lr0.01  running" in first
    assert "s1-lr0.01  interrupted" in second
    for line in (first, second):
        assert "  103/240  50.0  60.0  gpu-nod…" in line
        assert len(line) <= 80


def test_terminal_of_80_columns_shows_the_numbers_of_a_launch_whole():
    lines = on_a_terminal(80, launched_on)
    found = next(line for line in lines if "s1-lr0.01" in line)
    assert "  103/240  50.0  60.0  67 min  gpu-nod" in found
    assert len(found) <= 80


def test_wide_terminal_shows_names_and_nodes_whole_without_the_nodes_domain():
    for show in (watched_on, launched_on):
        found = next(line for line in on_a_terminal(160, show) if "rankmatch-1_16-resnet101-s1-lr0.01" in line)
        assert "103/240  50.0  60.0" in found
        assert "gpu-node17" in found and "gpu-node17." not in found


def test_address_of_a_node_has_no_domain():
    assert (short("10.1.2.3"), short("node7.cluster"), short("node7")) == ("10.1.2.3", "node7", "node7")
