"""The cells that a command names: by a signature, by the name that `status` shows, or by a part of a name."""

from collections.abc import Sequence
from pathlib import Path

from orchestration.grids import index
from orchestration.runs import hints
from orchestration.runs.folders import cell_name, signature_in
from orchestration.runs.run_folder import RunFolder, folders, run_folder


def chosen(
    grid_dir: Path, words: Sequence[str], *, only_one: bool = False, with_dropped: bool = False
) -> list[RunFolder]:
    """Return the folders of the cells that any of the given words means; all if none is given.

    A word that is the whole name of a cell, as `status` shows it, means this cell; another one means all cells whose
    shown name, or whose folder's name, contains it. The two differ once further axes tell the cells apart.

    Args:
        grid_dir: The folder of the grid.
        words: Signatures, names, or parts of them.
        only_one: Refuse words that mean several cells.
        with_dropped: Add cells of the grid whose folders are gone, as `status` shows them.

    Raises:
        ValueError: A word matches no cell, or they mean several cells and must not.
    """
    slugs = {cell.signature: cell.slug for cell in index.read_if_there(grid_dir)}
    found = folders(grid_dir)
    gone = {key: run_folder(grid_dir, cell_name(key, slug)) for key, slug in slugs.items() if key not in found}
    every = [*found.values(), *(gone.values() if with_dropped else ())]
    shown = {one.path.name: slugs.get(one.signature, one.slug) for one in every}
    meant = [_meant(word, shown, grid_dir) for word in words]
    picked = [one for one in every if not words or any(one.path.name in names for names in meant)]
    if only_one and len(picked) != 1:
        names = ", ".join(cell_name(one.signature, shown[one.path.name]) for one in picked[:5])
        raise ValueError(f"CELL must mean one cell; {words[0]!r} means {len(picked)}: {names}")
    return picked


def _meant(word: str, shown: dict[str, str], grid_dir: Path) -> set[str]:
    """Return the names of the folders that a word means."""
    found = {name for name, slug in shown.items() if slug == word}
    found = found or {name for name, slug in shown.items() if word in name or word in _as_shown(name, slug)}
    if not found and "=" in word:
        raise ValueError(
            f"CELL must be a signature or a part of a cell's name; got {word!r}, which is for --set of retry"
        )
    if not found:
        raise ValueError(
            "CELL must be a signature or a part of a cell's name, as "
            f"{hints.command('status', grid_dir)} shows them; got {word!r}"
        )
    return found


def _as_shown(folder_name: str, slug: str) -> str:
    return cell_name(signature_in(folder_name), slug)
