"""Which samples are labeled, unlabeled and for validation."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from rankmatch.config import NumericsConfig, TrainConfig
from rankmatch.data.catalog import Sample, data_root
from rankmatch.distributed import Purpose, generator


@dataclass(frozen=True, slots=True)
class Splits:
    """The three lists of a run; an unlabeled sample never carries a label."""

    labeled: list[Sample]
    unlabeled: list[Sample]
    val: list[Sample]

    def __iter__(self) -> Iterator[Sample]:
        """Go through all three lists."""
        yield from self.labeled
        yield from self.unlabeled
        yield from self.val


def read_splits(config: TrainConfig) -> Splits:
    """Read the split lists of a run, or draw them for the drawn scenes.

    Raises:
        ValueError: A folder or file is not there, the split is unknown, a line is malformed, a list is empty, or a
            sample is both labeled and for validation.
    """
    is_drawn = config.numerics.dataset.name == "synthetic"
    splits = _scene_splits(config.numerics) if is_drawn else _folder_splits(config)
    _check(splits, config.numerics)
    return splits


def read_train(config: TrainConfig) -> list[Sample]:
    """Read `train.txt`, all images that could be labeled, with their labels.

    Raises:
        ValueError: It is not there, a line is malformed, or it is empty.
    """
    if config.numerics.dataset.name == "synthetic":
        raise ValueError("dataset must have files; the lists of the drawn scenes are drawn by the split's name")
    path = split_root(config) / "train.txt"
    train = _read_list(path)
    if not train:
        raise ValueError(f"{path} must hold a sample; it is empty")
    return train


def read_val(config: TrainConfig) -> list[Sample]:
    """Read the validation list alone.

    Raises:
        ValueError: It is not there, a line is malformed, or it is empty.
    """
    is_drawn = config.numerics.dataset.name == "synthetic"
    val = _scene_splits(config.numerics).val if is_drawn else _read_list(split_root(config) / "val.txt")
    if not val:
        raise ValueError("the val list must hold a sample; it is empty")
    return val


def needs_unlabeled(numerics: NumericsConfig) -> bool:
    """Tell whether a run reads or counts the unlabeled list."""
    return numerics.method.name != "supervised" or numerics.method.supervised_steps == "equal"


def split_sha256(splits: Splits) -> str:
    """Hash the three lists (not where they lie)."""
    digest = hashlib.sha256()
    for name in ("labeled", "unlabeled", "val"):
        samples: list[Sample] = getattr(splits, name)
        digest.update("".join([f"{name}\n", *(f"{sample.image} {sample.label}\n" for sample in samples)]).encode())
    return digest.hexdigest()


def split_root(config: TrainConfig) -> Path:
    """Return the folder of the split lists.

    Raises:
        ValueError: It is not there.
    """
    root, name = data_root(config), config.numerics.dataset.name
    given = config.execution.split_root
    candidates = [Path(given)] if given else [root / "splits", root.parent / "splits" / name]
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = " or ".join(map(str, candidates))
    raise ValueError(f"split_root must be the folder of the split lists; got {given!r}, and there is no {looked}")


def _folder_splits(config: TrainConfig) -> Splits:
    root = split_root(config)
    folder = root / config.numerics.split
    if not (folder / "labeled.txt").is_file():
        known = ", ".join(sorted(path.parent.name for path in root.glob("*/labeled.txt"))) or "none"
        raise ValueError(f"split must be one of those in {root} ({known}); got {config.numerics.split!r}")
    labeled = _read_list(folder / "labeled.txt")
    return Splits(labeled, _unlabeled(folder, labeled, config.numerics), _read_list(root / "val.txt"))


def _unlabeled(folder: Path, labeled: list[Sample], numerics: NumericsConfig) -> list[Sample]:
    for path in (folder / "unlabeled.txt", folder.parent / "train.txt"):
        if path.is_file():
            break
    else:
        if not needs_unlabeled(numerics):
            return []
        raise ValueError(f"method {numerics.method.name} needs {folder / 'unlabeled.txt'} or {path}; neither is there")
    taken = {sample.image for sample in labeled} if path.name == "train.txt" else set()
    return [sample for sample in _read_list(path, with_labels=False) if sample.image not in taken]


def _read_list(path: Path, *, with_labels: bool = True) -> list[Sample]:
    if not path.is_file():
        raise ValueError(f"split list {path} is not there")
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) > 2 or (with_labels and len(words) < 2):
            raise ValueError(f"{path}:{number}: a line must be `<image> <label>`; got {line!r}")
        named = words[1] if len(words) == 2 else None
        label, truth = (named, None) if with_labels else (None, named)
        samples.append(Sample(words[0], label, f"{path}:{number}", truth))
    return samples


def _scene_splits(numerics: NumericsConfig) -> Splits:
    scenes = numerics.dataset.scenes
    if numerics.split not in map(str, range(1, scenes.num_train + 1)):
        raise ValueError(
            f"split must be how many of the drawn scenes are labeled, 1 to {scenes.num_train}; got {numerics.split!r}"
        )
    # one order whatever the split, so that every split holds the smaller ones
    order = torch.randperm(scenes.num_train, generator=generator(scenes.seed, 0, 0, Purpose.SCENE)).tolist()
    names = [f"scene:train:{index}" for index in order]
    num_labeled = int(numerics.split)
    return Splits(
        labeled=[Sample(name, name, name) for name in names[:num_labeled]],
        unlabeled=[Sample(name, None, name, truth=name) for name in names[num_labeled:]],
        val=[Sample(name, name, name) for name in (f"scene:val:{index}" for index in range(scenes.num_val))],
    )


def _check(splits: Splits, numerics: NumericsConfig) -> None:
    needed = ["labeled", "val", *(["unlabeled"] if needs_unlabeled(numerics) else [])]
    for name in needed:
        if not getattr(splits, name):
            raise ValueError(f"the {name} list of split {numerics.split!r} must hold a sample; it is empty")
    for_val = {sample.image: sample for sample in splits.val}
    for sample in splits.labeled:
        if sample.image in for_val:
            other = for_val[sample.image].origin
            raise ValueError(f"{sample.origin}: image {sample.image} must not be for validation too; it is, in {other}")
