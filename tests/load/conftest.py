"""Sizes of the load tests, a real Slurm for them, and what they measured, printed at the end."""

from collections.abc import Callable

import pytest
from slurm.conftest import cluster, short_folder  # noqa: F401 (fixtures)

MEASURED = "measured"


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
