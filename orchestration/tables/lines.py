"""A table as lines of marked text; the formats only style them, so that all formats say the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestration.tables.comparisons import MIN_T, Comparison
from orchestration.tables.entries import Place, largest_share
from orchestration.tables.table import DASH, METRICS, NOT_RUN, Entry, Figure, Key, Table

NO_PAIRS = "no pairs"
OTHER_CROP = "†"
LEFT_OUT = "¶"
LEAST_P = 0.001
"""The smallest p-value that is written with its digits."""
UNLIKE = "the distance is of ours after the last epoch; published figures are as a rule of the best one"
UNEQUAL = "no best is marked in a column whose entries have different numbers of seeds"
Kind = Literal["ours", "difference", "published", "heading", "other"]


@dataclass(frozen=True, slots=True)
class Shown:
    """The content of one place of a line."""

    text: str
    rank: int | None = None
    is_significant: bool = False
    is_odd: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table."""

    kind: Kind
    titles: list[str]
    places: list[Shown]


def lines(table: Table, columns: Sequence[Key], *, with_n: bool) -> list[Line]:
    """Return the lines of some columns: for each row its means, its gains on the baseline, the published figures.

    Args:
        table: The table.
        columns: Some of its columns, for example those of a block.
        with_n: Write the number of cells into each entry; otherwise only into incomplete ones.
    """
    found: list[Line] = []
    for row in table.rows:
        entries = [table.entries.get((row, column)) for column in columns]
        titles = [table.name(axis, value) for axis, value in zip(table.row_axes, row, strict=True)] or [""]
        titles[0] += f" {marks}" if (marks := table.row_marks.get(row)) else ""
        found.append(Line("ours", titles, [_shown(entry, with_n) for entry in entries]))
        if any(entry and entry.pairs is not None for entry in entries):
            texts = [_gain(entry) for entry in entries]
            found.append(Line("difference", _wide(table, f"vs {table.against(row, columns)}"), texts))
        figures = [table.published.get((row, column)) for column in columns]
        if any(figures):
            pairs = zip(entries, figures, strict=True)
            texts = [Shown(_published(entry, figure, table) if figure else "") for entry, figure in pairs]
            found.append(Line("published", _wide(table, "published"), texts))
    return found + _others(table, columns)


def _others(table: Table, columns: Sequence[Key]) -> list[Line]:
    found = []
    for row in table.other_rows:
        figures = [table.published.get((row, column)) for column in columns]
        if any(figures):
            texts = [Shown(_published(None, figure, table) if figure else DASH) for figure in figures]
            found.append(Line("other", _wide(table, " ".join(filter(None, row))), texts))
    heading = Line("heading", _wide(table, "published:"), [Shown("")] * len(columns))
    return [heading, *found] if found else []


def notes(table: Table, *, best: str, second: str, significant: str, odd: str, with_n: bool) -> list[str]:
    """Explain the numbers and marks of a table, a sentence each, with the marks of the format."""
    n = f"over {table.repeats} cells each" if table.repeats and not with_n else "(cells)"
    if table.repeats == 1 and not with_n:
        n = "of one cell each, without a spread"
    said = [f"mIoU in %, {METRICS[table.metric]}: mean ± standard deviation {n}"]
    entries = table.entries.values()
    if part := next((entry for entry in entries if entry.estimate and not entry.is_complete), None):
        said.append(_note_on_incomplete(len(part.values), part.expected))
    said += [table.adaptive] if table.adaptive else []
    if any(entry.is_complete and not entry.competes for entry in entries):
        said.append(
            UNEQUAL
            if table.adaptive
            else "an entry with fewer cells than others in its column does not compete for the best"
        )
    if any(entry.is_best for entry in entries):
        said.append(f"{best} best of a column" + (f", {second} second" if any(e.rank == 2 for e in entries) else ""))
    if table.sources and any(row in table.rows for row, _ in table.published):
        said.append(f"published: {'; '.join(table.sources)}, with the distance of ours")
    if table.without_figures:
        said.append(f"no published figures: their file has no column for {', '.join(table.without_figures)}")
    said += [UNLIKE] if table.compares_last else []
    said += _notes_on_crops(table) + _notes_on_figures(table) + _notes_on_pairs(table)
    said += _notes_on_tests([entry.comparison for entry in entries if entry.comparison], significant)
    if any(entry.odd for entry in entries):
        what = ", ".join(sorted(frozenset().union(*(entry.odd for entry in entries))))
        said.append(f"{odd} made differently from the rest of its row ({what}); see `rankmatch verify`")
    said += _note_on_steps([entry.left_out for entry in entries if entry.left_out])
    return said + [*table.row_notes] + ([table.settings] if table.settings else [])


def _note_on_incomplete(done: int, expected: int) -> str:
    are = "is" if done == 1 else "are"
    return (
        f"({done}/{expected}): {done} of {expected} cells {are} done; such an entry does not compete for the best of "
        "its column"
    )


def _note_on_steps(left_out: Sequence[tuple[int, int]]) -> list[str]:
    if (largest := largest_share(left_out)) is None:
        return []
    most = "{:,} of {:,} steps".format(*largest) + (" at most" if len(left_out) > 1 else "")
    return [f"{LEFT_OUT} a cell made no update at a step that was not finite (trainer.when_not_finite): {most}"]


def _notes_on_crops(table: Table) -> list[str]:
    """Explain published figures that were trained on crops of another size."""
    shown = {*table.rows, *table.other_rows}
    others = {
        figure.crop for (row, _), figure in table.published.items() if row in shown and table.is_other_crop(figure)
    }
    if not others:
        return []
    return [f"{OTHER_CROP} published with crop {' or '.join(map(str, sorted(filter(None, others))))}, not {table.crop}"]


def _notes_on_figures(table: Table) -> list[str]:
    """Say what the file of the published figures notes on some of them."""
    noted: dict[str, list[str]] = {}
    for row in dict.fromkeys([*table.rows, *table.other_rows]):
        notes_of_row = dict.fromkeys(figure.note for (of, _), figure in table.published.items() if of == row)
        for note in filter(None, notes_of_row):
            noted.setdefault(note, []).append(" ".join(map(table.name, table.row_axes, row)).strip())
    return [f"published {', '.join(rows)}: {note}" for note, rows in noted.items()]


def _notes_on_pairs(table: Table) -> list[str]:
    """Explain differences that are not those of the entries above them."""
    partly = {entry.pairs for entry in table.entries.values() if entry.pairs and not entry.is_all_paired}
    said = []
    if partly:
        n = min(partly)
        cells = "cell that both entries have" if n == 1 else f"{n} cells that both entries have"
        said.append(f"difference ({n}): the mean over the {cells}, which is not the difference of the two entries")
    if any(entry.pairs == 0 for entry in table.entries.values()):
        said.append(f"{NO_PAIRS}: the entry and the baseline have no cells in common")
    return said + _note_on_rows_without_baseline(table)


def _note_on_rows_without_baseline(table: Table) -> list[str]:
    """Name the rows that nothing is compared with, as the baseline has no row with the same values of their axes."""
    found: dict[Key, list[Place | None]] = {}
    for (row, _), entry in table.entries.items():
        if entry.estimate:
            found.setdefault(row, []).append(entry.against)
    alone = {row: wheres for row, wheres in found.items() if not any(where in table.entries for where in wheres)}
    same = ", ".join(axis for axis in table.row_axes if axis not in table.baseline) or "columns"
    lacking, divided = f"no row of {_baseline(table)} has the same {same}", "their cells have several baselines"
    return [
        f"not compared: {'; '.join(names)}: {why}"
        for why, is_so in ((lacking, False), (divided, True))
        if (names := [_row_name(table, row) for row, wheres in alone.items() if (None in wheres) == is_so])
    ]


def _row_name(table: Table, row: Key) -> str:
    return ", ".join(map(table.name, table.row_axes, row))


def _notes_on_tests(compared: Sequence[Comparison], significant: str) -> list[str]:
    """Say what was tested, and how the tests ended."""
    if not compared:
        return []
    if (most := max(made.n for made in compared)) < MIN_T:
        return [f"{most} {'pair' if most == 1 else 'pairs'} of cells at most: too few to test a difference"]
    said = []
    if any(not made.is_complete for made in compared):
        said.append("a difference is tested once all cells of both entries are done")
    if any(made.is_significant for made in compared):
        said.append(f"{significant} paired t test over the cells, p < 0.05 after Holm's correction over the table")
    elif any(made.is_complete for made in compared):
        said.append("no difference is significant (paired t test over the cells, Holm's correction over the table)")
    return said


def percent(fraction: float, digits: int) -> float:
    """Turn a fraction into a rounded percentage that is never -0.0."""
    return round(100 * fraction, digits) + 0.0


def p_value(p: float | None) -> str:
    """Write a p-value with three decimals, but none as 0."""
    return "" if p is None else f"{p:.3f}" if p >= LEAST_P else f"<{LEAST_P:.3f}"


def _baseline(table: Table) -> str:
    return ", ".join(table.name(axis, value) for axis, value in table.baseline.items())


def _wide(table: Table, title: str) -> list[str]:
    return [title, *[""] * (len(table.row_axes) - 1)]


def _shown(entry: Entry | None, with_n: bool) -> Shown:
    if entry is None or entry.estimate is None:
        return Shown(DASH if entry is None or entry.is_begun else NOT_RUN)
    made = entry.estimate
    spread = "" if made.std is None else f" ± {100 * made.std:.1f}"
    n = f" ({made.n})" if with_n else ""
    if made.n != entry.expected:
        n = f" ({made.n}/{entry.expected})"
    step = f" {LEFT_OUT}" if entry.left_out else ""
    return Shown(f"{100 * made.mean:.1f}{spread}{n}{step}", entry.rank, is_odd=bool(entry.odd))


def _gain(entry: Entry | None) -> Shown:
    if entry is None or entry.pairs is None:
        return Shown("")
    if entry.comparison is None:
        return Shown(NO_PAIRS)
    n = "" if entry.is_all_paired else f" ({entry.pairs})"
    return Shown(f"{percent(entry.comparison.effect, 1):+.1f}{n}", is_significant=entry.comparison.is_significant)


def _published(entry: Entry | None, figure: Figure, table: Table) -> str:
    text = f"{100 * figure.value:.1f}" + (OTHER_CROP if table.is_other_crop(figure) else "")
    if entry is None or entry.estimate is None:
        return text
    return f"{text} ({percent(entry.estimate.mean - figure.value, 1):+.1f})"
