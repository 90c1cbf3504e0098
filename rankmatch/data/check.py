"""Open every file of a run once before it starts, and list all that is wrong with them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rankmatch.config import TrainConfig
from rankmatch.data.catalog import Dataset, FolderDataset, Sample, labeled_pair, open_dataset
from rankmatch.data.pixels import file_of
from rankmatch.data.splits import Splits, read_splits

Progress = Callable[[int, int], None]
"""Called with the number of samples looked at and of all."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was found in the three lists of a run."""

    faults: list[str]
    """One line each, in the order of the lists; empty: the run can start."""
    fingerprint: str
    """Hash over the files' names and contents, or over the settings of drawn scenes."""
    num_images: int
    labeled_class_counts: list[int] = field(default_factory=list)
    """Pixels of every class in the labeled list."""
    val_class_counts: list[int] = field(default_factory=list)
    """Pixels of every class in the validation list."""

    @property
    def present_classes(self) -> list[int]:
        """The classes that occur in the validation labels, over which the mean IoU is taken."""
        return [index for index, count in enumerate(self.val_class_counts) if count]


@dataclass(frozen=True, slots=True)
class _Finding:
    fault: str | None
    counts: npt.NDArray[np.int64]


def check_data(config: TrainConfig, *, progress: Progress | None = None) -> DataReport:
    """Decode every image and every label that the run opens.

    Faults of single files are listed in the report.

    Raises:
        ValueError: The lists themselves cannot be read.
    """
    return _look_at_all(config, read_splits(config), open_dataset(config), progress)


def _look_at_all(config: TrainConfig, splits: Splits, dataset: Dataset, progress: Progress | None) -> DataReport:
    samples = list(splits)
    findings = []
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for finding in pool.map(partial(_look_at, dataset), samples):
            findings.append(finding)
            if progress is not None:
                progress(len(findings), len(samples))
    return DataReport(
        faults=[finding.fault for finding in findings if finding.fault is not None],
        fingerprint=_fingerprint(config, dataset, splits),
        num_images=len(samples),
        labeled_class_counts=_total(findings[: len(splits.labeled)]),
        val_class_counts=_total(findings[-len(splits.val) :]),
    )


def check_files(config: TrainConfig, split_names: Sequence[str], *, progress: Progress | None = None) -> DataReport:
    """Decode every file of several splits once; see `check_data`.

    Raises:
        ValueError: The lists themselves cannot be read.
    """
    every = [read_splits(replace(config, numerics=replace(config.numerics, split=name))) for name in split_names]
    labeled = {sample.image: sample for splits in every for sample in splits.labeled}
    val = {sample.image: sample for splits in every for sample in splits.val}
    seen = {*labeled, *val}
    unlabeled = {sample.image: sample for splits in every for sample in splits.unlabeled if sample.image not in seen}
    union = Splits(list(labeled.values()), list(unlabeled.values()), list(val.values()))
    return _look_at_all(config, union, open_dataset(config), progress)


def _look_at(dataset: Dataset, sample: Sample) -> _Finding:
    counts = np.zeros(dataset.num_classes, dtype=np.int64)
    try:
        if sample.label is None:
            dataset.image(sample)
        else:
            _, label = labeled_pair(dataset, sample)
            counts += np.asarray(label.histogram()[: dataset.num_classes])
    except ValueError as error:
        return _Finding(f"{sample.origin}: {error}", counts)
    return _Finding(None, counts)


def _total(findings: list[_Finding]) -> list[int]:
    return [int(count) for count in np.sum([finding.counts for finding in findings], axis=0)]


def state_of_files(config: TrainConfig, splits: Splits) -> str:
    """Return a hash that changes when a file of the run is exchanged; opens none, so it tells nothing of content."""
    digest = hashlib.sha256(repr((config.numerics.dataset, config.execution.data_root)).encode())
    paths = [Path(config.execution.data_root) / name for name in _file_names(splits)]
    if config.execution.data_store:
        paths += sorted(Path(config.execution.data_store).glob("*.arrow"))
    for path in paths:
        if path.is_file():
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _fingerprint(config: TrainConfig, dataset: Dataset, splits: Splits) -> str:
    if not isinstance(dataset, FolderDataset):
        return hashlib.sha256(str(asdict(config.numerics.dataset.scenes)).encode()).hexdigest()
    names = [name for name in _file_names(splits) if dataset.has_file(name)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        hashes = pool.map(dataset.sha256, names)
        lines = [f"{name} {content}\n" for name, content in zip(names, hashes, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_names(splits: Splits) -> list[str]:
    return sorted({file_of(name) for sample in splits for name in (sample.image, sample.label) if name is not None})
