"""Data sets: samples of an image and a label, from a folder or drawn."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from rankmatch.checks import MissingFileError
from rankmatch.config import IGNORE_INDEX, DatasetConfig, SceneConfig, TrainConfig
from rankmatch.data import hints
from rankmatch.data.lists import file_of
from rankmatch.data.pixels import TURNED_SOMEHOW, Facts, label_with_facts, read_image
from rankmatch.data.staging import stage
from rankmatch.data.synthetic import draw_scene
from rankmatch.hashing import sha256_of

if TYPE_CHECKING:
    from rankmatch.data.store import Store

SCENE_CACHE_BYTES = 2**27
FIRST_VAL_SCENE = 2**31
"""Scenes from this number on are validation scenes, so that no number of train scenes reaches them."""

Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sample:
    """A line of a split list: paths below the data root (`volume.tif#12` is a frame), or `scene:train:17`."""

    image: str
    label: str | None
    origin: str = field(default="", compare=False)
    """`<file>:<line>` of the split list, for messages."""
    truth: str | None = field(default=None, compare=False)
    """The label of an unlabeled sample, if its list names one: for figures, never for a loss."""


@runtime_checkable
class Dataset(Protocol):
    """Where the pixels of samples come from."""

    num_classes: int

    def image(self, sample: Sample) -> Image.Image:
        """Return the image, in mode RGB."""

    def label(self, sample: Sample) -> Image.Image:
        """Return the label with `label_map` applied, in mode L: classes and 255."""


def original_values(meaning: DatasetConfig) -> tuple[Array, list[str]]:
    """Return each class's value or colour in the data set's own labels, and a sentence for each ambiguous one.

    If a class has several values, the first one in `label_map` is taken.
    """
    values, notes = np.arange(meaning.num_classes, dtype=np.uint8), []
    for number in range(meaning.num_classes):
        given = [value for value, target in meaning.label_map.items() if target == number]
        also = [*given[1:], *([number] if number not in meaning.label_map else [])]
        if given:
            values[number] = given[0]
        if given and also:
            notes.append(f"class {number} is written as {given[0]}; {', '.join(map(str, also))} would mean it too")
    return (np.array(meaning.colours, dtype=np.uint8)[values] if meaning.colours else values), notes


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A lookup table from label values to classes.

    Raises:
        ValueError: From `apply`, if a value is neither a class nor 255 after mapping.
    """

    values: Array
    num_classes: int

    @classmethod
    def of(cls, label_map: Mapping[int, int], num_classes: int) -> "LabelTable":
        """Build the table; a value that is not in `label_map` stays as it is."""
        values = np.arange(256, dtype=np.uint8)
        values[list(label_map)] = list(label_map.values())
        return cls(values, num_classes)

    def apply(self, label: Array, name: str) -> Array:
        """Map the values of a label that is called `name` in messages."""
        mapped = label
        if (self.values != np.arange(256)).any():
            mapped = np.frombuffer(label.tobytes().translate(self.values.tobytes()), np.uint8).reshape(label.shape)
        if (mapped + np.uint8(1)).max() > self.num_classes:  # 255 becomes 0
            wrong = (mapped >= self.num_classes) & (mapped != IGNORE_INDEX)
            found = ", ".join(map(str, np.unique(label[wrong])[:8]))
            why = hints.of_value(label, name, np.unique(label[wrong]), self.num_classes)
            raise ValueError(
                f"label {name} holds {found}, which is no class; allowed are 0..{self.num_classes - 1} and 255{why}"
            )
        return mapped


class FolderDataset:
    """Image and label files below one folder, or in a packed store."""

    def __init__(self, root: Path, meaning: DatasetConfig, store: "Store | None" = None) -> None:
        self.root, self.num_classes, self._meaning, self._store = root, meaning.num_classes, meaning, store
        self._table = LabelTable.of(meaning.label_map, meaning.num_classes)

    def image(self, sample: Sample) -> Image.Image:
        """Return the image, in mode RGB.

        Raises:
            ValueError: The file is missing or cannot be decoded.
        """
        if self._store is not None:
            return self._store.image(sample.image)
        try:
            return read_image(self.root / sample.image, sample.image, image_bits=self._meaning.image_bits)
        except MissingFileError as error:
            raise self._missing(error, sample.image) from None

    def label(self, sample: Sample) -> Image.Image:
        """Return the label, in mode L.

        Raises:
            ValueError: The file is missing, cannot be decoded, or holds values that are no classes.
        """
        assert sample.label is not None
        values, facts = self._label(sample.label)
        return facts.on(Image.fromarray(self._table.apply(values, sample.label)))

    def _label(self, name: str) -> tuple[Array, Facts]:
        if self._store is not None:
            return self._store.label(name)
        try:
            return label_with_facts(self.root / name, name, self._meaning.colours)
        except MissingFileError as error:
            raise self._missing(error, name) from None

    def _missing(self, error: MissingFileError, name: str) -> MissingFileError:
        return MissingFileError(f"{error}{hints.of_missing(self.root, file_of(name))}")

    def has_label(self, name: str) -> bool:
        """Return whether a label exists."""
        return self.has_file(file_of(name)) if self._store is None else self._store.has("label", name)

    def has_file(self, name: str) -> bool:
        """Return whether a file exists or was packed."""
        return (self.root / name).is_file() or (self._store is not None and name in self._store.sources)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file; for a packed one, the hash at that time."""
        packed = self._store.sources.get(name) if self._store is not None else None
        return packed.sha256 if packed is not None else sha256_of(self.root / name)


class SceneDataset:
    """Drawn scenes; some are cached, because drawing one takes longer than decoding a file."""

    def __init__(self, scenes: SceneConfig, num_classes: int, label_map: Mapping[int, int]) -> None:
        self.num_classes = num_classes
        self._scenes = scenes
        self._table = LabelTable.of(label_map, num_classes)

    def image(self, sample: Sample) -> Image.Image:
        """Return the drawn image."""
        return Image.fromarray(self._draw(sample.image)[0])

    def label(self, sample: Sample) -> Image.Image:
        """Return the label of the drawn image.

        Raises:
            ValueError: The data set has fewer classes than the scenes.
        """
        assert sample.label is not None
        return Image.fromarray(self._table.apply(self._draw(sample.label)[1], sample.label))

    def _draw(self, name: str) -> tuple[Array, Array]:
        _, subset, index = name.split(":")
        first = FIRST_VAL_SCENE if subset == "val" else 0
        return _drawer(self._scenes.seed, self._scenes.size)(first + int(index))


def open_dataset(config: TrainConfig) -> Dataset:
    """Open the drawn scenes, or for every other data set the folder `data_root`.

    Raises:
        ValueError: The folder does not exist, or the data store was not packed from its files.
    """
    dataset = config.numerics.dataset
    if dataset.name == "synthetic":
        return SceneDataset(dataset.scenes, dataset.num_classes, dataset.label_map)
    root = data_root(config)
    store = _open_store(config, root) if config.execution.data_store else None
    return FolderDataset(root, dataset, store)


def _open_store(config: TrainConfig, root: Path) -> "Store":
    from rankmatch.data.store import Store  # pyarrow takes a second to import

    folder = Path(config.execution.data_store)
    store = Store(stage(folder) if config.execution.stage_data_store else folder)
    store.check_sources(root, config.numerics.dataset)
    return store


def data_root(config: TrainConfig) -> Path:
    """Return the folder to which the paths in the split lists are relative.

    Raises:
        ValueError: It is not given or does not exist.
    """
    root, name = config.execution.data_root, config.numerics.dataset.name
    if not root or not Path(root).is_dir():
        raise MissingFileError(
            f"data_root must be the folder of the data set {name!r}; got {root!r}, which is no folder; "
            "if it has moved: data_root=FOLDER"
        )
    return Path(root)


def pack_keys(samples: Iterable[Sample], root: Path) -> list[tuple[str, str]]:
    """Return role and name of every file that the samples read; true labels of unlabeled images only if they exist."""
    keys = []
    for sample in samples:
        label = sample.label or sample.truth
        keys.append(("image", sample.image))
        if label is not None and (sample.label or (root / file_of(label)).is_file()):
            keys.append(("label", label))
    return keys


def labeled_pair(dataset: Dataset, sample: Sample) -> tuple[Image.Image, Image.Image]:
    """Read image and label of a sample.

    Raises:
        ValueError: Their sizes differ.
    """
    image = dataset.image(sample)
    return image, _label_of(dataset, sample, image)


def truth_of(dataset: Dataset, sample: Sample, image: Image.Image) -> Image.Image | None:
    """Read the true label of an unlabeled sample; None if its list names none or the file does not exist.

    Raises:
        ValueError: The file exists but is no label of this image.
    """
    if sample.truth is None:
        return None
    if isinstance(dataset, FolderDataset) and not dataset.has_label(sample.truth):
        return None
    return _label_of(dataset, replace(sample, label=sample.truth), image)


def _label_of(dataset: Dataset, sample: Sample, image: Image.Image) -> Image.Image:
    label = dataset.label(sample)
    if image.size != label.size:
        sizes = [f"{width}x{height}" for width, height in (image.size, label.size)]
        is_turned = not TURNED_SOMEHOW.isdisjoint(Facts.of(image).notes) and image.size == label.size[::-1]
        why = ", as its EXIF orientation turns it: turn the label too, or take the tag out" if is_turned else ""
        raise ValueError(
            f"label {sample.label} must have the size of image {sample.image}, {sizes[0]}{why}; got {sizes[1]}"
        )
    return label


@lru_cache(maxsize=4)
def _drawer(seed: int, size: int) -> Callable[[int], tuple[Array, Array]]:
    num_kept = max(1, SCENE_CACHE_BYTES // (4 * size * size))
    return lru_cache(maxsize=num_kept)(partial(draw_scene, seed=seed, size=size))
