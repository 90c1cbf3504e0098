"""What the histories of a run came to, together."""

from collections import Counter

import pytest

SIMULATED = "simulated"
"""The property of a test with its histories, their events, and the faults of each kind."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [row for report in reports for name, row in report.user_properties if name == SIMULATED]
    if not rows:
        return
    faults = sum((Counter(row[2]) for row in rows), Counter[str]())
    terminalreporter.section("simulated")
    terminalreporter.line(
        f"{sum(row[0] for row in rows)} histories of {sum(row[1] for row in rows)} events, {faults.total()} faults"
    )
    for kind, count in faults.most_common():
        terminalreporter.line(f"{count:>8} {kind}")
