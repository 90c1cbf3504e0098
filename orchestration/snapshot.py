"""The code that runs is the code that was launched: a copy of it in the grid's folder, by commit."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from orchestration import provenance

FOLDER = "snapshots"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the sources that jobs import."""

    path: Path
    commit: str
    difference: str
    """Against the commit, new files included; empty for a clean checkout."""


def take(grid_dir: Path, *, allow_dirty: bool, root: Path = provenance.ROOT) -> Snapshot:
    """Copy the sources into `snapshots/<commit>`, once for each state of them.

    Raises:
        ValueError: The checkout differs from its commit, and that is not allowed.
    """
    commit, difference = provenance.commit(root), ""
    if commit and provenance.is_dirty(root):
        if not allow_dirty:
            raise ValueError(
                f"the code in {root} must be committed, so that its commit says what ran; commit it, or launch with "
                "--allow-dirty, which marks the runs and stores the difference"
            )
        difference = provenance.difference(root)
    name = commit or f"installed-{provenance.versions()['rankmatch']}"
    if difference or not commit:
        name += f"-{hashlib.sha256(difference.encode() + _state(root)).hexdigest()[:12]}"
    path = grid_dir / FOLDER / name
    if not path.is_dir():
        _make(path, root, commit if not difference else "", difference)
    return Snapshot(path, commit, difference)


def _make(path: Path, root: Path, commit: str, difference: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        if commit:
            _archive(root, commit, draft)
        else:
            _copy(root, draft)
        if difference:
            (draft / provenance.DIFFERENCE).write_text(difference, encoding="utf-8")
        try:
            draft.rename(path)
        except OSError:
            if not path.is_dir():  # else another launch has made it meanwhile
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _archive(root: Path, commit: str, target: Path) -> None:
    command = ["git", "-C", str(root), "archive", "--format=tar", commit, "--", *provenance.SOURCES]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(target, filter="data")


def _copy(root: Path, target: Path) -> None:
    for name in provenance.SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


def _state(root: Path) -> bytes:
    """Return sizes and times of the sources, for an installation without commits."""
    paths = sorted(path for name in provenance.SOURCES for path in (root / name).rglob("*.py"))
    return "".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in paths).encode()
