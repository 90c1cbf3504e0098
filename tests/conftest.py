"""Fixtures that several test folders use, and how two processes share the tests.

A worker of pytest-xdist takes the next test, or the next `xdist_group`, whenever it has none: what shares a start of
something costly is one group.
"""

import os
from collections.abc import Callable
from pathlib import Path

import fault_counts
import numpy as np
import pytest
from PIL import Image

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two threads each, on two cores, would spin while they wait for each other
SHARED = Path(__file__).resolve().parents[2] / "shared"
NUM_CLASSES = 3
SIZE = (40, 48)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin the long ones first, so that no worker begins one when the other has nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if config.getoption("--faults"):
        injecting = fault_counts.faults(fault_counts.PAGE.read_text())
        names = {id(item): _without_parameters(item.nodeid) for item in items}
        wanted = [item for item in items if fault_counts.kind_of(names[id(item)]) or names[id(item)] in injecting]
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to share out the tests of a group, as pytest-xdist 3.8 does with pytest 9.2 without a word."""
    is_grouping = getattr(session.config.option, "loadgroup", False)
    lost = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
    if is_grouping and lost:
        raise pytest.UsageError(f"pytest {pytest.__version__} and pytest-xdist keep no groups: {lost[0]}; `make venv`")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="only tests that do harm, and a table of what they came to")
    parser.addoption("--all", action="store_true", help="crash tests: each fault at each point; load tests: full size")


@pytest.fixture
def is_all(pytestconfig: pytest.Config) -> bool:
    """Whether all points are wanted, however long that takes."""
    return bool(pytestconfig.getoption("--all"))


@pytest.fixture
def tell_points(record_property: Callable[[str, object], None]) -> Callable[[str, int, list[str]], None]:
    """Takes a name, how many faults were tried and a line for each that was not survived, for the table at the end."""
    return lambda name, tried, lost: record_property(fault_counts.POINTS, (name, tried, tried - len(lost)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many faults were tried, survived and lost, wherever the tests ran."""
    ran = [
        fault_counts.Ran(
            _without_parameters(report.nodeid),
            report.outcome == "passed",
            [row for name, row in getattr(report, "user_properties", ()) if name == fault_counts.POINTS],  # of tests
        )
        for kind in ("passed", "failed", "error")
        for report in terminalreporter.getreports(kind)
    ]
    injected = fault_counts.faults(fault_counts.PAGE.read_text())
    if not terminalreporter.config.getoption("--faults"):
        injected = {}  # tests that also run for other reasons
    if found := fault_counts.counts(ran, injected):
        terminalreporter.section("faults")
        for line in fault_counts.table(found, sum(map(len, injected.values()))):
            terminalreporter.line(line)


def _without_parameters(nodeid: str) -> str:
    return nodeid.partition("[")[0].partition("@")[0]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of small real data sets; the test is skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("no folder of real data sets beside the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """Twelve training and three validation images with their lists; the split `2` has two labeled ones."""
    root = tmp_path_factory.mktemp("tiny")
    names = [f"{number:02}" for number in range(15)]
    for number, name in enumerate(names):
        draws = np.random.default_rng(number)
        label = (np.indices(SIZE).sum(0) // (6 + number) % NUM_CLASSES).astype(np.uint8)
        image = (label[..., None] * 80 + draws.integers(0, 60, (*SIZE, 3))).astype(np.uint8)
        Image.fromarray(image).save(root / f"{name}.png")
        Image.fromarray(label).save(root / f"{name}_label.png")
    lines = [f"{name}.png {name}_label.png\n" for name in names]
    (root / "splits" / "2").mkdir(parents=True)
    (root / "splits" / "2" / "labeled.txt").write_text("".join(lines[:2]))
    (root / "splits" / "2" / "unlabeled.txt").write_text("".join(lines[2:12]))
    (root / "splits" / "val.txt").write_text("".join(lines[12:]))
    return root
