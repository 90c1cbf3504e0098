"""A runs folder that was moved or copied: MLflow keeps whole paths, which are made those of where it lies now."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestration import files
from orchestration.mirror.mlflow_store import Store, StoredExperiment
from orchestration.mirror.store_uri import SERVERS, sqlite_file_of

REFERENCES = "*/artifacts/model/reference.json"


def here(store: Store, found: StoredExperiment, runs: Path, earlier: Sequence[Path]) -> StoredExperiment:
    """Have an experiment keep its files in a runs folder, where they were in it when it lay elsewhere.

    A server decides itself where files are, and what was given another place on purpose stays there.
    """
    runs, place = runs.resolve(), _path_of(found.artifacts)
    if store.uri.startswith(SERVERS) or place is None or place.is_relative_to(runs):
        return found
    known = next((one for one in earlier if place.is_relative_to(one)), _guess(store, place, runs))
    if known is None:
        return found
    store.move(found.id, known, runs)
    artifacts = runs / place.relative_to(known)
    _correct_references(artifacts, known, runs)
    return replace(found, artifacts=artifacts.as_uri())


def uri_here(uri: str, runs: Path, earlier: Sequence[Path]) -> str:
    """Return the store that a launch wrote, where it lies now if it lay in the runs folder."""
    file, runs = sqlite_file_of(uri), runs.resolve()
    if file is None or file.is_relative_to(runs):
        return uri
    known = next((one for one in earlier if file.is_relative_to(one)), None)
    if known is None and not file.exists() and (runs / file.name).is_file():  # moved before anybody noted its places
        known = file.parent
    return uri if known is None else f"sqlite:///{runs / file.relative_to(known)}"


def _guess(store: Store, place: Path, runs: Path) -> Path | None:
    """Return where a runs folder was whose SQLite file and files came along; earlier versions noted no places."""
    file, tail = sqlite_file_of(store.uri), Path(*place.parts[-2:])
    is_here = file is not None and file.parent == runs and tail.parts[0] == "artifacts" and (runs / tail).is_dir()
    return place.parents[1] if is_here else None


def _path_of(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _correct_references(artifacts: Path, known: Path, runs: Path) -> None:
    """Have the files that say where weights lie say where they lie now."""
    for path in artifacts.glob(REFERENCES):
        content = json.loads(path.read_text(encoding="utf-8"))
        folder = Path(content.get("folder", ""))
        if folder.is_relative_to(known):
            content["folder"] = str(runs / folder.relative_to(known))
            files.replace(path, json.dumps(content, indent=1) + "\n")
