"""Who owns an experiment or a registered model, in a store that several people or runs folders share.

An experiment belongs to a grid of one runs folder and is named after the grid; if another owner has that name, user and
runs folder are added. The owner is stored in its tags, so that it is found whatever its name.
"""

import getpass
import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.fields import TEXT, Fields, Kind
from orchestration.mirror import moved
from orchestration.mirror.mlflow_store import Store, StoredExperiment, StoredRun, StoreError
from orchestration.mirror.store_uri import artifacts_folder, sqlite_file_of
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.recorder import SCHEMA
from rankmatch import locks

LOCK_S = 60.0
_ID = Kind(
    "an id of hexadecimal digits", lambda value: isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]+", value))
)
_OF_RUNS = Fields({"id": _ID, "path": TEXT}, {"earlier_paths": TEXT.listed(), "earlier_ids": _ID.listed()})
_WITHOUT_ID = (
    "restore it with the id that the tag rankmatch.runs of the folder's experiments has, or remove it: the next launch "
    "or `rankmatch sync` then writes the grids as new experiments"
)
RUNS, GRID, OWNER, USER = "rankmatch.runs", "rankmatch.grid", "rankmatch.user", "mlflow.user"
FOLDER, LAUNCH = "rankmatch.folder", "rankmatch.launch"


@dataclass(frozen=True, slots=True)
class Owner:
    """A runs folder and its user."""

    runs_id: str
    user: str

    def marks(self, grid: str) -> dict[str, str]:
        """Return the tags for everything that belongs to one of its grids."""
        return {RUNS: self.runs_id, GRID: grid, OWNER: self.user}

    def run_tags(self) -> dict[str, str]:
        """Return the tags of each run."""
        return {RUNS: self.runs_id, USER: self.user}

    def suffix(self) -> str:
        """Return the suffix for a name that another owner has."""
        return f"{self.user} {self.runs_id[:6]}"


def owner_of(runs: Path) -> Owner:
    """Return the owner for a runs folder; its id is created once, and newly in a copy of the folder.

    Raises:
        StoreError: The id cannot be read, or is missing and cannot be written.
    """
    try:
        return Owner(_runs_id(runs.resolve()), _user())
    except OSError as error:
        raise StoreError(f"the runs folder gets no id for MLflow: {error}") from None
    except DamagedFileError as error:
        raise StoreError(str(error)) from None


def own_experiment(store: Store, grid_dir: Path, owner: Owner) -> StoredExperiment:
    """Return the experiment of a grid; create it if there is none.

    An experiment of an earlier version has no owner; it is taken over if everything in it comes from this folder.

    Raises:
        StoreError: The store does not answer.
        ValueError: It was deleted, which blocks its name.
    """
    name, marks, runs = grid_dir.name, owner.marks(grid_dir.name), GridFolder(grid_dir).runs.path
    artifacts = artifacts_folder(store.uri, runs, name)
    for known in store.experiments(RUNS, owner.runs_id):
        if known.tags.get(GRID) == name:
            return moved.here(store, known.checked(), runs, earlier_places(runs))
    for known in _came_along(store, grid_dir):
        store.tag_experiment(known.checked().id, marks)
        return moved.here(store, known, runs, earlier_places(runs))
    found = store.make_experiment(name, artifacts, marks)
    if found.tags.get(RUNS) == owner.runs_id:
        return found.checked()
    if RUNS not in found.tags and _is_ours(store, found, grid_dir, artifacts):
        store.tag_experiment(found.checked().id, marks)
        return moved.here(store, found, runs, earlier_places(runs))
    return store.make_experiment(f"{name} ({owner.suffix()})", artifacts, marks).checked()


def own_model(store: Store, name: str, experiment: str, owner: Owner) -> str:
    """Return the name of a registered model, creating it if needed; of two owners, the first has the plain name.

    Raises:
        StoreError: The store does not answer.
    """
    tags = store.make_model(name, {RUNS: owner.runs_id, OWNER: owner.user})
    if tags.get(RUNS) == owner.runs_id:
        return name
    if RUNS not in tags and store.experiments_of_model(name) <= {experiment}:
        store.tag_model(name, {RUNS: owner.runs_id, OWNER: owner.user})
        return name
    own = f"{name}.{owner.suffix().replace(' ', '-')}"
    store.make_model(own, {RUNS: owner.runs_id, OWNER: owner.user})
    return own


def earlier_places(runs: Path) -> list[Path]:
    """Return the known earlier places of a runs folder, or of the one that it is a copy of."""
    try:
        content = files.read_json(RunsFolder(runs.resolve()).id_file, _OF_RUNS)
    except (OSError, DamagedFileError):
        return []
    places = [Path(place) for place in (content["path"], *content.get("earlier_paths", ()))]
    return [place for place in places if place != runs.resolve()]


def _came_along(store: Store, grid_dir: Path) -> list[StoredExperiment]:
    """Return a grid's experiment in a SQLite file that was copied together with its runs folder."""
    file, runs = sqlite_file_of(store.uri), GridFolder(grid_dir).runs
    if file is None or not file.is_relative_to(runs.path.resolve()):
        return []
    content = files.read_json(runs.id_file, _OF_RUNS)
    found = [one for known in content.get("earlier_ids", ()) for one in store.experiments(RUNS, known)]
    return [one for one in found if one.tags.get(GRID) == grid_dir.name and not one.is_deleted]


def _is_ours(store: Store, found: StoredExperiment, grid_dir: Path, artifacts: Path | None) -> bool:
    """Return whether an experiment without an owner clearly belongs to a grid's folder."""
    file = sqlite_file_of(store.uri)
    if file and file.parent == GridFolder(grid_dir).runs.path.resolve():
        return True
    if artifacts and found.artifacts == artifacts.resolve().as_uri():
        return True
    if found.is_deleted:
        return False
    runs = store.runs(found.id, "")
    return bool(runs) and all(_is_of(run, grid_dir) for run in runs)


def _is_of(run: StoredRun, grid_dir: Path) -> bool:
    if LAUNCH in run.tags:
        return GridFolder(grid_dir).launch(run.tags[LAUNCH]).path.is_dir()
    folder = run.tags.get(FOLDER, "")
    return bool(folder) and Path(folder).is_relative_to(grid_dir)


def _runs_id(runs: Path) -> str:
    path = RunsFolder(runs).id_file
    if not path.exists():
        runs.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another owner's launch was faster
            files.publish(path, _text(secrets.token_hex(8), runs))
    if known := _id_here(path, runs):  # without the lock, which another user may have made
        return known
    with locks.held(files.lock_of(path), LOCK_S, locks.mode_in(runs)):
        if known := _id_here(path, runs):
            return known
        content = files.read_json(path, _OF_RUNS, _WITHOUT_ID)
        known, place = str(content["id"]), Path(content["path"])
        paths, ids = [*content.get("earlier_paths", ()), str(place)], [*content.get("earlier_ids", ())]
        if _has_id(RunsFolder(place).id_file, known):  # this folder is a copy, and the original still exists
            ids, known = [*ids, known], secrets.token_hex(8)
        files.replace(path, _text(known, runs, [*dict.fromkeys(paths)], ids))
        return known


def _id_here(path: Path, runs: Path) -> str:
    """Return the id of a runs folder; empty if it was moved or copied since."""
    content = files.read_json(path, _OF_RUNS, _WITHOUT_ID)
    place = Path(content["path"])
    return str(content["id"]) if place == runs or (place.exists() and place.samefile(runs)) else ""


def _has_id(path: Path, known: str) -> bool:
    try:
        return bool(files.read_json(path, _OF_RUNS)["id"] == known)
    except (OSError, DamagedFileError):
        return False


def _text(runs_id: str, runs: Path, earlier_paths: Sequence[str] = (), earlier_ids: Sequence[str] = ()) -> str:
    earlier = {"earlier_paths": [*earlier_paths], "earlier_ids": [*earlier_ids]}
    known = {name: values for name, values in earlier.items() if values}
    return files.to_text({"schema": SCHEMA, "id": runs_id, "path": str(runs), **known})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user of this number
        return str(os.getuid())
