"""Find images that are in more than one list of a run, or more than once in one."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rankmatch.data.catalog import Sample
from rankmatch.data.lists import file_of, frame_of, same_image
from rankmatch.data.splits import Splits

Same = Callable[[str], str]
"""Gives what is equal for two names of one image."""


@dataclass(slots=True)
class Overlaps:
    """The images that the lists of a run share."""

    faults: list[str] = field(default_factory=list)
    """Faults: validation images that are trained on with their labels, or would count twice."""
    notes: list[str] = field(default_factory=list)
    """Overlaps that may be intended, with counts."""
    num_transductive: int = 0
    """Number of validation images that are also in the unlabeled list."""


class SameFile:
    """Identify images by the files that names lead to, through links and whatever the case."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, str] = {}
        self._by_plain_name: dict[str, list[str]] = {}

    def __call__(self, name: str) -> str:
        """Return the path of the file, with the frame."""
        folder, _, last = os.path.join(self._root, file_of(name)).rpartition("/")  # noqa: PTH118 (thousands of them)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        path = f"{self._folders[folder]}/{last}"
        if last in (".", "..") or os.path.islink(path):  # noqa: PTH114
            path = os.path.realpath(path)
        return f"{self._first_spelling(path)}#{frame_of(name) or 0}"

    def _first_spelling(self, path: str) -> str:
        """Return the spelling that led to the same file before, on a case-insensitive file system."""
        known = self._by_plain_name.setdefault(path.casefold(), [])
        if path in known:
            return path
        for other in known:
            if _is_same_file(path, other):
                return other
        known.append(path)
        return path


def find_overlaps(splits: Splits, same: Same = same_image) -> Overlaps:
    """Find images that are in two lists, or twice in one; compare names only, unless another `same` is given."""
    found = Overlaps()
    keys = {name: [same(sample.image) for sample in getattr(splits, name)] for name in ("labeled", "unlabeled", "val")}
    _look_at_val(splits, keys, found)
    _look_at_training(splits, keys, found)
    return found


def _look_at_val(splits: Splits, keys: dict[str, list[str]], found: Overlaps) -> None:
    if splits.num_repeats:
        found.notes.append(f"the val list repeats images on {_lines(splits.num_repeats)}; each counts once")
    for_val: dict[str, Sample] = {}
    for key, sample in zip(keys["val"], splits.val, strict=True):
        other = for_val.setdefault(key, sample)
        if other is not sample:
            found.faults.append(
                f"{sample.origin}: image {sample.image} must not count twice; it is the file of {other.image}, in "
                f"{other.origin}"
            )
    for key, sample in zip(keys["labeled"], splits.labeled, strict=True):
        if key in for_val:
            other = for_val[key]
            found.faults.append(
                f"{sample.origin}: image {sample.image} must not be for validation too; it is the file of "
                f"{other.image}, in {other.origin}"
            )


def _look_at_training(splits: Splits, keys: dict[str, list[str]], found: Overlaps) -> None:
    for_val, labeled, unlabeled = ({key: None for key in keys[name]} for name in ("val", "labeled", "unlabeled"))
    seen = [key for key in unlabeled if key in for_val]
    found.num_transductive = len(seen)
    for chosen, others, what in (
        (seen, for_val, "validation images"),
        ([key for key in unlabeled if key in labeled], labeled, "labeled images"),
    ):
        if chosen:
            sample = splits.unlabeled[keys["unlabeled"].index(chosen[0])]
            found.notes.append(
                f"the unlabeled list holds {len(chosen)} of the {len(others)} {what}, first {sample.image} "
                f"({sample.origin})" + ("; results are marked as transductive" if chosen is seen else "")
            )
    for name in ("labeled", "unlabeled"):
        counts, samples = Counter(keys[name]), getattr(splits, name)
        if repeated := [key for key, count in counts.items() if count > 1]:
            found.notes.append(
                f"the {name} list repeats images on {_lines(len(samples) - len(counts))}, first "
                f"{samples[keys[name].index(repeated[0])].image}; each is trained on as often as it is listed"
            )


def _lines(num: int) -> str:
    return f"{num} line{'s' if num > 1 else ''}"


def _is_same_file(path: str, other: str) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False
