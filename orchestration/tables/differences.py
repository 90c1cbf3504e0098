"""Statistics about the differences in a table, as rows of text."""

from orchestration.tables.comparisons import Comparison
from orchestration.tables.estimates import MIN_INTERVAL, interval
from orchestration.tables.lines import p_value, percent
from orchestration.tables.summaries import summaries
from orchestration.tables.table import DASH, Key, Table

Rows = list[list[str]]
"""The first row is the header."""


def entry_rows(table: Table) -> Rows:
    """Return mean, spread, n and t interval of every entry, in percent."""
    rows = [["row", "column", "mean", "std", "n", "95 % interval of the mean"]]
    for (row, column), entry in table.entries.items():
        if made := entry.estimate:
            std = DASH if made.std is None else f"{100 * made.std:.2f}"
            between = interval(list(entry.values.values()))
            text = _interval(between) if between else f"needs {MIN_INTERVAL} cells"
            rows.append([*_names(table, row, column), f"{100 * made.mean:.2f}", std, str(made.n), text])
    return rows


def comparison_rows(table: Table) -> Rows:
    """Return the paired comparison of every entry with its baseline, named where there are several; in points."""
    several = len(_baselines(table)) > 1
    header = ["row", "column", "effect", "pairs", "95 % interval", "p (t)", "p (Wilcoxon)", "p (t, Holm)", "says"]
    rows = [[*header[:2], *["with"] * several, *header[2:]]]
    for (row, column), entry in table.entries.items():
        if entry.pairs is not None:
            fields = _fields(entry.comparison) if entry.comparison else [DASH, "0", *[""] * 4, "no cells in common"]
            rows.append([*_names(table, row, column), *[table.against(row, [column])] * several, *fields])
    return rows


def _baselines(table: Table) -> list[str]:
    """Return the names of what entries are compared with."""
    compared = [place for place, entry in table.entries.items() if entry.pairs is not None]
    return list(dict.fromkeys(table.against(row, [column]) for row, column in compared))


def summary_rows(table: Table) -> Rows:
    """Return for each row its mean rank over the columns, interquartile mean and probability of improvement."""
    rows = [["row", "mean rank", "over columns", "interquartile mean", "probability of improvement"]]
    for summary in summaries(table):
        rank, iqm = summary.mean_rank, summary.interquartile_mean
        chance = summary.probability_of_improvement
        rows.append(
            [
                _name(table, summary.row),
                DASH if rank is None else f"{rank:.2f}",
                str(summary.num_ranked),
                DASH if iqm is None else f"{100 * iqm:.2f}",
                DASH if chance is None else f"{chance:.2f}",
            ]
        )
    return rows


def sections(table: Table) -> list[tuple[str, Rows]]:
    """Return the non-empty sections, with their titles."""
    found = [
        ("Means", entry_rows(table)),
        (f"Paired with {' or '.join(_baselines(table))}, in points", comparison_rows(table)),
        ("Over all columns", summary_rows(table)),
    ]
    return [(title, rows) for title, rows in found if len(rows) > 1]


def _fields(made: Comparison) -> list[str]:
    p_values = map(p_value, (made.p_t, made.p_wilcoxon, made.p_holm))
    return [f"{percent(made.effect, 2):+.2f}", str(made.n), _interval(made.interval), *p_values, made.verdict]


def _interval(between: tuple[float, float] | None) -> str:
    return f"{percent(between[0], 2):.2f} to {percent(between[1], 2):.2f}" if between else ""


def _names(table: Table, row: Key, column: Key) -> list[str]:
    return [_name(table, row), ", ".join(table.name(*pair) for pair in zip(table.column_axes, column, strict=True))]


def _name(table: Table, row: Key) -> str:
    return ", ".join(table.name(*pair) for pair in zip(table.row_axes, row, strict=True))
