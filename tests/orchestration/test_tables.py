import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestration import tables
from orchestration.tables import build, to_csv, to_markdown, to_rich


@dataclass(frozen=True)
class Layout:
    rows: list[str]
    columns: list[str]


LAYOUT = Layout(["method"], ["split"])


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

MARKDOWN = """\
| method | split=1_16 | split=1_8 |
| --- | --- | --- |
| supervised | 65.5 ± 0.7 (2) | **70.0 (1)** |
| rankmatch | **71.2 ± 0.4 (2)** | 70.0 (1 of 2) |
| vs supervised | +5.7 | +0.0 |
| fixmatch | — | — |
"""

CSV = """\
metric,method,split,mean_percent,std_percent,n,expected,best,difference_percent
best_miou,supervised,1_16,65.5000,0.7071,2,2,0,
best_miou,supervised,1_8,70.0400,,1,1,1,
best_miou,rankmatch,1_16,71.2000,0.4243,2,2,1,5.7000
best_miou,rankmatch,1_8,70.0100,,1,2,0,-0.0300
best_miou,fixmatch,1_8,,,0,1,0,
"""


def test_markdown_is_the_hand_worked_one() -> None:
    assert to_markdown(build(RECORDS, LAYOUT, "best_miou", {"method": "supervised"})) == MARKDOWN


def test_csv_is_the_hand_worked_one() -> None:
    assert to_csv(build(RECORDS, LAYOUT, "best_miou", {"method": "supervised"})) == CSV


def test_csv_of_two_metrics_has_one_header() -> None:
    lines = to_csv(build(RECORDS, LAYOUT), build(RECORDS, LAYOUT, "last_miou")).splitlines()
    assert len(lines) == 1 + 2 * 5
    assert lines[6].startswith("last_miou,supervised,1_16,61.0000,1.4142,2,2,0,")


def test_terminal_shows_the_best_in_bold() -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, color_system=None)
    console.print(to_rich(build(RECORDS, LAYOUT, "best_miou", {"method": "supervised"})))
    shown = text.getvalue()
    assert "71.2 ± 0.4 (2)" in shown
    assert "70.0 (1 of 2)" in shown
    assert "+5.7" in shown and "(2) *" in shown
    columns = to_rich(build(RECORDS, LAYOUT)).columns[1]
    assert [getattr(cell, "style", "") for cell in columns.cells] == ["", "bold", ""]


def test_equal_means_are_all_the_best() -> None:
    records = [record("a", "4", 0, 0.5), record("b", "4", 0, 0.5), record("c", "4", 0, 0.4999)]
    built = build(records, LAYOUT)
    assert [entry.is_best for entry in built.entries.values()] == [True, True, False]
    assert to_markdown(built).count("**50.0 (1)**") == 2


def test_means_that_differ_below_the_shown_digit_have_one_best() -> None:
    built = build([record("a", "4", 0, 0.50001), record("b", "4", 0, 0.50002)], LAYOUT)
    assert [entry.is_best for entry in built.entries.values()] == [False, True]


def test_rows_and_columns_may_have_several_axes_or_none() -> None:
    layout = Layout(["method", "split"], [])
    assert to_markdown(build(RECORDS[:1], layout)) == (
        "| method | split | mIoU |\n| --- | --- | --- |\n| supervised | 1_16 | **65.0 (1)** |\n"
    )
    assert to_markdown(build(RECORDS[:1], Layout([], ["method", "split"]))) == (
        "|  | method=supervised, split=1_16 |\n| --- | --- |\n|  | **65.0 (1)** |\n"
    )


def test_baseline_may_be_a_column() -> None:
    built = build(RECORDS[:3], LAYOUT, baseline={"split": "1_16"})
    assert built.entries[("supervised",), ("1_8",)].difference == pytest.approx(0.7004 - 0.655)
    assert built.entries[("supervised",), ("1_16",)].difference is None


def test_bars_in_values_do_not_break_markdown() -> None:
    assert r"a\|b" in to_markdown(build([record("a|b", "4", 0, 0.5)], LAYOUT))


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="metric must be one of best_miou, last_miou; got 'miou'"):
        build(RECORDS, LAYOUT, "miou")


def test_tables_need_neither_torch_nor_a_tracker() -> None:
    heavy = "{'torch', 'mlflow', 'ray', 'pyarrow'}"
    code = f"import sys, orchestration.tables; print(sorted({heavy} & sys.modules.keys()))"
    root = Path(tables.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"
