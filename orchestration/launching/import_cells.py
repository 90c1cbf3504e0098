"""Take the finished cells of another runs folder: by signature, verified by hash, refused where results disagree."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestration.grids.cells import Cell, from_yaml
from orchestration.launching import waiting
from orchestration.machine import announce
from orchestration.machine.counts import counted
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.processes import ProcessNote, this_process
from orchestration.on_slurm.campaign_file import open_campaigns
from orchestration.runs import changes, origin, same_result, store, trash
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState
from rankmatch import durable
from rankmatch.hashing import sha256_of

_DRAFT = ".importing"
"""The end of the name of a folder in which a cell is copied."""
_OWNER = "importer.json"
"""In it: the process that copies."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A cell to copy."""

    cell: RunFolder
    """There."""
    replaced: RunFolder | None
    """The folder here, which has no result and moves to the trash; None: there is none."""


def import_cells(folder: Path, runs: Path, console: Console) -> int:
    """Copy the finished cells of a runs folder into the store of another; return 1 if one could not be taken, else 0.

    Raises:
        ValueError: There are no cells to take, results of one cell differ, or the disk is too small: nothing was taken.
    """
    there, here = RunsFolder(folder.resolve()), RunsFolder(runs.resolve())
    if there.path == here.path:
        raise ValueError(f"FOLDER must be another runs folder than --runs; got {there.path} for both")
    mine = _cells(here)
    found = {key: [cell for cell in cells if _is_finished(cell)] for key, cells in _cells(there).items()}
    if not found:
        raise ValueError(f"FOLDER must be a runs folder with cells; there are none in {there.path}")
    _refuse_differences({key: [*mine.get(key, []), *cells] for key, cells in found.items()})
    wanted, said = _wanted(found, mine)
    _refuse_small_disk(wanted, here)
    durable.make_folder(here.path)
    for taken in wanted:
        try:
            _take(taken, there, here)
        except (DamagedFileError, ValueError) as error:
            said.append(f"not taken: {error}")
        except OSError as error:  # a full disk, a folder that is closed: others may still be taken
            said.append(f"not taken: {taken.cell.path}: {error}")
    num_failed = sum(line.startswith("not taken") for line in said)
    num_unfinished = sum(not cells for cells in found.values())
    num_same = len(found) - num_unfinished - len(wanted) - (len(said) - num_failed)
    for line in said:
        announce.say(console, line)
    parts = [f"{counted(len(wanted) - num_failed, 'cell')} taken", f"{num_same} here already"]
    parts += [f"{num_unfinished} without a result there"] if num_unfinished else []
    announce.say(console, f"{', '.join(parts)}; a launch that asks for one keeps it")
    return 1 if said else 0


def _cells(runs: RunsFolder) -> dict[str, list[RunFolder]]:
    """Return the folders of cells in the store and in grids by signature, each once."""
    places = [*runs.cells(), *(cell for grid in runs.grids() for cell in grid.cells() if not cell.path.is_symlink())]
    found: dict[str, list[RunFolder]] = {}
    for place in places:
        found.setdefault(place.signature, []).append(RunFolder(place.path))
    return found


def _is_finished(cell: RunFolder) -> bool:
    return cell.has_result()  # readable or not: a damaged one is named


def _refuse_differences(found: Mapping[str, Sequence[RunFolder]]) -> None:
    """Refuse results of one cell that differ, before anything is copied."""
    differing = []
    for cells in found.values():
        finished = [cell for cell in cells if _result_of(cell)]
        for other in finished[1:]:
            if words := same_result.difference(finished[0], other):
                differing.append(f"{finished[0].path} and {other.path} ({words})")
    if differing:
        more = f"; so have {len(differing) - 1} others" if len(differing) > 1 else ""
        raise ValueError(f"nothing was taken: these have different results of one cell: {differing[0]}{more}")


def _result_of(cell: RunFolder) -> bool:
    try:
        return cell.result() is not None
    except DamagedFileError:
        return False


def _wanted(
    found: Mapping[str, Sequence[RunFolder]], mine: Mapping[str, Sequence[RunFolder]]
) -> tuple[list[Taken], list[str]]:
    """Return which cells to copy, and why others are left that are finished there and not here."""
    wanted, said = [], []
    for key, cells in found.items():
        own = mine.get(key, [])
        if not cells or any(cell.has_result() for cell in own):
            continue
        if why := next((f"{cell.path}, {why}" for cell in own if (why := _at_work(cell))), ""):
            said.append(f"left: {why}")
            continue
        wanted.append(Taken(next(filter(_result_of, cells), cells[0]), own[0] if own else None))
    return wanted, said


def _at_work(cell: RunFolder) -> str:
    """Return which launch trains a cell, or may yet do so; empty: none."""
    if cell.state().status is CellState.RUNNING:
        return "which is being trained"
    is_grids_own = cell.grid.grid_file.exists()
    grids = [cell.grid] if is_grids_own else store.grids_with(cell.grid.path, cell.signature)
    busy = [one.name for one in grids if _has(one, cell.signature)]
    return f"which a launch of grid {busy[0]} has" if busy else ""


def _has(grid: GridFolder, signature: str) -> bool:
    return bool(open_campaigns(grid.path)) or signature in waiting.cells(grid.path)


def _refuse_small_disk(wanted: Sequence[Taken], here: RunsFolder) -> None:
    place = next(path for path in (here.path, here.path.parent) if path.exists())
    needed = sum(
        file.stat().st_size
        for one in wanted
        if one.cell.path.stat().st_dev != place.stat().st_dev  # on one disk, copies may share their blocks
        for file in one.cell.path.rglob("*")
        if file.is_file()
    )
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(f"the disk of {here.path} must have {needed / 1e9:.1f} GB free; it has {free / 1e9:.1f}")


def _take(taken: Taken, there: RunsFolder, here: RunsFolder) -> None:
    """Copy a cell, verify the copy, and put it into its place by one rename.

    Raises:
        ValueError: A file is damaged, or not the one that the result names, or a link leads out of the cell.
        OSError: It cannot be read or written.
    """
    store.make(here)
    with _draft(taken.cell.name, here) as draft:
        _copy(taken.cell.path, draft)
        _refuse_links(draft, taken.cell.path)
        verified = _verify(RunFolder(draft), taken.cell)
        changes.take_along(taken.cell, there, RunFolder(draft))
        origin.note(RunFolder(draft), there.path, taken.cell.path, verified)
        for path in [*draft.rglob("*"), draft]:
            if not path.is_symlink():
                (durable.sync_folder if path.is_dir() else durable.sync_file)(path)
        with store.changing(here.path):
            target = taken.replaced.path if taken.replaced else here.cell(taken.cell.name).path
            for cell in _cells(here).get(taken.cell.signature, []):
                _put_away(cell, here, was_there=taken.replaced is not None and cell.path == target)
            durable.move(draft, target)


@contextmanager
def _draft(name: str, here: RunsFolder) -> Iterator[Path]:
    """Give a place beside the cells to copy one to; no other call has it, and nothing of it stays."""
    for path in here.cells_dir.glob(f".{name}.*{_DRAFT}"):
        with suppress(DamagedFileError, OSError):  # of a call that only now begins
            if ProcessNote.from_file(path / _OWNER).lives() is False:
                shutil.rmtree(path)
    folder = here.cells_dir / f".{name}.{secrets.token_hex(4)}{_DRAFT}"
    folder.mkdir()
    try:
        ProcessNote(**this_process()).to_file(folder / _OWNER)
        yield folder / name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_away(cell: RunFolder, here: RunsFolder, *, was_there: bool) -> None:
    """Move the unfinished folder of a cell to the trash, unless a launch here was faster."""
    if cell.has_result() or not was_there or _at_work(cell):
        raise ValueError(f"{cell.path} was begun or finished here meanwhile")
    if is_stored := store.is_in_store(cell, here):
        store.refuse_shared(here)
    place = trash.folder(here.cells_dir if is_stored else cell.grid.path)
    durable.move(cell.path, place / cell.name)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, its links as links; blocks are shared where the file system can do so."""
    words = ["cp", "--recursive", "--no-dereference", "--reflink=auto", "--preserve=mode,timestamps", "--"]
    done = subprocess.run([*words, str(source.resolve()), str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{source} cannot be copied: {done.stderr.strip()}")


def _refuse_links(copy: Path, source: Path) -> None:
    """Refuse links out of a cell: who made it would learn what only the reader may read. Also what is no file."""
    for path in copy.rglob("*"):
        place = source / path.relative_to(copy)
        if path.is_symlink():
            target = path.readlink()
            if target.is_absolute() or not Path(os.path.realpath(path)).is_relative_to(copy.resolve()):
                raise ValueError(f"{place} must not lead out of its cell; it is a link to {target}")
        elif not (path.is_file() or path.is_dir()):
            raise ValueError(f"{place} must be a file or a folder")


def _verify(copy: RunFolder, source: RunFolder) -> list[str]:
    """Return what is as it was recorded.

    Raises:
        ValueError: Something is not.
    """
    result = copy.result() or {}
    if Cell(from_yaml(copy.config()), {}).signature != source.signature:
        raise ValueError(f"{source.config_file}: its settings have another signature")
    model = result.get("model")
    if not model:
        return ["signature"]
    if sha256_of(copy.path / model["path"]) != model["sha256"]:
        raise ValueError(f"{source.path / model['path']} is not the file that the result names, by its hash")
    return ["signature", f"SHA-256 of {model['path']}"]
