"""Any two cells, or rows of cells, side by side: figures, curves, classes, settings and what they were made with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from urllib.parse import parse_qsl, unquote

from dashboards import figures
from dashboards.live import chart, links, places
from dashboards.live.cell_page import MOST_ROWS, class_names, metrics_of
from dashboards.live.grid_page import BadAddressError, Wanted, cell_side, read, row_side
from dashboards.live.watch import Look, Seen
from dashboards.panels import DASH, Line, Lines
from orchestration.grids.values import flatten
from orchestration.machine import yaml_text
from orchestration.machine.damage import DamagedFileError
from orchestration.runs import made_with
from orchestration.runs.run_folder import RunFolder, run_folder

MAX_CELLS, MAX_CHOICES, MAX_VALUES = 100, 500, 4
"""Cells of a side that are opened; what is offered to be compared; values of a setting that are named."""
SEED = "seed"
LookAt = Callable[[str], tuple[Path, Look]]
"""Gives the folder of a grid and how it stands."""


@dataclass(frozen=True, slots=True)
class Side:
    """Some cells of a grid."""

    text: str
    title: str
    cells: list[Seen]
    grid_dir: Path

    def folders(self) -> list[RunFolder]:
        """Return the folders of its cells, of many cells the first."""
        found = [run_folder(self.grid_dir, cell.folder) for cell in self.cells[:MAX_CELLS]]
        return [folder for folder in found if not links.out_of_cell(folder.path)]


def build(texts: Sequence[str], look_at: LookAt) -> dict[str, Any]:
    """Return all that a comparison page shows; with fewer than two sides, what can be chosen.

    Raises:
        BadAddressError: A side is neither a cell nor a row.
        NotThereError: Its grid or its cell does not exist.
    """
    given = [_side(text, look_at) for text in texts if text]
    page: dict[str, Any] = {"texts": texts, "sides": given, "choices": _choices(given, look_at), "compared": None}
    if len(given) == 2:
        page["compared"] = _compared(given[0], given[1])
    return page


def _side(text: str, look_at: LookAt) -> Side:
    name, mark, rest = text, "", ""
    for place, character in enumerate(text):
        if character in "/?":
            name, mark, rest = text[:place], character, text[place + 1 :]
            break
    if not mark:
        raise BadAddressError(f"A side must be GRID/SIGNATURE or GRID?axis=value&...; got {text!r}.")
    grid = unquote(name)
    grid_dir, look = look_at(grid)
    if mark == "?":
        wanted = read(parse_qsl(rest), look)
        cells = [cell for cell in look.cells if wanted.holds(cell)]
        return Side(text, _row_title(grid, wanted), cells, grid_dir)
    cells = [cell for cell in look.cells if rest in (cell.status.cell.signature, cell.folder)]
    if not cells:
        raise places.NotThereError(f"There is no cell {rest!r} in {grid}.")
    return Side(text, f"{grid}: {cells[0].status.cell.slug or rest}", cells, grid_dir)


def _row_title(grid: str, wanted: Wanted) -> str:
    words = [f"{axis}={','.join(values)}" for axis, values in wanted.values.items()]
    return f"{grid}: {' '.join([*words, *wanted.states]) or 'all cells'}"


def _choices(given: Sequence[Side], look_at: LookAt) -> list[tuple[str, str]]:
    """Return what the given side may be compared with: rows over the seeds, then cells, of the same grid."""
    if len(given) != 1:
        return []
    grid = given[0].grid_dir.name
    _, look = look_at(grid)
    rows: dict[tuple[tuple[str, str], ...], int] = {}
    for cell in look.cells:
        key = tuple((axis, value) for axis, value in cell.axes.items() if axis != SEED)
        rows[key] = rows.get(key, 0) + 1
    several = [(row_side(grid, {axis: [value] for axis, value in key}), _words(key) + f" ({count} cells)")
               for key, count in rows.items() if count > 1]  # fmt: skip
    single = [(cell_side(grid, cell.status.cell.signature), _words(tuple(cell.axes.items())) or cell.folder)
              for cell in look.cells]  # fmt: skip
    return [*several, *single][:MAX_CHOICES]


def _words(pairs: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"{axis}={value}" for axis, value in pairs)


def _compared(a: Side, b: Side) -> dict[str, Any]:
    rows = [[row for row in map(_epochs, side.folders()) if row] for side in (a, b)]
    panels = _curves((a, b), rows)
    results = [[result for folder in side.folders() if (result := _result(folder))] for side in (a, b)]
    names = next((found for side in (a, b) for folder in side.folders()[:1] if (found := _class_names(folder))), [])
    return {
        "numbers": [
            ("cells", *(str(len(side.cells)) for side in (a, b)), ""),
            *(_numbers(title, (a, b), name) for title, name in (("best mIoU", "best_miou"), ("last mIoU", "miou"))),
        ],
        "panels": [(panel, chart.svg(panel), panel.rows(MOST_ROWS)) for panel in panels],
        "classes": _classes(results, names),
        "settings": _differing([list(map(_settings, side.folders()[:20])) for side in (a, b)]),
        "made": _differing([[dict(made_with.flat(one.status.state.provenance)) for one in side.cells[:MAX_CELLS]]
                            for side in (a, b)]),
        "is_cut": any(len(side.cells) > MAX_CELLS for side in (a, b)),
    }  # fmt: skip


def _numbers(title: str, sides: Sequence[Side], name: str) -> tuple[str, str, str, str]:
    """Write mean and spread of both sides, and how far B is ahead."""
    values = [
        [100 * value for cell in side.cells if (value := getattr(cell.status.state, name)) is not None]
        for side in sides
    ]
    ahead = f"{fmean(values[1]) - fmean(values[0]):+.2f}" if all(values) else DASH
    return title, _spread(values[0]), _spread(values[1]), ahead


def _spread(values: Sequence[float]) -> str:
    if not values:
        return DASH
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f} ({len(values)})" if len(values) > 1 else "")


def _curves(sides: Sequence[Side], rows: Sequence[Sequence[Sequence[Mapping[str, Any]]]]) -> list[Lines]:
    every = [row for side in rows for cell in side for row in cell]
    found = []
    for metric in metrics_of(every):
        title, factor, digits = figures.title_of(metric)
        lines = [
            line
            for style, (side, cells) in enumerate(zip(sides, rows, strict=True))
            if (line := _line(f"{'AB'[style]}, {side.title}", style, metric, factor, cells)).x
        ]
        found.append(Lines(f"curve-{metric}", title, "epoch", title, lines, [], digits=digits))
    return found


def _line(label: str, style: int, metric: str, factor: float, cells: Sequence[Sequence[Mapping[str, Any]]]) -> Line:
    by_epoch: dict[float, list[float]] = {}
    for rows in cells:
        for row in rows:
            if row.get(metric) is not None:
                by_epoch.setdefault(float(row["epoch"]), []).append(factor * row[metric])
    ordered = sorted(by_epoch.items())
    spread = [stdev(values) if len(values) > 1 else None for _, values in ordered]
    return Line(label, style, [x for x, _ in ordered], [fmean(values) for _, values in ordered], spread,
                [len(values) for _, values in ordered])  # fmt: skip


def _classes(results: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return the mean IoU of each class of both sides and the difference, the largest first."""
    means: list[dict[int, float]] = []
    for side in results:
        values: dict[int, list[float]] = {}
        for result in side:
            for number, value in enumerate(result.get("best_class_iou") or ()):
                if value is not None:
                    values.setdefault(number, []).append(100 * value)
        means.append({number: fmean(found) for number, found in values.items()})
    both = sorted(means[0].keys() & means[1].keys(), key=lambda number: -abs(means[1][number] - means[0][number]))
    return [
        (names[number] if number < len(names) else str(number), f"{means[0][number]:.1f}", f"{means[1][number]:.1f}",
         f"{means[1][number] - means[0][number]:+.1f}") for number in both
    ]  # fmt: skip


def _differing(sides: Sequence[Sequence[Mapping[str, str]]]) -> list[tuple[str, str, str]]:
    """Return what differs between the two sides."""
    values: list[dict[str, list[str]]] = []
    for side in sides:
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys(name for one in side for name in one):
            found[name] = list(dict.fromkeys(one.get(name, DASH) for one in side))
        values.append(found)
    names = dict.fromkeys([*values[0], *values[1]])
    pairs = [(name, values[0].get(name, [DASH]), values[1].get(name, [DASH])) for name in names]
    return [(name.removeprefix("numerics."), _listed(ours), _listed(others)) for name, ours, others in pairs
            if set(ours) != set(others)]  # fmt: skip


def _listed(values: Sequence[str]) -> str:
    shown = [value[:12] if len(value) >= 40 and value.isalnum() else value for value in values[:MAX_VALUES]]
    return ", ".join(shown) + (f" and {len(values) - MAX_VALUES} more" if len(values) > MAX_VALUES else "")


def _epochs(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        return folder.epochs()
    except (OSError, ValueError):  # its own page says why
        return []


def _result(folder: RunFolder) -> dict[str, Any] | None:
    try:
        return folder.result()
    except (OSError, DamagedFileError):
        return None


def _config(folder: RunFolder) -> str:
    try:
        return folder.config()
    except (OSError, DamagedFileError):
        return ""


def _class_names(folder: RunFolder) -> list[str]:
    return class_names(_config(folder))


def _settings(folder: RunFolder) -> Mapping[str, str]:
    return _flat(_config(folder))


@lru_cache(maxsize=256)
def _flat(config: str) -> Mapping[str, str]:
    try:
        return {name: str(value) for name, value in flatten(yaml_text.parse(config)).items()} if config else {}
    except ValueError:
        return {}
