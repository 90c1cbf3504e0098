"""The results of a search as numbers and text: its best points, and the importance of each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestration.tables.formats import markdown_rows

DASH = "—"
DONE, OUTPERFORMED, FAILED = "done", "outperformed", "failed"
SETTLED = (DONE, OUTPERFORMED, FAILED)
"""The state of a point that was stopped."""
_ORDER = (DONE, OUTPERFORMED)
_WORDS = {OUTPERFORMED: "stopped"}


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a search."""

    cell: str
    """Name of its run folder."""
    values: Mapping[str, str]
    """The searched settings, as text."""
    status: str
    """`outperformed`, or the state of its run folder."""
    mious: tuple[float | None, ...] = ()
    """On the held-out part, after each epoch; fractions."""
    signature: str = ""
    """Signature of its configuration."""

    @property
    def miou(self) -> float | None:
        """After the last epoch."""
        return self.mious[-1] if self.mious else None


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of the variance of the mIoU each setting explains."""

    epoch: int
    """The epoch whose mIoU is used: the last one that all these points reached."""
    num_points: int
    shares: Mapping[str, float]
    """The share of each setting, 1 in total; empty if too few points differ."""


def ranked(points: Sequence[Point]) -> list[Point]:
    """Order points: finished ones by their mIoU, then stopped ones by how far they came, then the others."""
    return sorted(points, key=_rank)


def _rank(point: Point) -> tuple[int, int, float]:
    place = _ORDER.index(point.status) if point.status in _ORDER else len(_ORDER)
    return place, -len(point.mious), -(point.miou if point.miou is not None else -1.0)


def comparable(points: Sequence[Point]) -> list[tuple[Point, float]]:
    """Return the finished and stopped points, each with its mIoU after the last epoch that all of them reached."""
    ended = [point for point in points if point.status in _ORDER and point.mious]
    epoch = min((len(point.mious) for point in ended), default=0)
    pairs = [(point, point.mious[epoch - 1]) for point in ended]
    return [(point, miou) for point, miou in pairs if miou is not None]


def rows(points: Sequence[Point], num_epochs: int) -> list[list[str]]:
    """Return a header and a line for each point, the best first."""
    keys = list(points[0].values) if points else []
    lines = [["place", *keys, "mIoU, %", "epochs", "", "cell"]]
    for place, point in enumerate(ranked(points), 1):
        miou = DASH if point.miou is None else f"{100 * point.miou:.1f}"
        epochs, status = f"{len(point.mious)} of {num_epochs}", _WORDS.get(point.status, point.status)
        lines.append([str(place), *point.values.values(), miou, epochs, status, point.signature])
    return lines


def importance_rows(importance: Importance) -> list[list[str]]:
    """Return a header and a line for each setting, the most important first."""
    shares = sorted(importance.shares.items(), key=lambda pair: -pair[1])
    return [["setting", "share, %"], *([key, f"{100 * share:.0f}"] for key, share in shares)]


def warning(held_out: float, held_out_from: str) -> str:
    """Say on which images the figures were computed."""
    return (
        f"mIoU after the last epoch that a point was trained, on {100 * held_out:g} % of the {held_out_from} training "
        "images, which no point was trained on. These figures are of that held-out part, not of the validation list: "
        "they are not comparable with the tables."
    )


def importance_note(importance: Importance) -> str:
    """Explain the shares, and the number of points behind them."""
    if not importance.shares:
        return "Importance: at least two points with different mIoU are needed."
    return (
        f"Importance: share of the variance of the mIoU after epoch {importance.epoch} (which all "
        f"{importance.num_points} points reached) that each setting explains, by fANOVA: a random forest over the "
        "points. Few points say little."
    )


def summary(points: Sequence[Point], num_samples: int) -> str:
    """Count the points by state."""
    statuses = [_WORDS.get(point.status, point.status) for point in points]
    counts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    return f"{len(points)} of {num_samples} points: {', '.join(counts) or 'none'}"


def to_markdown(
    title: str, points: Sequence[Point], num_samples: int, num_epochs: int, note: str, importance: Importance
) -> str:
    """Write the report of a search."""
    parts = [f"# {title}\n", f"{summary(points, num_samples)}.\n", f"{note}\n", "## Cells\n"]
    parts += [_markdown(rows(points, num_epochs)), "## Importance\n", f"{importance_note(importance)}\n"]
    return "\n".join([*parts, *([_markdown(importance_rows(importance))] if importance.shares else [])])


def show(
    points: Sequence[Point], num_samples: int, num_epochs: int, note: str, importance: Importance, console: Console
) -> None:
    """Print the results of a search."""
    console.print(_drawn(rows(points, num_epochs)))
    for text in (f"{summary(points, num_samples)}.", note):
        console.print(text, highlight=False, markup=False)
    console.print()
    if importance.shares:
        console.print(_drawn(importance_rows(importance)))
    console.print(importance_note(importance), highlight=False, markup=False)


def _drawn(lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in lines[0]:
        table.add_column(Text(column), justify="left" if column in ("", "cell", "setting") else "right")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    return table


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return markdown_rows([lines[0], ["---"] * len(lines[0]), *lines[1:]])
