"""Compare two runs, or two grids: settings, curves, classes and provenance."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestration.grids import grid, index
from orchestration.grids.cells import from_yaml, to_yaml
from orchestration.grids.values import flatten
from orchestration.machine import announce, yaml_text
from orchestration.machine.damage import tell
from orchestration.results import run_table
from orchestration.runs import made_with, store
from orchestration.runs.folders import CellFolder
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.tables import comparisons
from orchestration.tables.lines import p_value
from orchestration.tables.table import DASH

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
MAX_CELLS = 40
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run with everything to compare."""

    folder: RunFolder
    varied: Mapping[str, Mapping[str, str]]
    """The axes of its grid's cells, as `index.known_axes` returns them."""

    @cached_property
    def axes(self) -> dict[str, str]:
        """The cell's axes."""
        return index.axes(self.folder, self.varied)

    @cached_property
    def settings(self) -> dict[str, str]:
        """The configuration, by full name, with the fields that its file lacks since they have their neutral value."""
        text = self.folder.config()
        with suppress(ValueError):  # of a newer version: its fields as they stand
            text = to_yaml(from_yaml(text), whole=True)
        return {name: str(value) for name, value in flatten(yaml_text.parse(text)).items()}

    @cached_property
    def result(self) -> Row:
        """The result; empty if there is none."""
        return self.folder.result() or {}

    @cached_property
    def epochs(self) -> list[Row]:
        """The epoch rows."""
        return self.folder.epochs()

    @cached_property
    def provenance(self) -> dict[str, str]:
        """The provenance, flattened."""
        return dict(made_with.flat(self.folder.look().provenance))

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, if the configuration has them."""
        tree = yaml_text.parse(self.folder.config())
        return list(tree.get("execution", {}).get("class_names", []))


Pair = tuple[Run, Run]


def resolve(word: str, runs: Path) -> Path:
    """Find a grid or a run by its path, a grid's name, a signature or a part of a run's name.

    Raises:
        ValueError: Nothing matches, or several runs do.
    """
    name = grid.name_of(Path(word)) if grid.is_path(word) else word
    for path in (Path(word), runs / name):
        if CellFolder(path).config_file.is_file() or folders(path):
            return store.as_a_grid_has_it(path) if CellFolder(path).config_file.is_file() else path.resolve()
    found = [run for run in run_table.find(runs) if word in run.rpartition("/")[2]]
    if len(found) == 1:
        return CellFolder(runs / found[0]).whole_path
    grids = ", ".join(sorted({str(CellFolder(Path(run)).grid.path) for run in run_table.find(runs)}))
    means = f"which means {len(found)} runs: {', '.join(found[:4])}" if found else f"grids below {runs} are {grids}"
    raise ValueError(f"A and B must each be a grid, a signature or a part of one run's name; got {word!r}, {means}")


def compare(a: Path, b: Path, console: Console, metrics: Sequence[str], kind: str, output: Path | None) -> None:
    """Print how two runs or two grids differ; also write their curves to a file, if one is given.

    Raises:
        ValueError: A run is compared with a grid, grids cannot be paired, or a metric or a format is unknown.
    """
    if output is not None or kind:
        run_table.check_kind(kind)
        if output is None:
            raise ValueError("--output must name a file where --format is given; got nothing")
    is_run = [CellFolder(path).config_file.is_file() for path in (a, b)]
    if is_run[0] != is_run[1]:
        raise ValueError(f"A and B must be two runs or two grids; {a.name} and {b.name} are one of each")
    pairs = [(_alone(a), _alone(b))] if is_run[0] else _paired(a, b, console)
    _print_lines(console, [f"A  {_place(a)}", f"B  {_place(b)}"])
    _print_settings(pairs, console)
    if not is_run[0]:
        _print_cells(pairs, console)
    _print_curves(pairs, metrics, console)
    _print_classes(pairs, console)
    _print_provenance(pairs, console)
    if output is not None:
        rows = curve_rows(pairs)
        run_table.export(run_table.from_rows(rows), kind, output)
        _print_lines(console, ["", f"{len(rows)} rows: {output}"])


def _alone(path: Path) -> Run:
    folder = RunFolder(path)
    return Run(folder, index.known_axes(folder.grid.path))


def _paired(a: Path, b: Path, console: Console) -> list[Pair]:
    """Pair the runs of two grids that agree in all common axes."""
    sides = [_readable(path) for path in (a, b)]
    shared = [axis for axis in sides[0][0].axes if all(axis in run.axes for side in sides for run in side)]
    keyed: list[dict[tuple[str, ...], Run]] = []
    for path, side in zip((a, b), sides, strict=True):
        keyed.append({tuple(run.axes[axis] for axis in shared): run for run in side})
        if len(keyed[-1]) < len(side):
            raise ValueError(
                f"the axes that A and B share ({', '.join(shared) or 'none'}) must tell the runs of {path} apart; "
                f"{len(side)} runs have {len(keyed[-1])} values"
            )
    pairs = [(run, keyed[1][key]) for key, run in sorted(keyed[0].items(), key=itemgetter(0)) if key in keyed[1]]
    if not pairs:
        raise ValueError(f"A and B must have runs in common, by {', '.join(shared) or 'axes that both have'}; got none")
    for name, mine, other in (("A", keyed[0], keyed[1]), ("B", keyed[1], keyed[0])):
        if alone := [" ".join(key) for key in sorted(mine) if key not in other]:
            _print_lines(console, [f"only in {name}: {len(alone)} ({'; '.join(alone[:5])})"])
    return pairs


def _readable(grid_dir: Path) -> list[Run]:
    """Return the runs of a grid; skip unreadable ones with a warning."""
    found, varied = [], index.known_axes(grid_dir)
    for folder in folders(grid_dir).values():
        run = Run(folder, varied)
        try:
            found += [run] if (run.axes, run.settings, run.result) else []
        except (ValueError, OSError) as error:
            tell(error)
    if not found:
        raise ValueError(f"{grid_dir} must have a run whose files can be read; it has none")
    return found


def differences(pairs: Iterable[tuple[Mapping[str, str], Mapping[str, str]]]) -> dict[tuple[str, str, str], int]:
    """Count the pairs by a field's values in A and B; `DASH` if a side has none."""
    found: Counter[tuple[str, str, str]] = Counter()
    for ours, others in pairs:
        for name in dict.fromkeys([*ours, *others]):
            values = ours.get(name, DASH), others.get(name, DASH)
            if values[0] != values[1]:
                found[name, *values] += 1
    return dict(sorted(found.items()))


def _print_settings(pairs: Sequence[Pair], console: Console) -> None:
    found = differences((ours.settings, others.settings) for ours, others in pairs)
    _print_differences("settings", found, len(pairs), console)


def _print_provenance(pairs: Sequence[Pair], console: Console) -> None:
    found = differences((ours.provenance, others.provenance) for ours, others in pairs)
    _print_differences("made with", found, len(pairs), console)


def _print_differences(title: str, found: Mapping[tuple[str, str, str], int], num_pairs: int, console: Console) -> None:
    if not found:
        _print_lines(console, ["", f"{title}: the same"])
        return
    drawn = _drawn(["", "A", "B", *(["pairs"] if num_pairs > 1 else [])])
    for (name, ours, others), count in found.items():
        texts = [name.removeprefix("numerics."), _short(ours), _short(others)]
        drawn.add_row(*map(Text, texts), *([f"{count} of {num_pairs}"] if num_pairs > 1 else []))
    _show(title, drawn, console)


def _print_cells(pairs: Sequence[Pair], console: Console) -> None:
    drawn = _drawn(["cell", "A", "B", "B - A"], numbers=True)
    numbers: list[dict[str, float]] = [{}, {}]
    for place, (ours, others) in enumerate(pairs):
        best = [run.result.get("best_miou") for run in (ours, others)]
        known = [float(value) for value in best if value is not None]
        gain = f"{100 * (known[1] - known[0]):+.1f}" if len(known) == len(best) else ""
        if gain:
            for side, value in zip(numbers, known, strict=True):
                side[str(place)] = value
        if place < MAX_CELLS:
            name = " ".join(value for key, value in ours.axes.items() if others.axes.get(key) == value)
            drawn.add_row(Text(name), *(DASH if value is None else f"{100 * value:.1f}" for value in best), gain)
    _show("best mIoU, %", drawn, console)
    made = comparisons.compare(numbers[1], numbers[0])
    if made is not None:
        p = "" if made.p_t is None else f", p of the paired t test {p_value(made.p_t)}"
        few = f"; {comparisons.TOO_FEW}" if made.n < comparisons.MIN_T else ""
        _print_lines(console, [f"B - A over {made.n} pairs: {100 * made.effect:+.2f} points{p}{few}"])


def curves(pairs: Sequence[Pair], metric: str) -> list[list[float | None]]:
    """Return A's and B's means of a metric over the pairs, by epoch from 1; None if no run has that epoch."""
    sides = []
    for runs in zip(*pairs, strict=True):
        by_epoch: dict[int, list[float]] = {}
        for run in runs:
            for row in run.epochs:
                if row.get(metric) is not None:
                    by_epoch.setdefault(int(row["epoch"]), []).append(row[metric])
        last = max(by_epoch, default=0)
        sides.append([fmean(by_epoch[epoch]) if epoch in by_epoch else None for epoch in range(1, last + 1)])
    return sides


def sparkline(values: Sequence[float | None], low: float, high: float, num_epochs: int, width: int = WIDTH) -> str:
    """Draw a curve over `num_epochs` epochs as a line of bars; each bar is a mean over epochs, gaps are spaces."""
    width = min(width, num_epochs)
    bars = []
    for place in range(width):
        part = values[place * num_epochs // width : (place + 1) * num_epochs // width]
        known = [value for value in part if value is not None]
        share = (fmean(known) - low) / (high - low) if known and high > low else 0.5
        bars.append(BARS[min(int(share * len(BARS)), len(BARS) - 1)] if known else " ")
    return "".join(bars)


def _print_curves(pairs: Sequence[Pair], metrics: Sequence[str], console: Console) -> None:
    known = {name for pair in pairs for run in pair for row in run.epochs[:1] for name in row}
    known -= {"step", "time", "epoch", "num_epochs", "num_steps"}
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"--metric must be one of {', '.join(sorted(known))}; got {metric!r}")
    pairs, mean = _for_curves(pairs)
    drawn = _drawn(["", "", "", "first", "last", "lowest", "highest"])
    for metric in metrics:
        sides = curves(pairs, metric)
        values = [value for side in sides for value in side if value is not None]
        if not values:
            continue
        num_epochs = max(map(len, sides))
        for name, side in zip("AB", sides, strict=True):
            own = [value for value in side if value is not None]
            ends = [own[0], own[-1], min(own), max(own)] if own else []
            line = sparkline(side, min(values), max(values), num_epochs)
            drawn.add_row(Text(metric if name == "A" else ""), name, line, *(f"{value:.3f}" for value in ends))
    _show(f"curves by epoch{mean}", drawn, console)


def _for_curves(pairs: Sequence[Pair]) -> tuple[Sequence[Pair], str]:
    """Choose the pairs to average curves over: those of two finished runs, so that both sides have the same seeds."""
    if len(pairs) == 1:
        return pairs, ""
    done = [pair for pair in pairs if all(run.result for run in pair)]
    if not done:
        return pairs, f", mean over what there is of {len(pairs)} pairs, none of them done: A and B may differ in runs"
    among = (
        f"{len(done)} of {len(pairs)} pairs, those that are done" if len(done) < len(pairs) else f"{len(done)} pairs"
    )
    return done, f", mean over {among}"


def curve_rows(pairs: Sequence[Pair]) -> list[Row]:
    """Return all epoch rows of both sides, with side, run and axes."""
    rows = []
    for pair in pairs:
        for side, run in zip("AB", pair, strict=True):
            named = {"side": side, "run": run.folder.path.name, **run.axes}
            rows += [named | row for row in run.epochs]
    return rows


def _print_classes(pairs: Sequence[Pair], console: Console) -> None:
    done = [pair for pair in pairs if all("best_class_iou" in run.result for run in pair)]
    lengths = {len(run.result["best_class_iou"]) for pair in done for run in pair}
    if not done or len(lengths) > 1:
        why = "another number of classes" if done else "no pair is done"
        _print_lines(console, ["", f"IoU of classes: not compared, {why}"])
        return
    names = done[0][0].class_names or [str(number) for number in range(lengths.pop())]
    found = []
    for number, name in enumerate(names):
        known = [values for pair in done if None not in (values := _ious(pair, number))]
        if known:
            ours, others = map(fmean, zip(*known, strict=True))
            found.append((others - ours, name, ours, others))
    drawn = _drawn(["class", "A", "B", "B - A"], numbers=True)
    for gain, name, ours, others in sorted(found, key=lambda row: (-abs(row[0]), row[1])):
        drawn.add_row(Text(name), f"{100 * ours:.1f}", f"{100 * others:.1f}", f"{100 * gain:+.1f}")
    _show("IoU of classes at the best epoch, %, largest difference first", drawn, console)


def _ious(pair: Pair, number: int) -> list[float | None]:
    """Return both runs' IoU of each class; None if no label shows the class."""
    return [run.result["best_class_iou"][number] for run in pair]


def _drawn(header: Sequence[str], *, numbers: bool = False) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(header):
        drawn.add_column(name, justify="right" if numbers and place else "left")
    return drawn


def _show(title: str, drawn: RichTable, console: Console) -> None:
    console.print(Text(f"\n{title}", "bold"))
    console.print(drawn)


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        announce.say(console, line)


def _place(path: Path) -> str:
    cell = CellFolder(path)
    return str(path.relative_to(cell.grid.runs.path)) if cell.is_in_grid else path.name


def _short(text: str) -> str:
    is_hash = len(text) >= 40 and all(mark in "0123456789abcdef" for mark in text)
    return text[:12] if is_hash else text
