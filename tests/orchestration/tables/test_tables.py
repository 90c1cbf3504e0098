import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from orchestration.runs.states import CellState
from orchestration.tables import table
from orchestration.tables.consistency import odd_ones
from orchestration.tables.differences import comparison_rows
from orchestration.tables.estimates import Estimate
from orchestration.tables.layouts import Layout
from orchestration.tables.lines import lines, notes
from orchestration.tables.summaries import summaries
from orchestration.tables.table import Table, build

LAYOUT = Layout(["method"], ["split"], ["seed"])


def record(method: str, split: str, seed: int, best: float | None, last: float | None = None) -> dict[str, Any]:
    return {"method": method, "split": split, "seed": str(seed), "best_miou": best, "last_miou": last}


RECORDS = [
    record("supervised", "1_16", 0, 0.650, 0.60),
    record("supervised", "1_16", 1, 0.660, 0.62),
    record("supervised", "1_8", 0, 0.7004, 0.70),
    record("rankmatch", "1_16", 0, 0.709, 0.70),
    record("rankmatch", "1_16", 1, 0.715, 0.70),
    record("rankmatch", "1_8", 0, 0.7001, 0.69),
    record("rankmatch", "1_8", 1, None, None),
    record("fixmatch", "1_8", 0, None, None),
]


def ranks(*means: float) -> list[int | None]:
    built = build([record(str(place), "4", 0, mean) for place, mean in enumerate(means)], LAYOUT)
    return [entry.rank for entry in built.entries.values()]


def test_entries_hold_mean_spread_and_counts() -> None:
    entry = build(RECORDS, LAYOUT).entries[("rankmatch",), ("1_8",)]
    assert entry.estimate is not None
    assert (entry.estimate.mean, entry.estimate.std, entry.estimate.n, entry.expected) == (0.7001, None, 1, 2)


def test_best_and_second_of_a_column_are_ranked() -> None:
    assert ranks(0.5, 0.7, 0.6) == [None, 1, 2]
    assert ranks(0.5, 0.50001, 0.4) == [2, 1, None]  # also where the shown digits are the same


def test_only_complete_entries_compete_for_best_and_second() -> None:
    lucky = [record("lucky", "4", seed, best) for seed, best in enumerate((0.9, None, None))]
    whole = [record(method, "4", seed, best) for method, best in (("a", 0.5), ("b", 0.6)) for seed in range(3)]
    entries = build([*lucky, *whole], LAYOUT).entries
    assert [entries[(method,), ("4",)].rank for method in ("lucky", "a", "b")] == [None, None, 1]
    a, lucky_row = (summaries(build([*lucky, *whole], LAYOUT))[place] for place in (1, 0))
    assert (a.num_ranked, a.mean_rank, lucky_row.mean_rank) == (0, None, None)


def test_entry_of_fewer_cells_than_others_of_its_column_does_not_compete() -> None:
    whole = [record(method, "4", seed, best) for method, best in (("a", 0.5), ("b", 0.6)) for seed in range(2)]
    built = build([record("once", "4", 0, 0.9), *whole], LAYOUT)
    assert [entry.rank for entry in built.entries.values()] == [None, None, 1]
    assert [summary.num_ranked for summary in summaries(built)] == [0, 0, 0]
    rank_of_first = build([record("once", "4", 0, 0.9), record("a", "4", 0, 0.5)], LAYOUT).entries[("once",), ("4",)]
    assert rank_of_first.rank == 1


def test_entry_whose_rivals_have_no_numbers_is_not_the_best() -> None:
    built = build([record("a", "4", 0, 0.5), record("b", "4", 0, None)], LAYOUT)
    assert [entry.rank for entry in built.entries.values()] == [None, None]


def test_equal_means_are_all_the_best_and_leave_no_second() -> None:
    assert ranks(0.5, 0.5, 0.4999) == [1, 1, None]


def test_of_two_entries_none_is_second() -> None:
    assert ranks(0.5, 0.6) == [None, 1]


def test_rows_and_columns_may_have_several_axes_or_none() -> None:
    assert build(RECORDS[:1], Layout(["method", "split"], [], ["seed"])).rows == [("supervised", "1_16")]
    assert build(RECORDS[:1], Layout([], ["method", "split"], ["seed"])).titles([("supervised", "1_16")]) == [
        "",
        "method=supervised, split=1_16",
    ]


def test_blocks_group_the_columns() -> None:
    records = [dict(made, backbone=backbone) for made in RECORDS[:3] for backbone in ("r50", "r101")]
    layout = Layout(["method"], ["split"], ["seed"], blocks=["backbone"], names={"backbone": {"r50": "ResNet-50"}})
    built = build(records, layout)
    assert built.blocks == [
        (("r50",), [("r50", "1_16"), ("r50", "1_8")]),
        (("r101",), [("r101", "1_16"), ("r101", "1_8")]),
    ]
    assert [built.block_title(block) for block, _ in built.blocks] == ["ResNet-50", "backbone=r101"]


def test_baseline_may_be_a_column() -> None:
    built = build(RECORDS[:3], LAYOUT, baseline={"split": "1_16"})
    entry, baseline = (built.entries[("supervised",), (split,)] for split in ("1_8", "1_16"))
    assert entry.comparison is not None and entry.comparison.effect == pytest.approx(0.7004 - 0.650)  # seed 0 alone
    assert (entry.pairs, entry.is_all_paired) == (1, False)
    assert (baseline.comparison, baseline.pairs) == (None, None)


def test_methods_are_paired_by_seed_and_corrected_over_the_table() -> None:
    records = [record("supervised", split, seed, 0.6 + 0.01 * seed) for split in ("4", "8") for seed in range(3)]
    records += [record("rankmatch", "4", seed, 0.7 + 0.01 * seed + 0.001 * seed**2) for seed in (2, 1, 0)]
    records += [record("rankmatch", "8", seed, 0.6 + 0.02 * seed) for seed in range(3)]
    entries = build(records, LAYOUT, baseline={"method": "supervised"}).entries
    clear, weak = (entries[("rankmatch",), (split,)].comparison for split in ("4", "8"))
    assert clear is not None and weak is not None
    assert (clear.n, clear.effect) == (3, pytest.approx(0.1 + 0.005 / 3))
    assert clear.p_holm == pytest.approx(2 * (clear.p_t or 0)) and clear.is_significant
    assert weak.p_holm == weak.p_t and not weak.is_significant


def test_difference_is_that_of_the_pairs_that_both_have() -> None:
    records = [record("supervised", "4", seed, best) for seed, best in enumerate((0.60, 0.61, 0.62, 0.63, 0.40, 0.42))]
    gains = (0.010, 0.011, 0.012, 0.011)
    records += [record("rankmatch", "4", seed, 0.60 + 0.01 * seed + gain) for seed, gain in enumerate(gains)]
    records += [record("rankmatch", "4", seed, None) for seed in (4, 5)]
    entry = build(records, LAYOUT, baseline={"method": "supervised"}).entries[("rankmatch",), ("4",)]
    assert entry.comparison is not None and entry.comparison.effect == pytest.approx(0.011)
    assert (entry.pairs, entry.is_all_paired) == (4, False)


def test_difference_has_no_star_before_all_cells_of_both_entries_are_done() -> None:
    def built(*late: float | None) -> Table:
        gains = (0.010, 0.011, 0.012, 0.011)
        records = [record("supervised", "4", seed, 0.60 + 0.01 * seed) for seed in range(5)]
        records += [record("rankmatch", "4", seed, 0.60 + 0.01 * seed + gain) for seed, gain in enumerate(gains)]
        return build([*records, record("rankmatch", "4", 4, *late)], LAYOUT, baseline={"method": "supervised"})

    part, whole = built(None), built(0.652)
    stars = [shown.is_significant for line in lines(part, part.columns, with_n=True) for shown in line.places]
    assert not any(stars) and comparison_rows(part)[1][-1] == "not all cells are done"
    said = notes(part, best="b", second="s", significant="*", odd="!", with_n=True)
    assert "a difference is tested once all cells of both entries are done" in said
    assert not any("significant" in text or text.startswith("*") for text in said)
    assert comparison_rows(whole)[1][-1] == "significant"


def test_incomplete_baseline_gives_no_star_either() -> None:
    records = [record("rankmatch", "4", seed, 0.61 + 0.01 * seed + 0.001 * (seed % 2)) for seed in range(5)]
    records += [record("supervised", "4", seed, 0.50 + 0.01 * seed if seed < 4 else None) for seed in range(5)]
    made = build(records, LAYOUT, baseline={"method": "supervised"}).entries[("rankmatch",), ("4",)].comparison
    assert made is not None and made.p_holm is not None and made.p_holm < 0.05 and not made.is_significant


def unread(method: str, seed: int, values: dict[str, float | None], column: str = "4") -> list[dict[str, Any]]:
    """Return records of one seed at two numbers of agents; a method that gives one value reads no agents."""
    return [
        record(method, column, seed, values.get(agents, values.get("")))
        | {"agents": agents, "signature": f"{method}-{seed}-{agents if agents in values else ''}"}
        for agents in ("8", "16")
    ]


OVER_AGENTS = Layout(["method"], ["split"], ["agents", "seed"])


def test_cell_that_does_not_read_an_axis_is_one_number_of_its_entry() -> None:
    records = [made for seed in range(3) for made in unread("supervised", seed, {"": 0.60 + 0.01 * seed})]
    records += [made for seed in range(3) for made in unread("unimatch", seed, {"": 0.62 + 0.02 * seed})]
    entries = build(records, OVER_AGENTS, baseline={"method": "supervised"}).entries
    supervised, unimatch = (entries[(method,), ("4",)] for method in ("supervised", "unimatch"))
    assert supervised.estimate == Estimate(pytest.approx(0.61), pytest.approx(0.01), 3)
    assert (supervised.expected, supervised.is_complete) == (3, True)
    assert unimatch.comparison is not None
    assert (unimatch.pairs, unimatch.is_all_paired) == (3, True)
    wanted = stats.ttest_rel([0.62, 0.64, 0.66], [0.60, 0.61, 0.62]).pvalue
    assert unimatch.comparison.p_t == pytest.approx(wanted)


def test_runs_over_an_axis_that_the_baseline_does_not_read_are_averaged_into_a_pair() -> None:
    records = [made for seed in range(3) for made in unread("supervised", seed, {"": 0.60 + 0.01 * seed})]
    ranked: list[dict[str, float | None]] = [{"8": 0.63, "16": 0.65}, {"8": 0.62, "16": 0.66}, {"8": 0.64, "16": 0.64}]
    records += [made for seed, values in enumerate(ranked) for made in unread("rankmatch", seed, values)]
    entry = build(records, OVER_AGENTS, baseline={"method": "supervised"}).entries[("rankmatch",), ("4",)]
    assert entry.estimate is not None and entry.comparison is not None
    assert (entry.estimate.n, entry.pairs, entry.is_all_paired) == (6, 3, True)
    assert entry.is_best  # both stand for all points of the grid
    assert entry.comparison.effect == pytest.approx(0.64 - 0.61)
    assert entry.comparison.p_t == pytest.approx(stats.ttest_rel([0.64, 0.64, 0.64], [0.60, 0.61, 0.62]).pvalue)


def test_pairs_of_unequal_size_are_said_not_to_be_the_difference_of_the_entries() -> None:
    records = [made for seed in range(2) for made in unread("supervised", seed, {"": 0.60})]
    records += unread("rankmatch", 0, {"8": 0.63, "16": 0.65}) + unread("rankmatch", 1, {"8": 0.70, "16": None})
    entry = build(records, OVER_AGENTS, baseline={"method": "supervised"}).entries[("rankmatch",), ("4",)]
    assert entry.comparison is not None and entry.comparison.effect == pytest.approx((0.04 + 0.10) / 2)
    assert (entry.pairs, entry.is_all_paired) == (2, False)


def test_cells_that_stand_in_several_columns_are_one_test_and_one_number_of_their_row() -> None:
    columns = Layout(["method"], ["agents"], ["seed"])
    records = [made for seed in range(3) for made in unread("supervised", seed, {"": 0.60 + 0.01 * seed})]
    records += [made for seed in range(3) for made in unread("unimatch", seed, {"": 0.62 + 0.02 * seed})]
    built = build(records, columns, baseline={"method": "supervised"})
    made = [built.entries[("unimatch",), (agents,)].comparison for agents in ("8", "16")]
    assert made[0] == made[1] and made[0] is not None and made[0].p_holm == made[0].p_t
    half = [0.5 + 0.1 * seed for seed in range(4)]
    twice = [made for seed, value in enumerate(half[1:]) for made in unread("a", seed, {"": value})]
    other = [record("a", "4", 0, half[0]) | {"agents": "32", "signature": "once"}]
    assert summaries(build([*twice, *other], columns))[0].interquartile_mean == pytest.approx(0.65)


def test_run_at_several_points_has_one_vote_about_what_is_usual() -> None:
    records = [made | {"code": "old"} for made in unread("a", 0, {"": 0.6})]
    records += [record("a", "4", seed, 0.6) | {"agents": "8", "signature": f"{seed}", "code": "new"} for seed in (1, 2)]
    assert [(odd.place, odd.usual) for odd in odd_ones(records, ["method"])] == [(0, "new"), (1, "new")]


def test_entries_without_common_cells_are_not_compared() -> None:
    records = [record("supervised", "4", 0, 0.6), record("supervised", "4", 1, None)]
    records += [record("rankmatch", "4", 0, None), record("rankmatch", "4", 1, 0.7)]
    entry = build(records, LAYOUT, baseline={"method": "supervised"}).entries[("rankmatch",), ("4",)]
    assert (entry.comparison, entry.pairs, entry.is_all_paired) == (None, 0, False)


def test_rows_are_summed_up_over_the_columns_that_all_have() -> None:
    records = [record("a", split, seed, 0.5 + 0.1 * seed) for split in ("4", "8") for seed in (0, 1)]
    records += [record("b", split, seed, 0.55 + 0.1 * seed) for split in ("4", "8") for seed in (0, 1)]
    records += [record("a", "16", 0, 0.9)]
    a, b = summaries(build(records, LAYOUT, baseline={"method": "a"}))
    assert (a.mean_rank, a.num_ranked, b.mean_rank, b.num_ranked) == (2.0, 2, 1.0, 2)
    assert b.interquartile_mean == pytest.approx(0.6) and b.probability_of_improvement == 0.75
    assert a.probability_of_improvement is None


def test_entry_with_a_run_of_other_code_is_marked() -> None:
    records = [dict(made, code="new" if place == 3 else "old") for place, made in enumerate(RECORDS)]
    records += [dict(record("rankmatch", "1_4", seed, 0.7), code="old") for seed in (0, 1)]
    odd = {place for place, entry in build(records, LAYOUT).entries.items() if entry.odd}
    assert odd == {(("rankmatch",), ("1_16",))}


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="metric must be one of best_miou, last_miou; got 'miou'"):
        build(RECORDS, LAYOUT, "miou")


def test_tables_need_neither_torch_nor_a_tracker() -> None:
    heavy = "{'torch', 'mlflow', 'ray', 'pyarrow', 'scipy'}"
    code = f"import sys, orchestration.tables.formats; print(sorted({heavy} & sys.modules.keys()))"
    root = Path(table.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"


def test_cell_without_an_attempt_has_the_status_that_tables_know() -> None:
    assert table.NEVER_BEGUN == CellState.MISSING
