"""Open every file of a run once before it starts, and list all faults."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rankmatch.config import IGNORE_INDEX, TrainConfig
from rankmatch.data import notes
from rankmatch.data.catalog import Dataset, FolderDataset, Sample, labeled_pair, open_dataset
from rankmatch.data.lists import file_of, same_image
from rankmatch.data.overlaps import Overlaps, SameFile, find_overlaps
from rankmatch.data.pixels import READ_OTHERWISE, READING, Facts
from rankmatch.data.splits import Splits, read_splits

Progress = Callable[[int, int], None]
"""Called with the number of samples looked at and of all."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """The result of checking the three lists of a run."""

    faults: list[str]
    """One line per fault, in the order of the lists; empty: the run can start."""
    fingerprint: str
    """Hash over the files' names and contents, or over the settings of drawn scenes; empty where there is a fault."""
    num_images: int
    notes: list[str] = field(default_factory=list)
    """Things to know that do not stop the run, one line each."""
    num_transductive: int = 0
    """Number of validation images that are also in the unlabeled list."""
    labeled_class_counts: list[int] = field(default_factory=list)
    """Pixels of every class in the labeled list."""
    val_class_counts: list[int] = field(default_factory=list)
    """Pixels of every class in the validation list."""

    @property
    def present_classes(self) -> list[int]:
        """The classes in the validation labels, over which the mean IoU is taken."""
        return [index for index, count in enumerate(self.val_class_counts) if count]


@dataclass(frozen=True, slots=True)
class _Finding:
    fault: str | None
    counts: npt.NDArray[np.int64]
    """Pixels of each class, and last those that are ignored."""
    facts: dict[str, Facts] = field(default_factory=dict)
    """Facts of the files, by name."""


def check_data(config: TrainConfig, *, progress: Progress | None = None) -> DataReport:
    """Decode every image and every label that the run opens.

    Faults of single files are listed in the report.

    Raises:
        ValueError: The lists themselves cannot be read.
    """
    splits, dataset = read_splits(config), open_dataset(config)
    return _look_at_all(config, splits, dataset, _overlaps(splits, dataset), progress)


def check_files(config: TrainConfig, split_names: Sequence[str], *, progress: Progress | None = None) -> DataReport:
    """Decode every file of several splits once; see `check_data`.

    Raises:
        ValueError: The lists themselves cannot be read.
    """
    every = [read_splits(replace(config, numerics=replace(config.numerics, split=name))) for name in split_names]
    dataset, both = open_dataset(config), Overlaps()
    for name, splits in zip(split_names, every, strict=True):
        found = _overlaps(splits, dataset)
        both.faults += [fault for fault in found.faults if fault not in both.faults]
        both.notes += [f"split {name}: {note}" for note in found.notes]
    labeled = {same_image(sample.image): sample for splits in every for sample in splits.labeled}
    val = {same_image(sample.image): sample for splits in every for sample in splits.val}
    seen = {*labeled, *val}
    unlabeled = {same_image(sample.image): sample for splits in every for sample in splits.unlabeled}
    rest = [sample for key, sample in unlabeled.items() if key not in seen]
    union = Splits(list(labeled.values()), rest, list(val.values()))
    return _look_at_all(config, union, dataset, both, progress)


def _overlaps(splits: Splits, dataset: Dataset) -> Overlaps:
    return find_overlaps(splits, SameFile(dataset.root) if isinstance(dataset, FolderDataset) else same_image)


def _look_at_all(
    config: TrainConfig, splits: Splits, dataset: Dataset, overlaps: Overlaps, progress: Progress | None
) -> DataReport:
    samples = list(splits)
    findings: list[_Finding] = []
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for finding in pool.map(partial(_look_at, dataset), samples):
            findings.append(finding)
            if progress is not None:
                progress(len(findings), len(samples))
    labeled, val = _total(findings[: len(splits.labeled)]), _total(findings[-len(splits.val) :])
    facts = {name: fact for finding in findings for name, fact in finding.facts.items()}
    faults = [*overlaps.faults, *(finding.fault for finding in findings if finding.fault is not None)]
    if not faults:
        whole = (notes.fault_of_bits(facts, config.numerics.dataset.image_bits), _fault_of_masks(config, labeled, val))
        faults = [fault for fault in whole if fault]
    return DataReport(
        faults=faults,
        fingerprint="" if faults else _fingerprint(config, dataset, splits, facts),
        num_images=len(samples),
        notes=[*overlaps.notes, *notes.of_facts(facts)],
        num_transductive=overlaps.num_transductive,
        labeled_class_counts=labeled[:-1],
        val_class_counts=val[:-1],
    )


def _look_at(dataset: Dataset, sample: Sample) -> _Finding:
    counts = np.zeros(dataset.num_classes + 1, dtype=np.int64)
    try:
        if sample.label is None:
            return _Finding(None, counts, {sample.image: Facts.of(dataset.image(sample))})
        image, label = labeled_pair(dataset, sample)
    except (ValueError, OSError) as error:
        return _Finding(f"{sample.origin}: {error}", counts)
    histogram = label.histogram()
    counts += np.asarray([*histogram[: dataset.num_classes], histogram[IGNORE_INDEX]])
    return _Finding(None, counts, {sample.label: Facts.of(label), sample.image: Facts.of(image)})


def _fault_of_masks(config: TrainConfig, labeled: Sequence[int], val: Sequence[int]) -> str:
    """Report labels that are all masks of 0 and 255: 255 is read as ignored, so there is nothing to learn."""
    classes, meaning = np.add(labeled, val), config.numerics.dataset
    if meaning.colours or meaning.label_map or not classes[-1] or classes[1:-1].any():
        return ""
    return (
        "the labels hold 0 and 255 alone, and 255 is ignored; for masks of 0 and 255, the data set's file says "
        "`label_map: {255: 1}`"
    )


def _total(findings: list[_Finding]) -> list[int]:
    return [int(count) for count in np.sum([finding.counts for finding in findings], axis=0)]


def state_of_files(config: TrainConfig, splits: Splits) -> str:
    """Return a hash of size and modification time of a run's files; it changes when one of them is replaced."""
    digest = hashlib.sha256(repr((config.numerics.dataset, config.execution.data_root, READING)).encode())
    paths = [Path(config.execution.data_root) / name for name in _file_names(splits)]
    if config.execution.data_store:
        paths += sorted(Path(config.execution.data_store).glob("*.arrow"))
    for path in paths:
        if path.is_file():
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _fingerprint(config: TrainConfig, dataset: Dataset, splits: Splits, facts: Mapping[str, Facts]) -> str:
    """Hash names and contents, and for files that earlier versions read differently, how they are read now."""
    if not isinstance(dataset, FolderDataset):
        return hashlib.sha256(str(asdict(config.numerics.dataset.scenes)).encode()).hexdigest()
    names = [name for name in _file_names(splits) if dataset.has_file(name)]
    marks: dict[str, set[str]] = {}
    for name, fact in facts.items():
        marks.setdefault(file_of(name), set()).update(note for note in fact.notes if note in READ_OTHERWISE)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        hashes = pool.map(dataset.sha256, names)
        lines = [
            " ".join([name, content, *sorted(marks.get(name, ()))]) + "\n"
            for name, content in zip(names, hashes, strict=True)
        ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_names(splits: Splits) -> list[str]:
    return sorted({file_of(name) for sample in splits for name in (sample.image, sample.label) if name is not None})
