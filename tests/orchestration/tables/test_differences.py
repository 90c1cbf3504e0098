"""The statistics under a table, as rows of text, and the sentences that explain its marks."""

from typing import Any

import pytest

from orchestration.results.published import Figure
from orchestration.tables.differences import sections
from orchestration.tables.layouts import Layout
from orchestration.tables.lines import notes, p_value
from orchestration.tables.table import Table, build

LAYOUT = Layout(["method"], ["split"], ["seed"], names={"method": {"b": "Ours"}})


def record(method: str, seed: int, best: float | None, **fields: Any) -> dict[str, Any]:
    return {"method": method, "split": "4", "seed": str(seed), "best_miou": best, "last_miou": best, **fields}


def records(**values: tuple[float | None, ...]) -> list[dict[str, Any]]:
    return [record(method, seed, best) for method, found in values.items() for seed, best in enumerate(found)]


def said(table: Table) -> list[str]:
    return notes(table, best="¹", second="²", significant="*", odd="!", with_n=False)


def test_statistics_are_the_hand_worked_ones() -> None:
    made = build(
        records(a=(0.49, 0.50, 0.51), b=(0.69, 0.71, 0.70), c=(0.6, None, None)), LAYOUT, baseline={"method": "a"}
    )
    assert sections(made) == [
        ("Means", [
            ["row", "column", "mean", "std", "n", "95 % interval of the mean"],
            ["a", "4", "50.00", "1.00", "3", "47.52 to 52.48"],
            ["Ours", "4", "70.00", "1.00", "3", "67.52 to 72.48"],
            ["c", "4", "60.00", "—", "1", "needs 2 cells"],
        ]),
        ("Paired with a, in points", [
            ["row", "column", "effect", "pairs", "95 % interval", "p (t)", "p (Wilcoxon)", "p (t, Holm)", "says"],
            ["Ours", "4", "+20.00", "3", "17.52 to 22.48", "<0.001", "", "<0.001", "significant"],
            ["c", "4", "+11.00", "1", "", "", "", "", "too few pairs to tell (1)"],
        ]),
        ("Over all columns", [
            ["row", "mean rank", "over columns", "interquartile mean", "probability of improvement"],
            ["a", "—", "0", "50.00", "—"],
            ["Ours", "—", "0", "70.00", "1.00"],
            ["c", "—", "0", "60.00", "1.00"],
        ]),
    ]  # fmt: skip


def test_entry_without_a_cell_in_common_with_its_baseline_says_so_and_what_is_empty_has_no_section() -> None:
    alone = [record("a", 0, 0.5), record("c", 9, 0.6)]
    titles = dict(sections(build(alone, LAYOUT, baseline={"method": "a"})))
    assert titles["Paired with a, in points"][1:] == [["c", "4", "—", "0", "", "", "", "", "no cells in common"]]
    assert [*dict(sections(build(records(a=(None,)), LAYOUT)))] == ["Over all columns"]


def test_effect_that_is_rounded_to_nothing_has_no_minus() -> None:
    made = build(records(a=(0.50001,), b=(0.5,)), LAYOUT, baseline={"method": "a"})
    assert dict(sections(made))["Paired with a, in points"][1][2] == "+0.00"


def test_p_value_is_never_written_as_0() -> None:
    made = build(records(a=(0.49, 0.5, 0.51), b=(0.6900001, 0.7, 0.71)), LAYOUT, baseline={"method": "a"})
    assert dict(sections(made))["Paired with a, in points"][1][5:8] == ["<0.001", "", "<0.001"]
    assert [p_value(p) for p in (0.0009999, 0.001, 0.0496, None)] == ["<0.001", "0.001", "0.050", ""]


def test_entries_of_one_cell_each_are_said_to_have_no_spread() -> None:
    assert "mIoU in %, best epoch: mean ± standard deviation of one cell each, without a spread" in said(
        build(records(a=(0.5,)), LAYOUT)
    )
    assert "mIoU in %, best epoch: mean ± standard deviation over 2 cells each" in said(
        build(records(a=(0.5, 0.6)), LAYOUT)
    )


def test_second_is_explained_only_where_one_is_marked() -> None:
    assert "¹ best of a column" in said(build(records(a=(0.5,), b=(0.6,)), LAYOUT))
    assert "¹ best of a column, ² second" in said(build(records(a=(0.5,), b=(0.6,), c=(0.4,)), LAYOUT))


@pytest.mark.parametrize(
    ("values", "words"), [((0.5, None, None), "1 of 3 cells is"), ((0.5, 0.6, None), "2 of 3 cells are")]
)
def test_entry_that_is_not_complete_is_explained(values, words) -> None:
    (note,) = (text for text in said(build(records(a=values), LAYOUT)) if "done" in text)
    assert note.endswith(f"{words} done; such an entry does not compete for the best of its column")


def test_crops_of_published_figures_are_named_in_order_where_they_are_not_ours() -> None:
    figures = {((name,), ("4",)): Figure(0.5, "A paper", crop) for name, crop in (("a", 801), ("b", 513), ("c", 321))}
    made = build([record(name, 0, 0.5, crop_size=321) for name in "abc"], LAYOUT, published=figures)
    assert "† published with crop 513 or 801, not 321" in said(made)


def test_steps_without_an_update_are_told_of_the_cell_that_has_the_largest_share_of_them() -> None:
    most = "¶ a cell made no update at a step that was not finite (trainer.when_not_finite): "
    one = record("a", 0, 0.5, steps_left_out=[7], num_steps=2000)
    assert f"{most}1 of 2,000 steps" in said(build([one], LAYOUT))
    other = record("b", 0, 0.5, steps_left_out=[7], num_steps=1000)
    assert f"{most}1 of 1,000 steps at most" in said(build([one, other], LAYOUT))
