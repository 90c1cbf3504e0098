"""Format a table for the terminal, as Markdown, LaTeX (booktabs), HTML or CSV; equal tables give equal bytes."""

import csv
import html
import io
import itertools
import re
from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestration.tables.lines import Line, Shown, lines, notes, percent
from orchestration.tables.table import METRICS, Entry, Figure, Table

_STYLES = {"ours": "", "difference": "dim", "published": "dim", "heading": "dim", "other": "dim italic"}
WIDE = 8
"""With more columns the LaTeX table is set in small type across the page."""
_CSV_NUMBERS = (
    "mean_percent",
    "std_percent",
    "n",
    "expected",
    "rank",
    "difference_percent",
    "pairs",
    "p_t",
    "p_wilcoxon",
    "p_holm",
    "published_percent",
    "to_published_percent",
    "odd",
    "difference_of",
    "published_crop",
    "published_source",
    "published_note",
    "marks",
    "compared_with",
)
MAX_HEAD = 12
"""Maximum characters of a column title on one line of a terminal, about the width of the column."""
_CSS = """\
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid #222; border-bottom: 2px solid #222; }
th, td { padding: .25rem .8rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { font-weight: 600; }
th.name, td.name { text-align: left; }
thead tr:last-child th { border-bottom: 1px solid #222; }
th.block { text-align: center; border-bottom: 1px solid #999; }
tr.ours td { padding-top: .45rem; }
tr.difference td, tr.published td { color: #666; font-size: .87em; padding-top: 0; }
tr.difference td.name, tr.published td.name, tr.other td.name { padding-left: 1.8rem; }
tr.other td { color: #666; font-style: italic; }
tr.heading td { color: #666; border-top: 1px solid #999; }
p { max-width: 60rem; color: #555; font-size: .87em; }
.odd { color: #b00; }"""
_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "—": "---",
    "<": "$<$",
    ">": "$>$",
    "`": "",
} | {mark: f"\\{mark}" for mark in "&%$#_{}"}


def to_rich(table: Table) -> list[tuple[str, RichTable]]:
    """Draw each block for a terminal, with its title; marks repeat bold and underline, which pipes lose."""
    drawn = []
    for block, columns in table.blocks:
        part = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for number, title in enumerate(table.titles(columns)):
            is_name = number < len(table.row_axes or [""])
            part.add_column(
                Text(title if is_name else _head(title)),
                justify="left" if is_name else "right",
                no_wrap=is_name,
                overflow="fold",  # cropping would cut off the value, which distinguishes the columns
            )
        for line in lines(table, columns, with_n=table.repeats is None):
            indent = " " if line.kind in ("difference", "published", "other") else ""
            titles = [indent + line.titles[0], *line.titles[1:]]
            part.add_row(*map(Text, titles), *map(_rich_place, line.places), style=_STYLES[line.kind])
        drawn.append((table.block_title(block), part))
    return drawn


def _head(title: str) -> str:
    """Format a column's title, one axis per line; a long name goes above its value, which stays whole."""
    lines = []
    for part in title.split(", "):
        name, mark, value = part.partition("=")
        lines += [name, f"{value} "] if mark and len(part) > MAX_HEAD else [f"{part} "]
    return "\n".join(lines)


def show(table: Table, console: Console) -> None:
    """Print the table, and a line for each explanation of its numbers and marks."""
    for title, part in to_rich(table):
        if title:
            console.print(Text(title, "bold"))
        console.print(part)
        console.print()
    said = notes(table, best="¹", second="²", significant="*", odd="!", with_n=table.repeats is None)
    console.print("\n".join(said), highlight=False, markup=False)


def _rich_place(shown: Shown) -> Text:
    mark = "*" if shown.is_significant else {1: "¹", 2: "²"}.get(shown.rank or 0, " ")
    style = {1: "bold", 2: "underline"}.get(shown.rank or 0, "")
    return Text.assemble((shown.text, style), mark if shown.text else "", "!" if shown.is_odd else "")


def to_markdown(table: Table) -> str:
    """Write Markdown, a table for each block, with a column's best in bold and the second underlined."""
    parts = []
    for block, columns in table.blocks:
        header = table.titles(columns)
        rows = [header, ["---"] * len(header)]
        rows += [[*line.titles, *map(_markdown_place, line.places)] for line in lines(table, columns, with_n=True)]
        title = f"**{table.block_title(block)}**\n\n" if block else ""
        parts.append(title + markdown_rows(rows))
    return "\n".join(parts)


def markdown_note(table: Table) -> str:
    """Explain the numbers and marks of the Markdown table."""
    said = notes(table, best="bold:", second="underlined:", significant=r"\*:", odd="!:", with_n=True)
    return "; ".join(said) + ".\n"


def markdown_rows(rows: Iterable[Sequence[str]]) -> str:
    """Write rows of text as a Markdown table."""
    return "".join("| " + " | ".join(text.replace("|", r"\|") for text in row) + " |\n" for row in rows)


def _markdown_place(shown: Shown) -> str:
    text = {1: f"**{shown.text}**", 2: f"<ins>{shown.text}</ins>"}.get(shown.rank or 0, shown.text)
    return text + (r"\*" if shown.is_significant else "") + (" !" if shown.is_odd else "")


def to_latex(table: Table) -> str:
    """Write the table as a LaTeX float with booktabs, the blocks side by side."""
    columns = [column for _, block in table.blocks for column in block]
    width, with_n = len(table.row_axes or [""]), table.repeats is None
    said = notes(table, best="bold:", second="underlined:", significant="*:", odd="!:", with_n=with_n)
    is_wide = len(columns) > WIDE
    small = "" if is_wide else r"\footnotesize "
    environment = "table*" if is_wide else "table"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            f"\\begin{{{environment}}}[t]",
            r"\centering" + (r"\scriptsize\setlength{\tabcolsep}{1.5pt}" if is_wide else r"\small"),
            f"\\caption{{{_latex('; '.join(said))}.}}",
            f"\\begin{{tabular}}{{{'l' * width}{'r' * len(columns)}}}",
            r"\toprule",
            *_latex_blocks(table, width),
            " & ".join(map(_latex, table.titles(columns))) + r" \\",
            r"\midrule",
            *(_latex_line(line, small) for line in lines(table, columns, with_n=with_n)),
            r"\bottomrule",
            r"\end{tabular}",
            f"\\end{{{environment}}}",
            "",
        ]
    )


def _latex_blocks(table: Table, width: int) -> list[str]:
    if not table.num_block_axes:
        return []
    spans, rules, first = [], [], width + 1
    for block, columns in table.blocks:
        spans.append(f"\\multicolumn{{{len(columns)}}}{{c}}{{{_latex(table.block_title(block))}}}")
        rules.append(f"\\cmidrule(lr){{{first}-{first + len(columns) - 1}}}")
        first += len(columns)
    return ["& " * width + " & ".join(spans) + r" \\", " ".join(rules)]


def _latex_line(line: Line, small: str) -> str:
    indent = r"\quad " if line.kind in ("difference", "published", "other") else ""
    texts = [indent + _latex(line.titles[0]), *map(_latex, line.titles[1:]), *map(_latex_place, line.places)]
    size = "" if line.kind == "ours" else small
    rule = "\\midrule\n" if line.kind == "heading" else ""
    return rule + " & ".join(size + text if text else "" for text in texts) + r" \\"


def _latex_place(shown: Shown) -> str:
    text = re.sub(r" ± ([0-9.]+)", r"$_{\\pm \1}$", shown.text)
    text = "---" if text == "—" else text if "$" in text else _latex(text)
    text = re.sub(r"(?<![0-9])-(?=[0-9])", "$-$", text)
    text = {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(shown.rank or 0, text)
    return text + ("$^*$" if shown.is_significant else "") + (r"\,!" if shown.is_odd else "")


def _latex(text: str) -> str:
    return "".join(_LATEX_SPECIAL.get(mark, mark) for mark in text)


def to_html(*titled: tuple[str, Table]) -> str:
    """Write tables with their titles as one complete HTML page, the blocks of each side by side."""
    title = html.escape(titled[0][0])
    parts = "".join(f"<h1>{html.escape(name)}</h1>\n{_html_table(table)}" for name, table in titled)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>\n{_CSS}\n</style>\n</head>\n<body>\n{parts}</body>\n</html>\n"
    )


def _html_table(table: Table) -> str:
    columns = [column for _, block in table.blocks for column in block]
    width, with_n = len(table.row_axes or [""]), table.repeats is None
    said = notes(table, best="bold:", second="underlined:", significant="*:", odd="!:", with_n=with_n)
    titles = [_tag("th", text, "name" if i < width else "") for i, text in enumerate(table.titles(columns))]
    head = f"<tr>{''.join(titles)}</tr>"
    if table.num_block_axes:
        blocks = [(table.block_title(block), len(inside)) for block, inside in table.blocks]
        spans = [f'<th class="block" colspan="{count}">{html.escape(text)}</th>' for text, count in blocks]
        head = f'<tr><th colspan="{width}"></th>{"".join(spans)}</tr>\n{head}'
    rows = "\n".join(_html_line(line) for line in lines(table, columns, with_n=with_n))
    return (
        f"<div class='wide'><table>\n<thead>\n{head}\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n"
        f"<p>{html.escape('; '.join(said))}.</p>\n"
    )


def _html_line(line: Line) -> str:
    places = []
    for shown in line.places:
        text = html.escape(shown.text)
        text = {1: f"<b>{text}</b>", 2: f"<u>{text}</u>"}.get(shown.rank or 0, text)
        odd = '<span class="odd">!</span>' if shown.is_odd else ""
        places.append(f"<td>{text}{'*' if shown.is_significant else ''}{odd}</td>")
    return f'<tr class="{line.kind}">{"".join(_tag("td", text, "name") for text in line.titles)}{"".join(places)}</tr>'


def _tag(name: str, text: str, kind: str) -> str:
    return f"<{name}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{html.escape(text)}</{name}>"


def to_csv(*tables: Table) -> str:
    """Write tables of the same axes as CSV, a line for each entry; percentages with four decimals."""
    return _csv([("", table) for table in tables], names=())


def to_common_csv(tables: Iterable[tuple[str, Table]]) -> str:
    """Write tables of any axes, each with its name in the column `table`, as one CSV."""
    return _csv([*tables], names=("table",))


def _csv(tables: Sequence[tuple[str, Table]], names: Sequence[str]) -> str:
    axes = list(dict.fromkeys(axis for _, table in tables for axis in (*table.row_axes, *table.column_axes)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "metric", *axes, *_CSV_NUMBERS])
    for name, table in tables:
        for row, column in itertools.product(table.rows, table.columns):
            if entry := table.entries.get((row, column)):
                values = dict(zip((*table.row_axes, *table.column_axes), (*row, *column), strict=True))
                fields = [
                    *_csv_fields(entry, table.published.get((row, column))),
                    "; ".join(table.marks_of(row, column)),
                    "" if entry.pairs is None else table.against(row, [column]),
                ]
                writer.writerow([name] * len(names) + [table.metric, *(values.get(axis, "") for axis in axes), *fields])
    return text.getvalue()


def _csv_fields(entry: Entry, figure: Figure | None) -> list[str | int]:
    made, pairs = entry.estimate, entry.comparison
    return [
        _four(made.mean if made else None),
        _four(made.std if made else None),
        made.n if made else 0,
        entry.expected,
        entry.rank or "",
        _four(pairs.effect if pairs else None),
        "" if entry.pairs is None else entry.pairs,
        *("" if p is None else f"{p:.4g}" for p in (_p_values(entry))),
        _four(figure.value if figure else None),
        _four(made.mean - figure.value if made and figure else None),
        " ".join(sorted(entry.odd)),
        _difference_of(entry),
        *((figure.crop or "", figure.source, figure.note) if figure else [""] * 3),
    ]


def _difference_of(entry: Entry) -> str:
    """Name the cells that the difference is the mean over: where they are not all, it is not that of the entries."""
    if entry.pairs is None:
        return ""
    return "all cells" if entry.is_all_paired else "common cells" if entry.pairs else "no common cells"


def _p_values(entry: Entry) -> list[float | None]:
    made = entry.comparison
    return [made.p_t, made.p_wilcoxon, made.p_holm] if made else [None] * 3


def _four(fraction: float | None) -> str:
    return "" if fraction is None else f"{percent(fraction, 4):.4f}"


FORMATS: dict[str, Callable[[Sequence[tuple[str, Table]]], str]] = {
    "markdown": lambda titled: "\n".join(
        f"# {title}, {METRICS[table.metric]}\n\n{to_markdown(table)}\n{markdown_note(table)}" for title, table in titled
    ),
    "latex": lambda titled: "\n".join(to_latex(table) for _, table in titled),
    "html": lambda titled: to_html(*((f"{title}, {METRICS[table.metric]}", table) for title, table in titled)),
    "csv": lambda titled: to_csv(titled[0][1]) if len(titled) == 1 else to_common_csv(titled),
}
"""File formats of tables, each a function of the tables with their titles."""
