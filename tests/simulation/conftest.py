"""What the histories of a run came to, together."""

import pytest
from simulation.tally import SIMULATED, Tally


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [row for report in reports for name, row in report.user_properties if name == SIMULATED]
    if not rows:
        return
    tally = Tally()
    for row in rows:
        tally += Tally.from_json(row)
    terminalreporter.section(SIMULATED)
    for line in tally.lines():
        terminalreporter.line(line)
