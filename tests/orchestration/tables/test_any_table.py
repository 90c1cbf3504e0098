"""Of any cells, in any state, a table says what the numbers say, in every format."""

import csv
import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestration.tables import formats
from orchestration.tables.layouts import Layout
from orchestration.tables.summaries import summaries
from orchestration.tables.table import Table, build

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCORE = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 0.5000001, 1.0]), st.floats(0, 1))
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
Records = list[dict[str, Any]]


@st.composite
def records(draw: st.DrawFn) -> Records:
    """Draw cells of some methods, splits and seeds: not every combination has one, and not every one a number."""
    methods, splits = (draw(st.lists(TEXT, min_size=1, max_size=3, unique=True)) for _ in range(2))
    found = []
    for method, split, seed in itertools.product(methods, splits, range(draw(st.integers(1, 4)))):
        if draw(st.integers(0, 4)):
            score = draw(SCORE)
            found.append({"method": method, "split": split, "seed": str(seed), "best_miou": score, "last_miou": score})
    return found


def built(found: Records, *, baseline: bool = True) -> Table:
    first = {"method": found[0]["method"]} if found and baseline else {}
    return build(found, Layout(["method"], ["split"], ["seed"]), baseline=first)


def scores(found: Records, row: dict[str, str]) -> list[float]:
    of_place = [one for one in found if (one["method"], one["split"]) == (row["method"], row["split"])]
    return [one["best_miou"] for one in of_place if one["best_miou"] is not None]


@QUICK
@given(records())
def test_each_line_of_the_csv_is_the_mean_the_spread_and_the_count_of_the_finished_cells(found: Records) -> None:
    read = list(csv.DictReader(io.StringIO(formats.to_csv(built(found)), newline="")))
    assert len(read) == len({(one["method"], one["split"]) for one in found})
    for row in read:
        done = scores(found, row)
        assert int(row["n"]) == len(done)
        assert (row["mean_percent"] == "") == (not done) and (row["std_percent"] == "") == (len(done) < 2)
        if done:
            assert float(row["mean_percent"]) == pytest.approx(100 * np.mean(done), abs=6e-5)
        if len(done) > 1:
            assert float(row["std_percent"]) == pytest.approx(100 * np.std(done, ddof=1), abs=6e-5)


@QUICK
@given(records())
def test_difference_is_the_mean_over_seeds_that_both_have_and_none_is_starred_before_all_are_done(
    found: Records,
) -> None:
    table = built(found)
    for (row, column), entry in table.entries.items():
        if entry.comparison is None:
            continue
        pairs = [
            (one["best_miou"], other["best_miou"])
            for one, other in itertools.product(found, found)
            if (one["method"], one["split"]) == (*row, *column)
            and (other["method"], other["split"]) == (table.baseline["method"], *column)
            and one["seed"] == other["seed"]
            and None not in (one["best_miou"], other["best_miou"])
        ]
        assert entry.comparison.n == len(pairs)
        assert entry.comparison.effect == pytest.approx(np.mean([own - other for own, other in pairs]), abs=1e-12)
        if not entry.is_complete:
            assert not entry.comparison.is_significant and entry.rank is None


@QUICK
@given(records(), st.booleans())
def test_every_format_writes_any_table_the_same_twice(found: Records, baseline: bool) -> None:  # noqa: FBT001 (drawn)
    table = built(found, baseline=baseline)
    for write in (formats.to_csv, formats.to_markdown, formats.to_latex, formats.markdown_note):
        assert write(table) == write(built(found, baseline=baseline))
    assert formats.to_html(("a", table)).endswith("</html>\n")
    formats.show(table, Console(file=io.StringIO(), width=100))
    assert [one.row for one in summaries(table)] == table.rows
