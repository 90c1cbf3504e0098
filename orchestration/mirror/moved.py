"""Update MLflow after a runs folder was moved or copied, because it stores absolute paths."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestration.machine import files
from orchestration.mirror.mlflow_store import Store, StoredExperiment
from orchestration.mirror.store_uri import SERVERS, sqlite_file_of
from orchestration.runs.folders import RunsFolder

REFERENCES = "*/artifacts/model/reference.json"
"""Pattern of the files that `tracking` writes for each run, in MLflow's own layout."""


def here(store: Store, found: StoredExperiment, runs: Path, earlier: Sequence[Path]) -> StoredExperiment:
    """Point an experiment to its files in the runs folder, if they were in it at its old place.

    A server decides the place of files itself, and files that were placed elsewhere on purpose stay there.
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
    """Return the store that a launch wrote to, at its new place if it was in the runs folder."""
    file, runs = sqlite_file_of(uri), runs.resolve()
    if file is None or file.is_relative_to(runs):
        return uri
    known = next((one for one in earlier if file.is_relative_to(one)), None)
    if known is None and not file.exists() and (runs / file.name).is_file():  # moved before places were recorded
        known = file.parent
    return uri if known is None else f"sqlite:///{runs / file.relative_to(known)}"


def _guess(store: Store, place: Path, runs: Path) -> Path | None:
    """Infer the old place of a moved runs folder from its SQLite file; earlier versions recorded no places."""
    file, tail = sqlite_file_of(store.uri), Path(*place.parts[-2:])
    is_artifacts = tail.parts[0] == RunsFolder.artifacts_dir.name
    is_here = file is not None and file.parent == runs and is_artifacts and (runs / tail).is_dir()
    return place.parent.parent if is_here else None


def _path_of(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _correct_references(artifacts: Path, known: Path, runs: Path) -> None:
    """Correct the paths in the files that reference weights."""
    for path in artifacts.glob(REFERENCES):
        content = json.loads(path.read_text(encoding="utf-8"))
        folder = Path(content.get("folder", ""))
        if folder.is_relative_to(known):
            content["folder"] = str(runs / folder.relative_to(known))
            files.replace(path, json.dumps(content, indent=1) + "\n")
