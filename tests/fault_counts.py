"""What all tests that do harm come to, as one table: how many faults of each kind were tried, survived and lost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POINTS = "points"
"""The property of a test that counts for itself: what, how many were tried, and how many were survived."""
KINDS = {
    "tests/crash/": "crash points",
    "tests/test_bad_input.py": "bad inputs",
    "tests/test_damaged_folders.py": "damaged files",
    "tests/simulation/": "histories",
}
"""The kinds of what such tests count, by where they are."""
INJECTED = "injected faults"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "faults.md"


@dataclass(frozen=True, slots=True)
class Count:
    """One line of the table."""

    kind: str
    what: str
    tried: int
    survived: int

    @property
    def lost(self) -> int:
        return self.tried - self.survived


@dataclass(frozen=True, slots=True)
class Ran:
    """What is needed of a test's report."""

    test: str
    """Its file and name, without parameters and without the group that pytest-xdist adds."""
    passed: bool
    points: Sequence[tuple[str, int, int]] = ()


def kind_of(test: str) -> str:
    """Return the kind of what a test counts; empty: it counts nothing."""
    return next((kind for place, kind in KINDS.items() if test.startswith(place)), "")


def rows(page: str) -> list[list[str]]:
    """Return the cells of each row of the page's tables, without heads."""
    lines = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    return [line for line in lines if line[-1].startswith("`tests/")]


def faults(page: str) -> dict[str, list[str]]:
    """Return the faults of the page by the test that injects them."""
    found: dict[str, list[str]] = {}
    for row in rows(page):
        found.setdefault(row[-1].strip("`"), []).append(row[0])
    return found


def counts(ran: Iterable[Ran], injected: Mapping[str, Sequence[str]]) -> list[Count]:
    """Return the lines of the table; a test that injects several faults survives all of them or is lost with all."""
    ran, found = list(ran), list[Count]()
    for one in ran:
        found += [Count(kind_of(one.test) or "others", what, *figures) for what, *figures in one.points]
    outcomes: dict[str, bool] = {}
    for one in ran:
        if one.test in injected:
            outcomes[one.test] = outcomes.get(one.test, True) and one.passed
    for where in ("tests/slurm/", "tests/orchestration/"):
        some = {test: passed for test, passed in outcomes.items() if test.startswith(where)}
        if some:
            what = "on a real Slurm" if where == "tests/slurm/" else "with recorded answers"
            num, num_survived = (sum(len(injected[test]) for test in tests) for tests in (some, filter(some.get, some)))
            found.append(Count(INJECTED, what, num, num_survived))
    return sorted(found, key=lambda count: (count.kind, count.what))


def table(found: Sequence[Count], num_injected: int) -> list[str]:
    """Write the lines, a total for each kind, and how many of the faults on the page no test of this run injected."""
    kinds = dict.fromkeys(count.kind for count in found)
    line = "{:<16} {:<60} {:>8} {:>8} {:>8}".format
    lines = [line("", "", "tried", "survived", "lost")]
    lines += [line(one.kind, one.what, one.tried, one.survived, one.lost) for one in found]
    for kind in kinds:
        of_kind = [one for one in found if one.kind == kind]
        lines.append(line(kind, "all", *_sums(of_kind)))
    lines.append(line("all", "", *_sums(found)))
    rest = num_injected - sum(one.tried for one in found if one.kind == INJECTED)
    if INJECTED in kinds and rest:
        lines.append(f"{rest} of the {num_injected} faults of docs/faults.md were not injected by this run")
    return lines


def _sums(found: Sequence[Count]) -> tuple[int, int, int]:
    tried, survived = sum(one.tried for one in found), sum(one.survived for one in found)
    return tried, survived, tried - survived
