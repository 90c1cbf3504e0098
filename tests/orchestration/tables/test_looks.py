"""Seeds that are added only where they decide something: the looks, what they conclude, and what a table says then."""

import random
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from orchestration.tables import formats, looks
from orchestration.tables.differences import comparison_rows
from orchestration.tables.estimates import interval
from orchestration.tables.layouts import Layout, read, to_tree
from orchestration.tables.lines import lines, notes
from orchestration.tables.table import Table, build

LAYOUT = Layout(["method"], ["split"], ["seed"], adaptive=3)
BASELINE = {"method": "base"}
PLACE = ("ours",), ("8",)
CLEAR = [0.2, 0.21, 0.205, 0.195, 0.2, 0.21]
NOISY = [0.05, -0.04, 0.03, -0.02, 0.01, 0.02]
BASE = [0.5, 0.52, 0.48, 0.51, 0.5, 0.49]


def records(gains: dict[str, list[float | None]], num: int = 6, base: int = 6) -> list[dict[str, Any]]:
    """Return the records of a baseline and of rows with these gains on it; what is not given is not done."""
    rows = {"base": [*BASE[:base]]} | {
        name: [None if gain is None else BASE[seed] + gain for seed, gain in enumerate(found)]
        for name, found in gains.items()
    }
    return [
        {"method": name, "split": "8", "seed": str(seed), "signature": f"{name}-{seed}", "best_miou": value,
         "last_miou": value, "status": "missing" if value is None else "done"}
        for name, values in rows.items()
        for seed, value in enumerate([*values, *[None] * (num - len(values))])
    ]  # fmt: skip


def pair_of(gains: list[float | None], **options: Any) -> looks.Pair:
    return looks.of_records(records({"ours": gains}, **options), LAYOUT, BASELINE)[1][PLACE]


def table_of(gains: dict[str, list[float | None]], layout: Layout = LAYOUT, **options: Any) -> Table:
    return build(records(gains, **options), layout, baseline=BASELINE)


@pytest.mark.parametrize("num", range(1, 12))
def test_shares_of_the_looks_make_the_whole_level_and_the_last_has_half_of_it(num):
    found = looks.shares(num)
    assert len(found) == num and sum(found) == pytest.approx(1) and found[-1] == (0.5 if num > 1 else 1.0)


def test_pair_that_the_first_look_decides_gets_no_more_seeds():
    pair = pair_of(CLEAR[:3], base=3)
    assert (pair.is_decided, pair.num_seeds, [look.num_seeds for look in pair.looks]) == (True, 3, [3])


def test_pair_that_is_not_decided_gets_one_more_seed_at_a_time_up_to_all_of_them():
    found = [pair_of(NOISY[:num], base=num) for num in range(2, 7)]
    assert [pair.num_seeds for pair in found] == [3, 4, 5, 6, 6]
    assert [len(pair.looks) for pair in found] == [0, 1, 2, 3, 4]
    assert not any(pair.is_decided for pair in found)


def test_numbers_beyond_what_a_decision_needed_do_not_change_it():
    assert pair_of(CLEAR[:3] + NOISY[:3]).num_seeds == pair_of(CLEAR[:3], base=3).num_seeds == 3


def test_pair_of_which_a_cell_is_missing_waits_for_it_and_gets_no_more():
    pair = pair_of([*NOISY[:1], None, *NOISY[2:5]])
    assert (pair.num_seeds, pair.looks, pair.p, pair.interval) == (3, [], None, None)


def test_p_and_interval_are_corrected_for_the_looks():
    pair = pair_of(NOISY[:4], base=4)
    shares = looks.shares(4)
    alone = [stats.ttest_1samp(NOISY[:num], 0).pvalue / share for num, share in ((3, shares[0]), (4, shares[1]))]
    assert pair.p == pytest.approx(min(1.0, *alone))
    ends = [interval(NOISY[:num], 1 - 0.05 * share) for num, share in ((3, shares[0]), (4, shares[1]))]
    assert pair.interval == pytest.approx((max(end[0] for end in ends), min(end[1] for end in ends)))


def test_effect_of_cells_beyond_a_decision_lies_in_the_interval_beside_it():
    decided = [0.0100, 0.01001, 0.01002]
    comparison = table_of({"ours": [*decided, -0.1, -0.3, -0.2]}).entries[PLACE].comparison
    assert comparison is not None and comparison.effect < 0 and comparison.interval is not None
    assert comparison.interval[0] <= comparison.effect <= comparison.interval[1]
    assert comparison.p_t > 0.05 and comparison.verdict == "may be chance"
    between = table_of({"ours": [*decided, None, -0.3, -0.2]}).entries[PLACE].comparison
    assert between is not None and (between.interval, between.p_t) == (None, None)
    assert between.verdict == "not all cells are done"


def test_effect_that_two_looks_speak_against_is_told_by_the_last_look_alone():
    gains = [0.0100, 0.01001, 0.01002, 0.01001, -0.1, -0.3]
    comparison = table_of({"ours": gains}).entries[PLACE].comparison
    assert comparison is not None
    assert comparison.interval == pytest.approx(interval(gains, 1 - 0.05 * looks.OF_LAST))
    assert comparison.p_t == pytest.approx(stats.ttest_1samp(gains, 0).pvalue / looks.OF_LAST)


def test_interval_holds_0_exactly_if_p_is_not_below_the_level():
    draws, found = random.Random(0), []
    for _ in range(200):
        pair = pair_of([draws.gauss(0.01, 0.01) for _ in range(6)])
        if pair.interval is not None:
            found.append((pair.interval[0] <= 0 <= pair.interval[1], pair.p >= 0.05))
    assert all(holds == is_large for holds, is_large in found)
    assert 20 < sum(holds for holds, _ in found) < 180


def test_decision_about_a_pair_keeps_its_mark_in_the_table_whatever_other_rows_show():
    draws = random.Random(1)
    num_decided = 0
    for _ in range(60):
        drawn = {f"row{row}": [draws.gauss(0.012 * row, 0.01) for _ in range(6)] for row in range(4)}
        needs = looks.of_records(records(drawn), LAYOUT, BASELINE)[1]
        gains = {name: found[: needs[(name,), ("8",)].num_seeds] for name, found in drawn.items()}
        table = table_of(gains)
        for place, pair in looks.of_records(records(gains), LAYOUT, BASELINE)[1].items():
            comparison = table.entries[place].comparison
            assert comparison is not None
            assert comparison.is_significant or not pair.is_decided
            num_decided += pair.is_decided
    assert num_decided > 20


def test_table_counts_the_cells_that_its_pairs_need_and_marks_no_best_of_unequal_ones():
    table = table_of({"clear": CLEAR[:3], "noisy": NOISY[:4]}, base=4)
    entries = {row[0]: entry for (row, _), entry in table.entries.items()}
    assert {name: (len(entry.values), entry.expected) for name, entry in entries.items()} == {
        "base": (4, 5), "clear": (3, 3), "noisy": (4, 5)
    }  # fmt: skip
    ended = table_of({"clear": CLEAR[:3], "noisy": NOISY}, base=6)
    assert [entry.is_complete for entry in ended.entries.values()] == [True] * 3
    assert [entry.rank for entry in ended.entries.values()] == [None] * 3
    shown = [place.text for line in lines(ended, ended.columns, with_n=True) for place in line.places]
    assert shown[1:3] == ["70.5 ± 2.3 (3)", "+20.5 (3)"]


def test_equal_entries_compete_and_rank_as_ever():
    table = table_of({"a": NOISY, "b": [0.0] * 5 + [0.3]})
    assert {row[0]: entry.rank for (row, _), entry in table.entries.items()} == {"base": None, "a": 2, "b": 1}


def test_table_says_how_seeds_were_added_and_what_is_corrected():
    table = table_of({"clear": CLEAR[:3], "noisy": NOISY}, base=6)
    said = notes(table, best="1", second="2", significant="*", odd="!", with_n=True)
    assert any(
        line.startswith("seeds were added adaptively: each entry has the first 3, and one more at a time up to 6")
        and "corrected for the 4 looks" in line
        for line in said
    )
    assert "no best is marked in a column whose entries have different numbers of seeds" in said
    assert table.marks_of(("clear",), ("8",)) == ["seeds added adaptively"]
    assert "seeds added adaptively" in formats.FORMATS["csv"]([("t", table)])
    clear, noisy = comparison_rows(table)[1:]
    assert (clear[0], clear[3], clear[6], clear[8]) == ("clear", "3", "", "significant")
    assert (noisy[0], noisy[3], noisy[6], noisy[8]) == ("noisy", "6", "", "may be chance")


def test_pair_before_its_first_look_is_not_complete():
    made = table_of({"noisy": [*NOISY[:2], None, *NOISY[3:5]]}).entries[("noisy",), ("8",)].comparison
    assert made is not None and (made.n, made.p_t, made.verdict) == (4, None, "not all cells are done")


def test_last_epoch_is_tested_at_the_looks_but_does_not_say_what_is_needed():
    found = records({"ours": CLEAR[:3]}, base=3)
    for record, value in zip((one for one in found if one["method"] == "ours"), NOISY, strict=False):
        record["last_miou"] = None if record["best_miou"] is None else BASE[0] + value
    table = build(found, LAYOUT, "last_miou", BASELINE)
    entry = table.entries[PLACE]
    assert (entry.expected, entry.is_complete) == (3, True)
    assert entry.comparison is not None and not entry.comparison.is_significant


def test_table_without_seeds_to_average_over_says_that_nothing_is_corrected():
    table = table_of({"ours": NOISY}, Layout(["method"], ["seed"], ["split"], adaptive=3))
    assert table.adaptive == "seeds were added adaptively (from 3 on), for which nothing here is corrected"


def test_other_tables_are_not_touched():
    plain = table_of({"ours": NOISY}, replace(LAYOUT, adaptive=0))
    comparison = plain.entries[PLACE].comparison
    assert comparison is not None and comparison.p_t == pytest.approx(stats.ttest_1samp(NOISY, 0).pvalue)
    assert plain.adaptive == "" and comparison.p_wilcoxon is not None


def test_layout_keeps_the_number_of_first_seeds():
    said = read({"rows": "method", "over": "seed", "adaptive": "4"}, ["method", "seed"])
    assert said["adaptive"] == 4 and to_tree(replace(LAYOUT, adaptive=4))["adaptive"] == 4
    assert "adaptive" not in to_tree(replace(LAYOUT, adaptive=0))


@pytest.mark.parametrize("value", ["2", "true", "-3", "", ["3"]])
def test_first_seeds_that_cannot_be_tested_are_refused(value):
    with pytest.raises(ValueError, match="table: adaptive must be a whole number of seeds, at least 3; got"):
        read({"adaptive": value}, ["seed"])
