"""Snapshots: copies of the sources in the grid's folder, by commit, so that jobs run the code that was launched.

Folders of runs are purged by age and damaged by full disks. So the hashes of its files are stored beside each copy and
compared before jobs are submitted and by each job; files that differ are restored from the commit.
"""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.machine import checkout, files, provenance
from orchestration.machine.fields import FLAG, TEXT, TEXTS, Fields
from rankmatch.durable import make_folder, move, sync_file, sync_folder

CACHES = "__pycache__"
_OF_RECORD = Fields({"commit": TEXT, "root": TEXT, "dirty": FLAG, "files": TEXTS})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the sources for jobs to import."""

    path: Path
    commit: str
    difference: str
    """The difference from the commit, including new files; empty for a clean checkout."""
    unknown: str = ""
    """Why there is no commit."""


def take(folder: Path, *, allow_dirty: bool, root: Path = provenance.ROOT) -> Snapshot:
    """Copy the sources into `<folder>/<commit>`, once for each state of them; repair a damaged copy.

    Raises:
        ValueError: The checkout differs from its commit, or the commit is unknown, and that is not allowed.
    """
    found, difference = checkout.look(root, provenance.SOURCES), ""
    _refuse(found, allow_dirty=allow_dirty)
    if found.is_dirty:
        difference = provenance.difference(root)
    if found.commit and not found.is_dirty:
        contents = _committed(root, found.commit)
    else:
        contents = _copied(root) | ({provenance.DIFFERENCE: difference.encode()} if difference else {})
    hashes = {name: _sha256(content) for name, content in contents.items()}
    name = found.commit or f"{'unknown' if found.is_hidden else 'installed'}-{provenance.versions()['rankmatch']}"
    if found.is_dirty or not found.commit:
        name += f"-{_sha256(files.to_text(hashes).encode())[:12]}"
    path = folder / name
    make_folder(folder)
    if not path.is_dir():
        _make(path, contents)
    _mend(path, contents)
    files.replace(_record(path), files.to_text({"commit": found.commit, "root": str(root.resolve()),
                                                "dirty": found.is_dirty, "files": hashes}))  # fmt: skip
    return Snapshot(path, found.commit, difference, found.unknown)


def make_whole(path: Path) -> list[str]:
    """Compare a snapshot with its stored hashes, and restore files that differ from the commit; return their names.

    A snapshot of an earlier version, without stored hashes, is taken as it is.

    Raises:
        ValueError: It is damaged and cannot be restored.
    """
    harmed = differing(path)
    if not harmed:
        return []
    record = _read_record(path)
    try:
        contents = {} if record["dirty"] or not record["commit"] else _committed(Path(record["root"]), record["commit"])
    except checkout.GitError as error:
        raise ValueError(f"{_harm(path, harmed)}; it cannot be made again from {record['root']}: {error}") from None
    if not contents:
        raise ValueError(f"{_harm(path, harmed)}; it was made of code that is not committed, so launch the grid again")
    _mend(path, contents)
    return harmed


def differing(path: Path) -> list[str]:
    """Return the files of a snapshot that were changed, removed or added."""
    record = _record(path)
    if not record.is_file():
        return []
    hashes: dict[str, str] = _read_record(path)["files"]
    found = {str(file.relative_to(path)): file for file in _files(path)}
    return sorted({name for name, hashed in hashes.items() if name not in found or _hash_of(found[name]) != hashed}
                  | (found.keys() - hashes.keys()))  # fmt: skip


def names(path: Path) -> set[str]:
    """Return the files that a snapshot was made of; of one without stored hashes those that are there."""
    if _record(path).is_file():
        return {*_read_record(path)["files"]}
    return {str(file.relative_to(path)) for file in _files(path)}


def check(path: Path) -> None:
    """Refuse a snapshot that has changed.

    Raises:
        ValueError: Files differ; the message names them.
    """
    if harmed := differing(path):
        raise ValueError(_harm(path, harmed))


def _harm(path: Path, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the code in {path} is not what was launched: {', '.join(names[:3])}{more} missing or changed"


def _refuse(found: checkout.Checkout, *, allow_dirty: bool) -> None:
    if allow_dirty:
        return
    if found.is_hidden:
        raise ValueError(
            f"the commit of the code in {found.root} must be known, so that it says what ran; {found.unknown}: "
            f"{found.mend}, or launch with --allow-dirty, which marks the runs"
        )
    if found.is_dirty:
        raise ValueError(
            f"the code in {found.root} must be committed, so that its commit says what ran; commit it, or launch with "
            "--allow-dirty, which marks the runs and stores the difference"
        )


def _read_record(path: Path) -> dict[str, Any]:
    advice = f"it is unknown whether {path} is the code that was launched: launch the grid again to rewrite it"
    return files.read_json(_record(path), _OF_RECORD, advice)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _make(path: Path, contents: Mapping[str, bytes]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for name, content in contents.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        _sync(draft)  # queued jobs import it, and only a launch makes it again
        try:
            move(draft, path)
        except OSError:
            if not path.is_dir():  # otherwise another launch has made it meanwhile
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(draft: Path) -> None:
    for place in (draft, *draft.rglob("*")):
        if place.is_dir():
            sync_folder(place)
        else:
            sync_file(place)


def _mend(path: Path, contents: Mapping[str, bytes]) -> None:
    """Restore a snapshot to exactly these files; jobs may be importing from it."""
    for file in _files(path):
        if str(file.relative_to(path)) not in contents:
            file.unlink(missing_ok=True)
    for name, content in contents.items():
        file = path / name
        if not file.is_file() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(file.parent / CACHES, ignore_errors=True)
            files.replace(file, content)


def _files(path: Path) -> list[Path]:
    """Return the files of a snapshot, without Python's caches and drafts that are just being written."""
    found = (file for file in path.rglob("*") if CACHES not in file.parts and not file.name.startswith("."))
    return [file for file in found if file.is_file()]


def _committed(root: Path, commit: str) -> dict[str, bytes]:
    known = checkout.git(root, "ls-tree", "--name-only", commit).splitlines()  # an earlier version had fewer
    content = checkout.archive(root, commit, [name for name in provenance.SOURCES if name in known])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
        return {name: file.read() for name, file in members if file}


def _copied(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for name in provenance.SOURCES
        if (root / name).is_dir()
        for file in _files(root / name)
    }


def _hash_of(file: Path) -> str:
    return _sha256(file.read_bytes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
