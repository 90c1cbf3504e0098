"""The split lists of the paper: downloaded from where they are published, and verified."""

import csv
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import requests

from rankmatch.durable import replacing

REPOSITORIES = {
    "pascal": ("mai556/RankMatch", "abb13e1"),
    "cityscapes": ("mai556/RankMatch", "abb13e1"),
    "coco": ("LiheYoung/UniMatch", "0324f3d"),  # the authors' repository has none of COCO
}
BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT_S = (10.0, 60.0)
"""Seconds to connect, and between two bytes."""

Read = Callable[["ListFile"], bytes]


@dataclass(frozen=True, slots=True)
class ListFile:
    """One published list."""

    path: str
    """`<data set>/<split>/labeled.txt` and the like, below the folder `splits` of the repository."""
    sha256: str

    @property
    def dataset(self) -> str:
        """Its data set."""
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        """Its path below a `split_root`."""
        return self.path.partition("/")[2]


@dataclass(slots=True)
class Obtained:
    """The result of obtaining some lists."""

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_manifest(path: Path, dataset: str) -> list[ListFile]:
    """Return the published lists of a data set.

    Raises:
        ValueError: There are none.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [ListFile(row["path"], row["sha256"]) for row in csv.DictReader(file)]
    lists = [row for row in rows if row.dataset == dataset]
    if not lists:
        known = ", ".join(dict.fromkeys(row.dataset for row in rows))
        raise ValueError(f"lists are published for {known}; got {dataset!r}")
    return lists


def obtain(lists: Iterable[ListFile], folder: Path, read: Read, done: Callable[[], None] = lambda: None) -> Obtained:
    """Write the lists below a folder, each complete and verified or not at all; keep existing correct ones.

    So calling it again resumes an interrupted download. An existing file that differs is a fault: it may be the user's.
    """
    obtained = Obtained()
    for wanted in lists:
        _obtain_one(wanted, folder / wanted.name, read, obtained)
        done()
    return obtained


def from_checkout(root: Path) -> Read:
    """Read lists from a checkout of the repository, given by its root or its folder `splits`.

    Raises:
        ValueError: It contains no lists.
    """
    for folder in (root / "splits", root):
        if any((folder / name).is_dir() for name in REPOSITORIES):
            return lambda wanted: (folder / wanted.path).read_bytes()
    raise ValueError(f"--from must be a checkout with a folder splits/pascal, cityscapes or coco; got {str(root)!r}")


def from_web(base_url: str = "") -> Read:
    """Download lists from the published repositories at fixed commits, with the proxies of the environment."""

    def read(wanted: ListFile) -> bytes:
        repository, commit = REPOSITORIES[wanted.dataset]
        url = f"{base_url or BASE_URL}/{repository}/{commit}/splits/{wanted.path}"
        answer = requests.get(url, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return answer.content

    return read


def _obtain_one(wanted: ListFile, target: Path, read: Read, obtained: Obtained) -> None:
    if target.is_file():
        found = hashlib.sha256(target.read_bytes()).hexdigest()
        if found == wanted.sha256:
            obtained.kept.append(target)
        else:
            obtained.faults.append(f"{target} is there with SHA-256 {found}, the published one has {wanted.sha256}")
        return
    try:
        content = read(wanted)
    except (OSError, requests.RequestException) as error:
        obtained.faults.append(f"{wanted.path} cannot be obtained: {error}")
        return
    if (found := hashlib.sha256(content).hexdigest()) != wanted.sha256:
        obtained.faults.append(f"{wanted.path} came with SHA-256 {found}, not {wanted.sha256}; it was not written")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as draft:
        draft.write_bytes(content)
    obtained.written.append(target)
