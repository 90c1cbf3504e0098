import csv
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestration.results.published import Figure
from orchestration.tables.formats import FORMATS, show, to_csv, to_latex, to_markdown
from orchestration.tables.layouts import Layout
from orchestration.tables.table import Table, build

LAYOUT = Layout(["method"], ["split"], ["seed"])
BASELINE = {"method": "supervised"}


def record(method: str, split: str, seed: int, best: float | None, code: str = "a") -> dict[str, Any]:
    return {"method": method, "split": split, "seed": str(seed), "best_miou": best, "last_miou": best, "code": code}


RECORDS = [
    record("supervised", "1_16", 0, 0.650),
    record("supervised", "1_16", 1, 0.660),
    record("supervised", "1_8", 0, 0.7004),
    record("rankmatch", "1_16", 0, 0.709),
    record("rankmatch", "1_16", 1, 0.715),
    record("rankmatch", "1_8", 0, 0.7001),
    record("rankmatch", "1_8", 1, None),
    record("fixmatch", "1_8", 0, None),
]
FIGURES = {(("supervised",), ("1_16",)): Figure(0.66, "A paper"), (("css",), ("1_16",)): Figure(0.7, "A paper")}

MARKDOWN = """\
| method | split=1_16 | split=1_8 |
| --- | --- | --- |
| supervised | 65.5 ± 0.7 (2) | 70.0 (1) |
| rankmatch | **71.2 ± 0.4 (2)** | 70.0 (1/2) |
| vs supervised | +5.7 | +0.0 |
| fixmatch | — | — |
"""

CSV = """\
metric,method,split,mean_percent,std_percent,n,expected,rank,difference_percent,pairs,p_t,p_wilcoxon,p_holm,\
published_percent,to_published_percent,odd,difference_of,published_crop,published_source,published_note,marks,\
compared_with
best_miou,supervised,1_16,65.5000,0.7071,2,2,,,,,,,66.0000,-0.5000,,,,A paper,,,
best_miou,supervised,1_8,70.0400,,1,1,,,,,,,,,,,,,,,
best_miou,rankmatch,1_16,71.2000,0.4243,2,2,1,5.7000,2,,,,,,,all cells,,,,,supervised
best_miou,rankmatch,1_8,70.0100,,1,2,,-0.0300,1,,,,,,,all cells,,,,,supervised
best_miou,fixmatch,1_8,,,0,1,,,,,,,,,,,,,,,
"""

THREE = """\
method           split=4
────────────────────────
a             50.0 ± 1.0
 published   50.4 (-0.4)
b            71.0 ± 1.0¹
 vs a             +21.0*
c           60.0 ± 1.0²!
 vs a             +10.0*
published:
 d                  55.0

mIoU in %, best epoch: mean ± standard deviation over 3 cells each
¹ best of a column, ² second
published: A paper, with the distance of ours
* paired t test over the cells, p < 0.05 after Holm's correction over the table
! made differently from the rest of its row (code); see `rankmatch verify`
"""

LATEX = r"""% needs \usepackage{booktabs}
\begin{table}[t]
\centering\small
\caption{mIoU in \%, best epoch: mean $\pm$ standard deviation over 3 cells each; bold: best of a column, underlined: second; published: A paper, with the distance of ours; *: paired t test over the cells, p $<$ 0.05 after Holm's correction over the table; !: made differently from the rest of its row (code); see rankmatch verify.}
\begin{tabular}{lr}
\toprule
method & split=4 \\
\midrule
a & 50.0$_{\pm 1.0}$ \\
\footnotesize \quad published & \footnotesize 50.4 ($-$0.4) \\
b & \textbf{71.0$_{\pm 1.0}$} \\
\footnotesize \quad vs a & \footnotesize +21.0$^*$ \\
c & \underline{60.0$_{\pm 1.0}$}\,! \\
\footnotesize \quad vs a & \footnotesize +10.0$^*$ \\
\midrule
\footnotesize published: &  \\
\footnotesize \quad d & \footnotesize 55.0 \\
\bottomrule
\end{tabular}
\end{table}
"""  # noqa: E501 (lines of a file)

HTML = """\
<h1>grid, best epoch</h1>
<div class='wide'><table>
<thead>
<tr><th class="name">method</th><th>split=4</th></tr>
</thead>
<tbody>
<tr class="ours"><td class="name">a</td><td>50.0 ± 1.0</td></tr>
<tr class="published"><td class="name">published</td><td>50.4 (-0.4)</td></tr>
<tr class="ours"><td class="name">b</td><td><b>71.0 ± 1.0</b></td></tr>
<tr class="difference"><td class="name">vs a</td><td>+21.0*</td></tr>
<tr class="ours"><td class="name">c</td><td><u>60.0 ± 1.0</u><span class="odd">!</span></td></tr>
<tr class="difference"><td class="name">vs a</td><td>+10.0*</td></tr>
<tr class="heading"><td class="name">published:</td><td></td></tr>
<tr class="other"><td class="name">d</td><td>55.0</td></tr>
</tbody>
</table></div>
<p>mIoU in %, best epoch: mean ± standard deviation over 3 cells each; bold: best of a column, underlined: second; published: A paper, with the distance of ours; *: paired t test over the cells, p &lt; 0.05 after Holm&#x27;s correction over the table; !: made differently from the rest of its row (code); see `rankmatch verify`.</p>
</body>
</html>
"""  # noqa: E501 (lines of a page)

HEAD_OF_BLOCKS = """\
<tr><th colspan="1"></th><th class="block" colspan="2">backbone=r_50</th><th class="block" colspan="2">backbone=r_101</th></tr>
<tr><th class="name">method</th><th>1/16 &amp; &lt;more&gt;</th><th>split=1_8</th><th>1/16 &amp; &lt;more&gt;</th><th>split=1_8</th></tr>
"""  # noqa: E501 (lines of a page)


def three() -> Table:
    """Three methods: a significant gain, a run of other code, a published figure, and one that is published alone."""
    means = {"a": (0.49, 0.50, 0.51), "b": (0.700, 0.711, 0.720), "c": (0.59, 0.60, 0.6101)}
    codes = {"c": ("old", "new", "new")}
    records = [
        record(method, "4", seed, mean, codes.get(method, ("old",) * 3)[seed])
        for method, values in means.items()
        for seed, mean in enumerate(values)
    ]
    figures = {(("a",), ("4",)): Figure(0.504, "A paper"), (("d",), ("4",)): Figure(0.55, "A paper")}
    return build(records, Layout(["method"], ["split"], ["seed"], others=True), "best_miou", {"method": "a"}, figures)


def blocks() -> Table:
    records = [dict(made, backbone=name) for made in RECORDS for name in ("r_50", "r_101")]
    layout = Layout(["method"], ["split"], ["seed"], blocks=["backbone"], names={"split": {"1_16": "1/16 & <more>"}})
    return build(records, layout, "best_miou", BASELINE)


def shown(table: Table, width: int = 80) -> str:
    text = io.StringIO()
    show(table, Console(file=text, width=width, color_system=None))
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def test_markdown_is_the_hand_worked_one() -> None:
    assert to_markdown(build(RECORDS, LAYOUT, "best_miou", BASELINE)) == MARKDOWN


def test_csv_is_the_hand_worked_one() -> None:
    assert to_csv(build(RECORDS, LAYOUT, "best_miou", BASELINE, FIGURES)) == CSV


def test_csv_of_two_metrics_has_one_header() -> None:
    lines = to_csv(build(RECORDS, LAYOUT), build(RECORDS, LAYOUT, "last_miou")).splitlines()
    assert len(lines) == 1 + 2 * 5
    assert lines[6].startswith("last_miou,supervised,1_16,65.5000,0.7071,2,2,")


def test_csv_of_several_tables_names_each_and_has_the_axes_of_all() -> None:
    other = [{"backbone": "r_50", "seed": "0", "best_miou": 0.5}]
    titled = [("one", build(RECORDS[:1], LAYOUT)), ("two", build(other, Layout(["backbone"], [], ["seed"])))]
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](titled))))
    assert [[row[name] for name in ("table", "method", "split", "backbone", "mean_percent")] for row in rows] == [
        ["one", "supervised", "1_16", "", "65.0000"],
        ["two", "", "", "r_50", "50.0000"],
    ]


def test_terminal_shows_words_in_brackets_as_they_are() -> None:
    assert "[bold]settings" in shown(build(RECORDS[:1], LAYOUT, settings="[bold]settings"))


def test_terminal_shows_every_mark_without_colour() -> None:
    assert shown(three()) == THREE


def test_terminal_has_bold_and_underline_where_it_can() -> None:
    text = io.StringIO()
    show(three(), Console(file=text, width=80, force_terminal=True, color_system="standard"))
    assert "\x1b[1m71.0 ± 1.0\x1b[0m" in text.getvalue() and "\x1b[4m60.0 ± 1.0\x1b[0m" in text.getvalue()


def test_markdown_shows_every_mark() -> None:
    text = FORMATS["markdown"]([("grid", three())])
    for line in (
        "| a | 50.0 ± 1.0 (3) |",
        "| published | 50.4 (-0.4) |",
        "| b | **71.0 ± 1.0 (3)** |",
        r"| vs a | +21.0\* |",
        "| c | <ins>60.0 ± 1.0 (3)</ins> ! |",
        "| d | 55.0 |",
    ):
        assert f"{line}\n" in text


def partly_paired() -> Table:
    """Six cells of the baseline, of which the one method shares four and the other none."""
    records = [record("a", "4", seed, best) for seed, best in enumerate((0.60, 0.61, 0.62, 0.63, 0.40, 0.42))]
    records += [record("b", "4", seed, 0.611 + 0.0101 * seed) for seed in range(4)]
    records += [record("b", "4", seed, None) for seed in (4, 5)]
    return build([*records, record("c", "4", 9, 0.5)], LAYOUT, "best_miou", {"method": "a"})


PARTLY = (
    "difference (4): the mean over the 4 cells that both entries have, which is not the difference of the two entries"
)
NONE = "no pairs: the entry and the baseline have no cells in common"


@pytest.mark.parametrize(
    ("kind", "difference", "none"),
    [
        ("markdown", r"| vs a | +1.1 (4) |", "| vs a | no pairs |"),
        ("latex", r"+1.1 (4) \\", r"no pairs \\"),
        ("html", "<td>+1.1 (4)</td>", "<td>no pairs</td>"),
        ("csv", ",1.1150,4,", ",,0,,,,,,,no common cells"),
    ],
)
def test_difference_of_some_cells_only_is_marked(kind: str, difference: str, none: str) -> None:
    text = FORMATS[kind]([("grid", partly_paired())])
    assert difference in text and none in text
    assert kind == "csv" or (PARTLY in text and NONE in text)
    assert kind != "csv" or "common cells" in text


def test_terminal_marks_a_difference_of_some_cells_only() -> None:
    text = shown(partly_paired(), 130)
    assert "+1.1 (4)" in text and f"\n{PARTLY}\n{NONE}\n" in text
    assert "62.6 ± 1.3 (4/6)" in text and "(4/6)¹" not in text


def test_table_of_few_repetitions_says_that_nothing_was_tested() -> None:
    assert "2 pairs of cells at most: too few to test a difference" in shown(build(RECORDS, LAYOUT, baseline=BASELINE))


def test_bars_in_values_do_not_break_markdown() -> None:
    assert r"a\|b" in to_markdown(build([record("a|b", "4", 0, 0.5)], LAYOUT))


def test_five_splits_with_published_figures_fit_80_columns() -> None:
    splits = ("92", "183", "366", "732", "1464")
    records = [
        record(method, split, seed, 0.7 + 0.001 * seed)
        for method in ("supervised", "rankmatch")
        for split in splits
        for seed in range(3)
    ]
    layout = Layout(["method"], ["split"], ["seed"], names={"split": {split: split for split in splits}})
    figures = {((method,), (split,)): Figure(0.71, "A paper") for method in ("supervised",) for split in splits}
    drawn = shown(build(records, layout, "best_miou", BASELINE, figures)).splitlines()
    assert sum(line.startswith("supervised") for line in drawn) == 1
    assert drawn[2].count("70.1 ± 0.1") == 5 and drawn[3].count("71.0 (-0.9)") == 5


class Balanced(HTMLParser):
    """Fails on a tag that is not closed where it should be; counts columns of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.widths: list[int] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.widths.append(0)
        if tag in ("td", "th"):
            self.widths[-1] += int(dict(attributes).get("colspan") or 1)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_heads_of_columns_keep_the_value_that_tells_them_apart(capsys) -> None:
    axes = ("trainer.learning_rate", "split")
    records = [
        {"method": "supervised", "trainer.learning_rate": rate, "split": "4", "seed": "0", "best_miou": 0.5}
        for rate in ("0.001", "0.002", "0.005", "0.01", "0.02")
    ]
    made = build(records, Layout(rows=["method"], columns=list(axes), over=["seed"]))
    show(made, Console(width=50))
    words = capsys.readouterr().out.split()
    assert [word for word in words if word.startswith("0.")] == ["0.001", "0.002", "0.005", "0.01", "0.02"]
    assert "| learning_rate=0.001, split=4 |" in to_markdown(made)


def test_heads_of_columns_have_the_whole_names_of_axes_that_end_alike() -> None:
    one = {**record("a", "4", 0, 0.5), "augment.size": "33", "dataset.size": "64"}
    made = build([one], Layout(["method"], ["augment.size", "dataset.size"], ["seed"]))
    assert "| augment.size=33, dataset.size=64 |" in to_markdown(made)


def test_html_is_a_page_of_its_own_with_even_rows() -> None:
    text = FORMATS["html"]([("a <grid>", blocks())])
    page = Balanced()
    page.feed(text)
    assert page.open == [] and set(page.widths) == {5}
    assert "<title>a &lt;grid&gt;, best epoch</title>" in text and "1/16 &amp; &lt;more&gt;" in text
    assert "http" not in text and "<script" not in text
    assert "<td><b>71.0 ± 1.0</b></td>" in FORMATS["html"]([("grid", three())])
    assert '<u>60.0 ± 1.0</u><span class="odd">!</span>' in FORMATS["html"]([("grid", three())])


def test_html_is_the_hand_worked_one() -> None:
    assert FORMATS["html"]([("grid", three())]).partition("<body>\n")[2] == HTML
    assert HEAD_OF_BLOCKS in FORMATS["html"]([("grid", blocks())])


def test_latex_is_the_hand_worked_one() -> None:
    assert FORMATS["latex"]([("grid", three())]) == LATEX


def test_wide_latex_goes_across_the_page_in_small_type() -> None:
    many = [record("a", str(split), 0, 0.5) for split in range(9)]
    text, narrow = to_latex(build(many, LAYOUT)), to_latex(build(many[:-1], LAYOUT))
    assert "\\begin{table*}[t]\n\\centering\\scriptsize\\setlength{\\tabcolsep}{1.5pt}\n" in text
    assert "\\begin{tabular}{lrrrrrrrrr}" in text and "\\end{table*}" in text
    assert "\\begin{table}[t]\n\\centering\\small\n" in narrow


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("table", [three, blocks])
def test_same_records_give_the_same_bytes(kind: str, table: Any) -> None:
    assert FORMATS[kind]([("grid", table())]) == FORMATS[kind]([("grid", table())])


def test_latex_is_what_booktabs_wants() -> None:
    text = to_latex(blocks())
    for line in (
        r"& \multicolumn{2}{c}{backbone=r\_50} & \multicolumn{2}{c}{backbone=r\_101} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r"method & 1/16 \& $<$more$>$ & split=1\_8 & 1/16 \& $<$more$>$ & split=1\_8 \\",
        r"fixmatch & --- & --- & --- & --- \\",
    ):
        assert f"{line}\n" in text
    assert r"\textbf{71.2$_{\pm 0.4}$ (2)} & 70.0 (1/2) & " in text


@pytest.mark.parametrize("table", [three, blocks, partly_paired])
def test_latex_compiles(table: Any, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-base texlive-latex-recommended")
    page = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}\n"
    (tmp_path / "page.tex").write_text(page)
    (tmp_path / "table.tex").write_text(to_latex(table()))
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-1500:]
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
    assert "Missing character" not in (tmp_path / "page.log").read_text()


def test_csv_has_what_the_marks_say() -> None:
    records = [dict(made, crop_size=321, num_steps=100, transductive=None) for made in RECORDS]
    records = [dict(made, num_steps=10, transductive=7) if made["method"] == "supervised" else made for made in records]
    figures = {(("supervised",), ("1_16",)): Figure(0.66, "A paper", 513, "stride 8"),
               (("rankmatch",), ("1_16",)): Figure(0.7, "Another", 321)}  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(to_csv(build(records, LAYOUT, "best_miou", BASELINE, figures)))))
    names = ("published_crop", "published_source", "published_note", "marks")
    assert [[row[name] for name in names] for row in rows[:3]] == [
        ["513", "A paper", "stride 8", "fewer steps; trained on validation images; other crop"],
        ["", "", "", "fewer steps; trained on validation images"],
        ["321", "Another", "", ""],
    ]
