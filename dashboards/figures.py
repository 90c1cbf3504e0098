"""The figures of a grid: Arrow tables of its runs and epochs, from `gathered` -> panels to draw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboards import palette
from dashboards.panels import Heat, Line, Lines, evenly
from orchestration.tables import row_marks
from orchestration.tables.layouts import Layout
from orchestration.tables.table import Figure, Key, Table

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

SPLIT = "split"
METRICS = {
    "miou": ("mIoU (%)", 100.0, 1),
    "loss": ("loss", 1.0, 3),
    "mask_ratio": ("mask ratio (%)", 100.0, 1),
    "pseudo_label_accuracy": ("pseudo-label accuracy (%)", 100.0, 1),
    "zero_agent_share": ("zero agents (%)", 100.0, 1),
}
"""What is drawn over epochs: title, factor and decimals. Terms of the loss come after `loss`."""
_TERM = "loss_"
Record = Mapping[str, Any]


def labels(table: Table, num_labeled: Mapping[str, int]) -> list[Lines]:
    """Return mIoU against the number of labels, ours and the published figures; a panel for each block.

    Args:
        table: The grid's table, with its published figures. Without a `split` column axis, the last one is the x axis.
        num_labeled: The number of labels of splits whose names do not say it.
    """
    axes = table.column_axes
    place = axes.index(SPLIT) if SPLIT in axes else len(axes) - 1
    groups: dict[Key, list[Key]] = {}
    for column in table.columns:
        groups.setdefault(_without(column, place), []).append(column)
    names = {axis: dict(table.names.get(axis, {})) for axis in axes}
    return [
        _labels_panel(table, number, key, columns, place, num_labeled, names)
        for number, (key, columns) in enumerate(groups.items())
    ]


def curves(points: "pa.Table", epochs: "pa.Table", layout: Layout, metric: str) -> list[Lines]:
    """Return a number over epochs, mean and spread over the cells of an entry: a panel for each column of the table.

    Args:
        points: A row for each point of the grid, with its axes and `folder`.
        epochs: A row for each epoch of each run, with `run`, a folder.
        layout: The axes of rows and columns.
        metric: A key of `METRICS`, or a term of the loss.
    """
    title, factor, digits = title_of(metric)
    records, axes = points.to_pylist(), column_axes(layout)
    rows, columns = _values(records, layout.rows), _values(records, axes)
    if metric not in epochs.column_names:
        return []
    found = _means(records, epochs, metric, lambda record: (_key(record, layout.rows), _key(record, axes)))
    panels = []
    for number, column in enumerate(columns):
        lines = [
            _curve(label_of(layout, layout.rows, row), style, factor, found[row, column])
            for style, row in enumerate(rows)
            if (row, column) in found
        ]
        if lines:
            name = label_of(layout, axes, column) or title
            panels.append(Lines(f"curve-{metric}-{number}", name, "epoch", title, lines, [], digits=digits))
    return panels


def singles(
    points: "pa.Table", epochs: "pa.Table", layout: Layout, metric: str, over: Sequence[str], most: int
) -> list[Lines]:
    """Return what `curves` does for each single run: panels of the same titles, a line for each run.

    Args:
        points: As in `curves`.
        epochs: As in `curves`.
        layout: As in `curves`.
        metric: As in `curves`.
        over: The axes that tell the runs of a place apart.
        most: The largest number of epochs to draw.
    """
    title, factor, digits = title_of(metric)
    records, axes = points.to_pylist(), column_axes(layout)
    if metric not in epochs.column_names:
        return []
    by_run, rows = _by_run(epochs, metric), _values(records, layout.rows)
    panels = []
    for number, column in enumerate(_values(records, axes)):
        lines = []
        for record in records:
            epoch, value = by_run.get(record["folder"], ((), ()))
            if _key(record, axes) != column or not len(epoch):
                continue
            places = [int(place) for place in evenly(list(range(len(epoch))), most)]
            row = _key(record, layout.rows)
            label = ", ".join(filter(None, (label_of(layout, layout.rows, row),
                                            label_of(layout, over, _key(record, over)))))  # fmt: skip
            x, mean = [float(epoch[place]) for place in places], [factor * float(value[place]) for place in places]
            lines.append(Line(label, rows.index(row), x, [*mean], [None] * len(x), [1] * len(x)))
        if lines:
            name = label_of(layout, axes, column) or title
            panels.append(Lines(f"single-{metric}-{number}", name, "epoch", title, lines, [], digits=digits))
    return panels


def metrics_of(epochs: "pa.Table") -> list[str]:
    """Return the metrics that can be drawn over epochs, in order."""
    terms = sorted(name for name in epochs.column_names if name.startswith(_TERM))
    ordered = [name for metric in METRICS for name in ([metric, *terms] if metric == "loss" else [metric])]
    return [name for name in ordered if name in epochs.column_names and epochs[name].null_count < epochs.num_rows]


def title_of(metric: str) -> tuple[str, float, int]:
    """Return the title of a metric, its factor and its decimals."""
    return METRICS.get(metric) or (f"loss term {metric.removeprefix(_TERM)}", 1.0, 4)


def classes(points: "pa.Table", layout: Layout, class_names: Sequence[str]) -> list[Heat]:
    """Return the IoU of each class at the best epoch, mean over the finished cells: a panel for each column."""
    records, axes = points.to_pylist(), column_axes(layout)
    rows, panels = _values(records, layout.rows), []
    for number, column in enumerate(_values(records, axes)):
        of_column = [record for record in records if _key(record, axes) == column and record["best_class_iou"]]
        by_row = {row: [record["best_class_iou"] for record in of_column if _key(record, layout.rows) == row]
                  for row in rows}  # fmt: skip
        known = [row for row in rows if by_row[row]]
        if not known:
            continue
        means = [_mean_of_lists(by_row[row]) for row in known]
        num = max(map(len, means))
        names = [class_names[place] if place < len(class_names) else str(place) for place in range(num)]
        values: list[list[float | str | None]] = [
            [mean[place] if place < len(mean) else None for mean in means] for place in range(num)
        ]
        titles = [label_of(layout, layout.rows, row) or "mIoU" for row in known]
        name = label_of(layout, axes, column) or "all cells"
        panels.append(Heat(f"classes-{number}", name, ", ".join(layout.rows), "class", titles, names, values))
    return panels


def states(points: "pa.Table", layout: Layout, axes: Sequence[str]) -> list[Heat]:
    """Return the state of each cell over the axes of the grid; if rows and columns tell all, one panel a block."""
    records, columns = points.to_pylist(), column_axes(layout)
    over = [axis for axis in axes if axis not in (*layout.rows, *columns)]
    across = over if len(_values(records, over)) > 1 else list(layout.columns)
    split_by = [axis for axis in columns if axis not in across]
    rows, panels = _values(records, layout.rows), []
    for number, group in enumerate(_values(records, split_by)):
        inside = [record for record in records if _key(record, split_by) == group]
        found = {(_key(record, layout.rows), _key(record, across)): record["status"] for record in inside}
        places = _values(inside, across)
        values: list[list[float | str | None]] = [[found.get((row, place)) for place in places] for row in rows]
        panels.append(
            Heat(
                f"states-{number}",
                label_of(layout, split_by, group) or "all cells",
                ", ".join(across),
                ", ".join(layout.rows) or "grid",
                [_named(layout, across, place) or "all" for place in places],
                [_named(layout, layout.rows, row) or "all" for row in rows],
                values,
            )
        )
    return panels


def column_axes(layout: Layout) -> list[str]:
    """Return the axes of columns, those of the blocks first."""
    return [*layout.blocks, *layout.columns]


def label_of(layout: Layout, axes: Sequence[str], key: Key) -> str:
    """Name a row or a column; methods and backbones by their values alone."""
    texts = []
    for axis, value in zip(axes, key, strict=True):
        name = layout.names.get(axis, {}).get(value)
        texts.append(name or (value if axis in ("method", "backbone", "dataset") else f"{axis}={value}"))
    return ", ".join(texts)


def _named(layout: Layout, axes: Sequence[str], key: Key) -> str:
    return ", ".join(layout.names.get(axis, {}).get(value, value) for axis, value in zip(axes, key, strict=True))


def _labels_panel(
    table: Table,
    number: int,
    key: Key,
    columns: Sequence[Key],
    place: int,
    num_labeled: Mapping[str, int],
    names: Mapping[str, Mapping[str, str]],
) -> Lines:
    axes = table.column_axes
    values = [column[place] if axes else "" for column in columns]
    x, is_log = _places(values, num_labeled) if axes and axes[place] == SPLIT else _ordered(values)
    by_column = dict(zip(columns, x, strict=True))
    lines = []
    others = {row: palette.other_style(number) for number, row in enumerate(table.other_rows)}
    for style, row in [*enumerate(table.rows), *((style, row) for row, style in others.items())]:
        label = ", ".join(table.name(axis, value) for axis, value in zip(table.row_axes, row, strict=True)) or "mIoU"
        lines += _row_lines(table, row, by_column, style, label)
    more = [axis for spot, axis in enumerate(axes) if spot != place]
    title = ", ".join(names[axis].get(value, f"{axis}={value}") for axis, value in zip(more, key, strict=True))
    axis = axes[place] if axes else ""
    x_title = ("number of labels" if is_log else "split") if axis == SPLIT else axis or "grid"
    ticks = sorted({(spot, _tick(value, spot, is_log)) for value, spot in zip(values, x, strict=True)})
    return Lines(f"labels-{number}", title or "all cells", x_title, "mIoU (%)", lines, ticks, is_log, has_bars=True)


def _row_lines(table: Table, row: Key, by_column: Mapping[Key, float], style: int, label: str) -> list[Line]:
    """Return the curve of a row and, if there is one, the published curve."""
    entries = [(x, table.entries.get((row, column))) for column, x in by_column.items()]
    ours = sorted((x, entry.estimate) for x, entry in entries if entry and entry.estimate) if entries else []
    found = []
    if ours:
        spread = [None if made.std is None else 100 * made.std for _, made in ours]
        means: list[float | None] = [100 * made.mean for _, made in ours]
        marks = row_marks.words(table.row_marks.get(row, ""))
        marks += [row_marks.LEFT_OUT_WORDS] if any(entry and entry.left_out for _, entry in entries) else []
        name = f"{label} ({', '.join(marks)})" if marks else label
        found.append(Line(name, style, [x for x, _ in ours], means, spread, [made.n for _, made in ours]))
    figures = [(x, table.published.get((row, column))) for column, x in by_column.items()]
    said = sorted((x, 100 * figure.value) for x, figure in figures if figure)
    if said:
        nothing: list[float | None] = [None] * len(said)
        name = f"{label}, published{_other_crops([figure for _, figure in figures if figure], table)}"
        found.append(Line(name, style, [x for x, _ in said], [y for _, y in said], nothing, [1] * len(said), True))
    return found


def _other_crops(figures: Sequence[Figure], table: Table) -> str:
    """Say at a published curve with which crops it was trained, if these are not ours."""
    others = [figure.crop for figure in figures if table.is_other_crop(figure)]
    if not others:
        return ""
    crops = " or ".join(map(str, sorted({crop for crop in others if crop})))
    return f" ({'partly ' if len(others) < len(figures) else ''}crop {crops})"


def _places(splits: Sequence[str], num_labeled: Mapping[str, int]) -> tuple[list[float], bool]:
    """Return the x positions of splits: their numbers of labels if all are known, else their order."""
    counts = [num_labeled.get(split) or (int(split) if split.isdigit() else 0) for split in splits]
    return ([float(count) for count in counts], True) if all(counts) else _ordered(splits)


def _ordered(values: Sequence[str]) -> tuple[list[float], bool]:
    return [float(number) for number in range(1, len(values) + 1)], False


def _tick(value: str, place: float, is_log: bool) -> str:
    return f"{place:g}" if is_log else value


def _without(key: Key, place: int) -> Key:
    return key[:place] + key[place + 1 :] if key else key


def _key(record: Record, axes: Sequence[str]) -> Key:
    return tuple(str(record[axis]) for axis in axes)


def _values(records: Sequence[Record], axes: Sequence[str]) -> list[Key]:
    return list(dict.fromkeys(_key(record, axes) for record in records))


def _mean_of_lists(lists: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the mean of each place over the lists that have a number there."""
    means: list[float | None] = []
    for place in range(max(map(len, lists))):
        numbers = [one[place] for one in lists if place < len(one)]
        known = [number for number in numbers if number is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


Statistics = tuple["npt.NDArray[Any]", "npt.NDArray[Any]", "npt.NDArray[Any]", "npt.NDArray[Any]"]
"""Epoch, mean, standard deviation (NaN for a single number) and number of cells."""


def _means(records: Sequence[Record], epochs: "pa.Table", metric: str, place_of: Any) -> dict[Any, Statistics]:  # noqa: ANN401
    """Average a column of the epochs by place and epoch, over the cells of the place."""
    places = {place: number for number, place in enumerate(dict.fromkeys(map(place_of, records)))}
    folders: dict[str, list[int]] = {}
    for record in records:  # a cell may be at several points
        folders.setdefault(record["folder"], []).append(places[place_of(record)])
    runs = epochs["run"].combine_chunks().cast("string").dictionary_encode()
    indices, names = runs.indices.to_numpy(zero_copy_only=False), runs.dictionary.to_pylist()
    epoch = epochs["epoch"].to_numpy().astype(np.int64)
    value = epochs[metric].to_numpy().astype(np.float64)
    width = int(epoch.max(initial=0)) + 1
    count, total, square = (np.zeros((len(places), width)) for _ in range(3))
    is_known = np.isfinite(value)
    for nth in range(max(map(len, folders.values()), default=0)):
        owner = np.array([(folders.get(name, [])[nth : nth + 1] or [-1])[0] for name in names], np.int64)[indices]
        kept = is_known & (owner >= 0)
        where = owner[kept], epoch[kept]
        np.add.at(count, where, 1)
        np.add.at(total, where, value[kept])
        np.add.at(square, where, value[kept] ** 2)
    return {
        place: _statistics(count[row], total[row], square[row]) for place, row in places.items() if count[row].any()
    }


def _by_run(epochs: "pa.Table", metric: str) -> dict[str, tuple["npt.NDArray[Any]", "npt.NDArray[Any]"]]:
    """Return the epochs at which a number of a run is known, and the number, by the run's folder."""
    runs = epochs["run"].combine_chunks().cast("string").dictionary_encode()
    index, names = runs.indices.to_numpy(zero_copy_only=False), runs.dictionary.to_pylist()
    epoch, value = (epochs[name].to_numpy().astype(np.float64) for name in ("epoch", metric))
    known = np.isfinite(value)
    index, epoch, value = index[known], epoch[known], value[known]
    order = np.lexsort((epoch, index))
    index, epoch, value = index[order], epoch[order], value[order]
    bounds = np.searchsorted(index, np.arange(len(names) + 1))
    return {name: (epoch[begin:end], value[begin:end])
            for name, begin, end in zip(names, bounds[:-1], bounds[1:], strict=True)}  # fmt: skip


def _statistics(count: "npt.NDArray[Any]", total: "npt.NDArray[Any]", square: "npt.NDArray[Any]") -> Statistics:
    kept = np.flatnonzero(count)
    n = count[kept]
    mean = total[kept] / n
    variance = np.maximum(square[kept] - n * mean**2, 0) / np.where(n > 1, n - 1, 1)
    return kept, mean, np.where(n > 1, np.sqrt(variance), np.nan), n.astype(int)


def _curve(label: str, style: int, factor: float, found: Statistics) -> Line:
    epoch, mean, spread, n = found
    known = [None if np.isnan(value) else factor * value for value in spread.tolist()]
    return Line(label or "all cells", style, [float(one) for one in epoch], [factor * one for one in mean.tolist()],
                known, n.tolist())  # fmt: skip
