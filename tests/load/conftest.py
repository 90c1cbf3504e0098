"""Sizes of the load tests, a real Slurm for them, and what they measured, printed at the end."""

import os
from collections.abc import Callable

import pytest
from slurm.conftest import cluster, short_folder  # noqa: F401 (fixtures)

MEASURED = "measured"


@pytest.fixture
def num_cells(is_all: bool) -> int:
    """How many cells are launched, a multiple of 8; CELLS says otherwise."""
    return max(1, int(os.environ.get("CELLS", 2000 if is_all else 48)) // 8) * 8


@pytest.fixture
def num_seeds(is_all: bool) -> int:
    """How many seeds the folders have that are written at once: six for each."""
    return 34 if is_all else 4


@pytest.fixture
def soak_s(is_all: bool) -> float:
    """How long cells are started and stopped; SOAK_S says otherwise."""
    return float(os.environ.get("SOAK_S", 600 if is_all else 20))


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """Takes what was measured and the figure, for the list at the end."""
    return lambda name, figure: record_property(MEASURED, (name, str(figure)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [row for report in reports for name, row in report.user_properties if name == MEASURED]
    if rows:
        terminalreporter.section("measured")
    for name, figure in rows:
        terminalreporter.line(f"{name}: {figure}")
