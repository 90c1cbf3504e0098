"""A launched grid, read from its folder: every cell that it was ever launched with."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestration.grids import adaptively, alike, grid, grid_spec, index, kept_lists, moved_data, parts, telling
from orchestration.grids.cells import Cell, at_places, changed, from_yaml, short_names_once
from orchestration.grids.grid import Grid
from orchestration.grids.grid_spec import SEARCH, typed
from orchestration.grids.parts import value_of
from orchestration.grids.places import Places
from orchestration.grids.values import FILLED_IN, GROUPS, as_shown, format_value, is_axis, parse, read_axis, read_value
from orchestration.machine.damage import tell
from orchestration.runs import store
from orchestration.runs.folder_above import grid_of, launch_of
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder, folders, run_folder
from orchestration.tables import layouts


def load(
    name_or_file: str,
    overrides: Sequence[str] = (),
    runs: Path | None = None,
    *,
    launched_first: bool = False,
    site: Places | None = None,
    only: Sequence[str] = (),
) -> Grid:
    """Read a grid like `grid.load`; for a launched grid, include all cells that it was ever launched with.

    What a site says of data and weights beats the grid's file, not the overrides. `only` is that of `grid.load_file`.

    Raises:
        ValueError: As `grid.load` does.
    """
    path = grid.find(name_or_file, runs=runs, launched_first=launched_first)
    if grid.is_stored(path):
        return load_stored(path, overrides, site, only)
    return grid.load_file(path, overrides, runs, site, only)


def load_folder(grid_dir: Path, overrides: Sequence[str] = (), site: Places | None = None) -> Grid:
    """Read the grid of a run folder, with all its cells.

    Raises:
        ValueError: Its file cannot be read, or an override is not allowed.
    """
    return replace(load_stored(GridFolder(grid_dir).grid_file, overrides, site), name=grid_dir.name)


def load_stored(
    path: Path, overrides: Sequence[str] = (), site: Places | None = None, only: Sequence[str] = ()
) -> Grid:
    """Read a stored grid file: that of a grid's folder, or the part that one launch trained.

    Raises:
        ValueError: It cannot be read, or an override is not allowed.
    """
    of_launch, grid_dir = launch_of(path) is not None, grid_of(path).path
    try:
        loaded = grid.load_file(path, overrides, site=site, only=only)
    except ValueError as error:
        if overrides or only or of_launch or not folders(grid_dir) or SEARCH in grid.read_yaml(path):
            raise
        return _of_folders(path, grid_dir, error)
    if loaded.parts:
        made = [
            _with_earlier(part, part.spec.earlier if part.spec else (), grid_dir, overrides) for part in loaded.parts
        ]
        joined = parts.joined(loaded.name, made, loaded.site)
    else:
        every = dict.fromkeys([*folders(grid_dir), *_order(grid_dir)])
        named = loaded.spec.earlier if of_launch and loaded.spec else every
        joined = _with_earlier(loaded, named, grid_dir, overrides)
    kept_lists.use_copies(joined.cells, grid_dir)
    return joined


def _with_earlier(loaded: Grid, named: Iterable[str], grid_dir: Path, overrides: Sequence[str]) -> Grid:
    """Add cells of earlier launches to a grid with one table, by their signatures."""
    assert loaded.spec is not None
    found, own = folders(grid_dir), {cell.signature for cell in loaded.cells}
    wanted = [name for name in named if name not in own]
    dropped = _of_launches(grid_dir, {name for name in wanted if name not in found})
    varied = index.known_axes(grid_dir)
    known = [_cell_of(found[name], varied) if name in found else dropped.get(name) for name in wanted]
    made = [_changed(cell, overrides) for cell in known if cell is not None]
    placed = [_placed(cell, loaded.spec.places) for cell in made if cell is not None]
    return _joined(loaded, _others(loaded, placed), grid_dir)


def whole(loaded: Grid, grid_dir: Path, *, is_newest: bool = True) -> Grid:
    """Return a grid with all cells that it was ever launched with; the given one may be only a part of them.

    Args:
        loaded: What a launch has.
        grid_dir: The folder of the grid.
        is_newest: That launch is just being made; else a later one may have brought a newer file, which stays.

    Raises:
        ValueError: The folder holds a grid of grids and this is none, or the reverse, or one whose seeds are added
            adaptively in another way.
    """
    every, file = _whole(loaded, grid_dir, is_newest=is_newest), GridFolder(grid_dir).grid_file
    try:
        content = grid.read_yaml(file) if file.is_file() else {}
    except ValueError:  # it will be rewritten, and was named
        return every
    return adaptively.kept(every, loaded, content)


def with_first_seeds(loaded: Grid, first: int | None, grid_dir: Path) -> Grid:
    """Return a grid with the number of first seeds that the command line asks for; see `adaptively.asked`.

    Raises:
        ValueError: No table can have seeds added to it.
    """
    file = GridFolder(grid_dir).grid_file
    try:
        stored = grid.read_yaml(file) if first is None and file.is_file() else {}
    except ValueError:  # it will be rewritten, and is named then
        stored = {}
    return adaptively.asked(loaded, first, stored)


def _whole(loaded: Grid, grid_dir: Path, *, is_newest: bool) -> Grid:
    if loaded.parts and GridFolder(grid_dir).grid_file.is_file():
        return _whole_of_parts(loaded, grid_dir, is_newest=is_newest)
    if loaded.spec is None or not GridFolder(grid_dir).grid_file.is_file():
        return loaded
    part, order, made = {cell.signature for cell in loaded.cells}, _order(grid_dir), folders(grid_dir)
    if is_newest and made.keys() | set(order) <= part:
        return loaded
    try:
        stored = load_folder(grid_dir)
    except ValueError as error:  # it will be rewritten
        tell(error)
        varied = index.known_axes(grid_dir)
        cells = [cell for folder in made.values() if (cell := _cell_of(folder, varied)) is not None]
    else:
        _refuse_other_kind(loaded, stored, grid_dir)
        cells = stored.cells
        then = {cell.signature for cell in cells}
        if part < then and not _is_whole_file(loaded, stored) or (part <= then and not is_newest):
            return moved_data.learned(stored, loaded)
    earlier = [cell for cell in cells if cell.signature in {*made, *order} and cell.signature not in part]
    return _joined(loaded, _others(loaded, earlier), grid_dir)


def _whole_of_parts(loaded: Grid, grid_dir: Path, *, is_newest: bool) -> Grid:
    """Return a grid of grids with the cells and the parts that it was ever launched with."""
    try:
        stored = load_folder(grid_dir)
    except ValueError as error:  # it will be rewritten
        tell(error)
        return loaded
    _refuse_other_kind(loaded, stored, grid_dir)
    now = {part.name: part for part in loaded.parts}
    then = {part.name: part for part in stored.parts}
    made = [
        _whole_part(part, now[part.name], grid_dir, is_newest=is_newest) if part.name in now else part
        for part in stored.parts
    ]
    return parts.joined(loaded.name, [*made, *(part for name, part in now.items() if name not in then)], loaded.site)


def _whole_part(stored: Grid, loaded: Grid, grid_dir: Path, *, is_newest: bool) -> Grid:
    now, then = ({cell.signature for cell in part.cells} for part in (loaded, stored))
    if now <= then and not (is_newest and _is_whole_file(loaded, stored)):
        return moved_data.learned(replace(stored, priority=loaded.priority), loaded)
    earlier = [cell for cell in stored.cells if cell.signature not in now]
    return _joined(loaded, _others(loaded, earlier), grid_dir)


def _is_whole_file(loaded: Grid, stored: Grid) -> bool:
    """Return whether a launch of known cells is no part of the stored grid, but a file that has all of its axes.

    Such a one may have settings of an earlier launch again: what it says of them and of the baseline counts.
    """
    if loaded.spec is None or stored.spec is None:
        return False
    now, then = (
        {key: {*map(format_value, values)} for key, values in spec.axes.items()} for spec in (loaded.spec, stored.spec)
    )
    return all(values <= now.get(key, set()) for key, values in then.items())


def _refuse_other_kind(loaded: Grid, stored: Grid, grid_dir: Path) -> None:
    if bool(loaded.parts) != bool(stored.parts):
        ours, theirs = ("several grids", "one grid") if loaded.parts else ("one grid", "several grids")
        raise ValueError(
            f"--grid {loaded.name} must have a name of its own: it consists of {ours}, and {grid_dir} holds {theirs}; "
            "rename its file, or give another --runs"
        )


def text_of(loaded: Grid, *, of_launch: bool = False) -> str:
    """Return the text to store for a grid or a launch; it also names the launch's cells from earlier launches."""
    if loaded.spec is None:
        return loaded.text
    return grid_spec.resolved_text(
        loaded.name,
        loaded.spec,
        grid_spec.layout_of(loaded.spec),
        {key: text for key, text in loaded.baseline.items() if key in loaded.spec.axes},
        loaded.earlier if of_launch else (),
    )


def partners(every: Grid) -> dict[str, Sequence[str]]:
    """Return the identities of the cells that a grid's cells are compared with, by signature, for its index."""
    found: dict[str, dict[str, None]] = {}
    for one in every.tables:
        compared = one.partners
        if one.spec and not one.earlier:
            compared = telling.partners(one.cells, telling.NewestFile(one), {})
        for signature, names in compared.items():
            found.setdefault(signature, {}).update(dict.fromkeys(names))
    return {signature: [*names] for signature, names in found.items()}


def part_in_words(loaded: Grid, every: Grid) -> str:
    """Say which part of a grid a launch trains; nothing if it is the whole grid."""
    if len(loaded.cells) == len(every.cells):
        return ""
    return (
        f"this launch trains {len(loaded.cells)} of the {len(every.cells)} cells of grid {loaded.name}; "
        "the others stay as they are, and table and report hold all"
    )


def _others(loaded: Grid, earlier: Sequence[Cell]) -> list[Cell]:
    """Leave out points for which a cell of the grid stands already."""
    known = {cell.identity for cell in loaded.cells}
    return [cell for cell in alike.once(earlier) if cell.identity not in known]


def _order(grid_dir: Path) -> list[str]:
    return [cell.signature for cell in index.read_if_there(grid_dir)]


def _of_launches(grid_dir: Path, signatures: Set[str]) -> dict[str, Cell]:
    """Compose cells without run folders, such as dropped ones, from the files of the launches."""
    composed: dict[str, Cell] = {}
    for launch in reversed(GridFolder(grid_dir).launches()):
        if signatures <= composed.keys():
            break
        if not launch.grid_file.exists():
            continue
        try:
            cells = grid.load_file(launch.grid_file).cells
        except ValueError as error:
            tell(error)
            continue
        composed |= {cell.signature: cell for cell in cells if cell.signature in signatures - composed.keys()}
    return composed


def _cell_of(folder: RunFolder, varied: Mapping[str, Mapping[str, str]]) -> Cell | None:
    """Read a cell from its run folder; None if it cannot be read, or its numbers are of an earlier version."""
    try:
        config = from_yaml(folder.config())
    except (ValueError, OSError) as error:
        tell(f"{folder.path.name} is left out: {error}")
        return None
    try:
        axes = index.axes(folder, varied)
    except (ValueError, OSError) as error:
        tell(error)
        axes = {}
    cell = Cell(config, axes)
    is_same = folder.signature == cell.signature
    return cell if is_same and not config.numerics.evaluation.held_out else None


def _changed(cell: Cell, overrides: Sequence[str]) -> Cell | None:
    """Change a cell of an earlier launch by the command line; None if that makes it a different cell."""
    settings: dict[str, Any] = {}
    for key, text in grid_spec.divide(overrides).items():
        node = parse(key, text)
        several = isinstance(node, list) and is_axis(key, node)
        values = read_axis(key, node) if isinstance(node, list) and several else [read_value(key, node)]
        if short_names_once().get(key, "").startswith("execution."):
            settings[key] = values[0]
        elif value_of(cell, key) not in {name for value in values for name in _names_of(key, value)}:
            return None
    return Cell(changed(cell.config, settings), cell.axes) if settings else cell


def _placed(cell: Cell, places: Places) -> Cell:
    return replace(cell, config=at_places(cell.config, places)) if places else cell


def _names_of(key: str, value: Any) -> list[str]:  # noqa: ANN401 (a value of any field)
    own = typed(key, value) if key == "dataset" else value
    return [format_value(value), *([own.fields["numerics.dataset.name"]] if hasattr(own, "fields") else [])]


def _joined(loaded: Grid, earlier: Sequence[Cell], grid_dir: Path) -> Grid:
    """Add cells of earlier launches to a grid, with further axes if its own do not tell them apart."""
    if not earlier:
        return loaded
    assert loaded.spec is not None
    newest = telling.NewestFile(loaded)
    cells = [*loaded.cells, *moved_data.followed(earlier, loaded.cells)]
    keys = [*loaded.axes, *dict.fromkeys(key for cell in earlier for key in cell.axes if key not in loaded.axes)]
    keys += telling.settings(cells, keys, loaded.table.over, newest)
    texts = [{key: value_of(cell, key) for key in keys} for cell in cells]
    keys = [key for key in keys if key in loaded.axes or len({text[key] for text in texts}) > 1]
    keys = _without_needless_hash(keys, texts, loaded.table.over)
    made = [_with_axes(cell, {key: text[key] for key in keys}) for cell, text in zip(cells, texts, strict=True)]
    made = telling.at_all_points(made, newest)
    indexed = index.read_if_there(grid_dir)
    place = {cell.signature: number for number, cell in enumerate(indexed)}
    made.sort(key=lambda cell: place.get(cell.signature, len(place)))
    axes = {key: list(dict.fromkeys(cell.axes[key] for cell in made)) for key in keys}
    baseline = {key: format_value(value) for key, value in loaded.spec.baseline.items()}
    is_there = all(value in axes.get(key, []) for key, value in baseline.items())
    compared = telling.partners(made, newest, index.known_partners(indexed))
    rows = [*loaded.table.rows, *(key for key in keys if key not in loaded.axes)]
    return replace(
        loaded,
        cells=made,
        axes=axes,
        baseline=telling.baseline(baseline, made, compared) if is_there else {},
        partners=compared,
        table=replace(loaded.table, rows=rows, names=loaded.table.names | _shown_hashes(axes)),
        earlier=tuple(cell.signature for cell in earlier),
    )


def _without_needless_hash(keys: Sequence[str], texts: Sequence[Mapping[str, str]], over: Sequence[str]) -> list[str]:
    """Leave out the hash of the weights where the other keys tell the entries apart: nobody reads it.

    Keys over which an entry gives mean and spread do not count, or one mean would be of several initialisations.
    """
    keys, every = [key for key in keys if key not in over or key in GROUPS], keys
    others = [key for key in keys if key != FILLED_IN]
    needed, without = ({tuple(text[key] for key in some) for text in texts} for some in (keys, others))
    return [key for key in every if key != FILLED_IN] if len(needed) == len(without) else [*every]


def _shown_hashes(axes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    return {FILLED_IN: {text: as_shown(FILLED_IN, text) for text in axes[FILLED_IN]}} if FILLED_IN in axes else {}


def _with_axes(cell: Cell, axes: dict[str, str]) -> Cell:
    return replace(cell, axes=axes, also=tuple({key: point.get(key, axes[key]) for key in axes} for point in cell.also))


def _of_folders(path: Path, grid_dir: Path, why: ValueError) -> Grid:
    """Return the cells that have run folders, for a file of an earlier version whose paths lead nowhere."""
    varied = index.known_axes(grid_dir)
    cells: Iterable[Cell | None] = [_cell_of(folder, varied) for folder in folders(grid_dir).values()]
    known = [cell for cell in cells if cell is not None]
    if not known:
        raise why
    tell(f"{path}: {why}; its cells are those that have run folders")
    content, keys = grid.read_yaml(path), list(dict.fromkeys(key for cell in known for key in cell.axes))
    table = layouts.read(grid_spec.mapping_at("table", content), keys)
    over = grid_spec.layout_of(grid_spec.Spec(axes=dict.fromkeys(keys, []), table=table)).over
    keys += telling.settings(known, keys, over)
    axes = {key: list(dict.fromkeys(value_of(cell, key) for cell in known)) for key in keys}
    spec = grid_spec.Spec(axes=dict(axes), table=table)
    baseline = {key: str(value) for key, value in grid_spec.mapping_at("baseline", content).items()}
    made = [Cell(cell.config, {key: value_of(cell, key) for key in axes}) for cell in known]
    every, compared = telling.at_all_points(alike.once(made)), index.known_partners(index.read_if_there(grid_dir))
    return Grid(
        grid_dir.name,
        every,
        axes,
        telling.baseline(baseline, every, compared),
        grid_spec.layout_of(spec),
        path.read_text(encoding="utf-8"),
        partners=compared,
    )


def run_folders(loaded: Grid, grid_dir: Path) -> dict[str, RunFolder]:
    """Return each cell's folder in the grid by signature: the existing one, whatever its slug, else the future one."""
    found = folders(grid_dir)
    return {cell.signature: found.get(cell.signature, run_folder(grid_dir, cell.folder_name)) for cell in loaded.cells}


def known_folders(loaded: Grid, grid_dir: Path) -> dict[str, RunFolder]:
    """Return the folders that are there by signature: all of the grid's, and those of the store that it asks for."""
    return store.found(grid_dir, [cell.signature for cell in loaded.cells] if loaded.shares_cells else ())
