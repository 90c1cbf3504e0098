"""The places that a site's file names: checked, and reported with a plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from orchestration.grids import own_dataset, places
from orchestration.grids.cells import Cell, choices_of
from orchestration.grids.own_dataset import is_own
from orchestration.grids.places import BY_DATASET, SECTIONS, Places
from orchestration.grids.values import flatten, near_matches, user_path

_DRAWN = "synthetic"


Sections = Mapping[str, Mapping[str, str]]


def absolute(sections: Sections, folder: Path) -> dict[str, dict[str, str]]:
    """Return the places of a site's file with paths, and names that are paths, starting from the file's folder.

    Raises:
        ValueError: A data set is named twice, by two spellings of its file.
    """
    return {section: _section_absolute(section, paths, folder) for section, paths in sections.items()}


def _section_absolute(section: str, paths: Mapping[str, str], folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, path in paths.items():
        name = _absolute(key, folder) if is_own("dataset", key) else key
        if name in found:
            raise ValueError(f"{section} of a site must name {name} once; it is named twice")
        found[name] = _absolute(path, folder)
    return found


def _absolute(path: str, folder: Path) -> str:
    if "$" in path:
        raise ValueError(f"a path of a site must be written out, as no shell reads it; got {path!r}")
    return str((folder / user_path(path)).absolute()) if path.strip() else path


def read(sections: Sections, source: str) -> Places:
    """Check the places of a site.

    A data set is named as in `experiments/conf/dataset`, or by its file.

    Raises:
        ValueError: A name is unknown or given twice, or a path is empty.
    """
    found = {section: _read(section, paths) for section, paths in sections.items()}
    return replace(places.of_tree(found), source=source)


def _read(section: str, paths: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, path in paths.items():
        name = _name(section, key)
        if name in found:
            raise ValueError(f"{section} of a site must name {name} once; it is named twice")
        if not path.strip():
            raise ValueError(f"{section} of {key} in a site must be a path; got {path!r}")
        found[name] = _absolute(path, Path())
    return found


def _name(section: str, key: str) -> str:
    if section in BY_DATASET and is_own("dataset", key):
        try:
            return str(own_dataset.read(key).fields.get("numerics.dataset.name"))
        except ValueError as error:
            raise ValueError(f"{section} of a site: {error}") from None
    known = [name for name in choices_of("dataset" if section in BY_DATASET else "backbone") if name != _DRAWN]
    if key not in known:
        near = near_matches(key, known)
        what, also = ("a data set", ", or the YAML file of one") if section in BY_DATASET else ("a backbone", "")
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{section} of a site must name {what}: {', '.join(known)}{also}; got {key!r}{hint}")
    return key


def lines(asked: Places | None, cells: Sequence[Cell]) -> list[str]:
    """Say which places the cells take from their site, and where something else beats it."""
    if not asked:
        return []
    given = [flatten(asdict(cell.config)) for cell in cells]
    found: dict[str, None] = {}
    for section in SECTIONS:
        for name, path in asked.section(section).items():
            alone = places.of_tree({section: {name: path}})
            used = _used(alone, given)
            if used:
                found[_line(section, name, path, sorted(used), asked.source)] = None
    return [*found]


def _used(alone: Places, given: Iterable[Mapping[str, str]]) -> set[str]:
    return {flat[field] for flat in given for field in alone.fields_of(flat)}


def _line(section: str, name: str, path: str, used: Sequence[str], source: str) -> str:
    if used == [path]:
        return f"{section} of {name}: {path}, from {source}"
    others = ", ".join(one or "none" for one in used)
    return f"{section} of {name}: {others}, as the command line or an axis says; {source} has {path}"
