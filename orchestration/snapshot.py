"""The code that runs is the code that was launched: a copy of it in the grid's folder, by commit.

Beside each copy stands what it holds, file by file, since folders of runs are purged by age and harmed by full disks:
it is compared before jobs are submitted with it and by each job, and what differs is brought back from the commit.
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

from orchestration import checkout, files, provenance
from orchestration.fields import FLAG, TEXT, TEXTS, Fields

FOLDER = "snapshots"
CACHES = "__pycache__"
_OF_RECORD = Fields({"commit": TEXT, "root": TEXT, "dirty": FLAG, "files": TEXTS})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the sources that jobs import."""

    path: Path
    commit: str
    difference: str
    """Against the commit, new files included; empty for a clean checkout."""
    unknown: str = ""
    """Why there is no commit."""


def take(grid_dir: Path, *, allow_dirty: bool, root: Path = provenance.ROOT) -> Snapshot:
    """Copy the sources into `snapshots/<commit>`, once for each state of them; one that was harmed is made whole.

    Raises:
        ValueError: The checkout differs from its commit, or hides it, and that is not allowed.
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
    path = grid_dir / FOLDER / name
    if not path.is_dir():
        _make(path, contents)
    _mend(path, contents)
    files.replace(_record(path), files.to_text({"commit": found.commit, "root": str(root.resolve()),
                                                "dirty": found.is_dirty, "files": hashes}))  # fmt: skip
    return Snapshot(path, found.commit, difference, found.unknown)


def make_whole(path: Path) -> list[str]:
    """Compare a snapshot with what is written down of it, and bring back from its commit what differs; return that.

    One of an earlier version, of which nothing is written down, is taken as it is.

    Raises:
        ValueError: It was harmed, and cannot be made again.
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
    """Return the files of a snapshot that are not as they were made: other, missing or new."""
    record = _record(path)
    if not record.is_file():
        return []
    hashes: dict[str, str] = _read_record(path)["files"]
    found = {str(file.relative_to(path)): file for file in _files(path)}
    return sorted({name for name, hashed in hashes.items() if name not in found or _hash_of(found[name]) != hashed}
                  | (found.keys() - hashes.keys()))  # fmt: skip


def check(path: Path) -> None:
    """Refuse a snapshot that is not as it was made.

    Raises:
        ValueError: Naming files that differ.
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
    advice = (
        f"nobody can tell whether {path} is the code that was launched: launch the grid again, which writes it anew"
    )
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
        try:
            draft.rename(path)
        except OSError:
            if not path.is_dir():  # else another launch has made it meanwhile
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _mend(path: Path, contents: Mapping[str, bytes]) -> None:
    """Have a snapshot hold these files and no others; jobs may be importing from it."""
    for file in _files(path):
        if str(file.relative_to(path)) not in contents:
            file.unlink(missing_ok=True)
    for name, content in contents.items():
        file = path / name
        if not file.is_file() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(file.parent / CACHES, ignore_errors=True)
            draft = file.with_name(f".{file.name}.{os.getpid()}")
            draft.write_bytes(content)
            draft.replace(file)


def _files(path: Path) -> list[Path]:
    """Return the files of a snapshot, without what Python adds to it and what is just being written."""
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
