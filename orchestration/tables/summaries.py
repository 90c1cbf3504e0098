"""Summarise each row of a table over its columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestration.tables import comparisons
from orchestration.tables.estimates import interquartile_mean, probability_of_improvement
from orchestration.tables.table import Key, Table


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary statistics of a table row."""

    row: Key
    mean_rank: float | None
    """Mean rank over the columns in which every row has a competing entry; 1 is the best."""
    num_ranked: int
    """Number of these columns."""
    interquartile_mean: float | None
    """Interquartile mean over all numbers of the row."""
    probability_of_improvement: float | None
    """Probability that a number exceeds one of the baseline in its column, mean over columns; None for the baseline."""


def summaries(table: Table) -> list[Summary]:
    """Summarise each row over the columns: ranks, interquartile mean, probability of improvement."""
    whole = [column for column in table.columns if all(_competes(table, row, column) for row in table.rows)]
    ranks: dict[Key, list[float]] = {row: [] for row in table.rows}
    for column in whole:
        means = {str(place): _mean(table, row, column) or 0.0 for place, row in enumerate(table.rows)}
        for row, rank in zip(table.rows, comparisons.ranks(means).values(), strict=True):
            ranks[row].append(rank)
    return [_summary(table, row, ranks[row]) for row in table.rows]


def _summary(table: Table, row: Key, ranks: Sequence[float]) -> Summary:
    numbers: dict[str, float] = {}
    chances: list[float] = []
    for column in table.columns:
        entry = table.entries.get((row, column))
        if not entry or not entry.values:
            continue
        numbers |= entry.values  # a cell that does not read the columns' axes is one number, not one in each column
        other = table.entries.get(entry.against) if entry.against else None
        if other and other.values and entry.against != (row, column):
            chances.append(probability_of_improvement(list(entry.values.values()), list(other.values.values())))
    return Summary(
        row,
        sum(ranks) / len(ranks) if ranks else None,
        len(ranks),
        interquartile_mean(list(numbers.values())) if numbers else None,
        sum(chances) / len(chances) if chances else None,
    )


def _competes(table: Table, row: Key, column: Key) -> bool:
    entry = table.entries.get((row, column))
    return entry is not None and entry.competes


def _mean(table: Table, row: Key, column: Key) -> float | None:
    entry = table.entries.get((row, column))
    return entry.estimate.mean if entry and entry.estimate else None
