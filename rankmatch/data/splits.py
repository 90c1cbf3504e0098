"""Read split lists: which samples are labeled, unlabeled and for validation.

A line of a list is `<image> <label>`, with paths below the data root (`rankmatch.data.lists` reads it). If the
configuration has patterns, the name to put into them is enough.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rankmatch.checks import MissingFileError
from rankmatch.config import NumericsConfig, TrainConfig
from rankmatch.data import hints
from rankmatch.data.catalog import FolderDataset, Sample, data_root, open_dataset
from rankmatch.data.folders import find_files, is_hidden
from rankmatch.data.lists import frames_of, leads_out, list_lines, same_image, words_of
from rankmatch.execution import ExecutionConfig
from rankmatch.unused import counts_unlabeled


@dataclass(frozen=True, slots=True)
class Splits:
    """The three lists of a run; an unlabeled sample never has a label."""

    labeled: list[Sample]
    unlabeled: list[Sample]
    val: list[Sample]
    num_repeats: int = field(default=0, compare=False)
    """Number of lines in the validation list that repeat an earlier one; they are not in `val`."""

    def __iter__(self) -> Iterator[Sample]:
        """Iterate over all three lists."""
        yield from self.labeled
        yield from self.unlabeled
        yield from self.val


def read_splits(config: TrainConfig) -> Splits:
    """Read the split lists of a run, or draw them for the drawn scenes.

    With `evaluation.held_out` the validation list is not read; a part of a training list replaces it.

    Raises:
        ValueError: A folder or file does not exist, the split is unknown, a line is malformed, a list is empty, a
            sample is both labeled and for validation, or no image can be held out.
    """
    is_drawn = config.numerics.dataset.name == "synthetic"
    splits = _scene_splits(config.numerics) if is_drawn else _folder_splits(config)
    if config.numerics.evaluation.held_out:
        splits = _hold_out(splits, config)
    _check(splits, config.numerics)
    return splits


def read_train(
    config: TrainConfig, say: Callable[[str], None] = lambda line: None, *, with_val: bool = False
) -> list[Sample]:
    """Read `train.txt`, all images that can be trained on; without it, list the files that match `image_pattern`.

    A listed file has a label if one exists at `label_pattern`. Images in `val.txt` are left out unless `with_val` is
    true. Each image comes once. `say` is called with what was skipped.

    Raises:
        ValueError: It is not there, a line is malformed, or it is empty.
    """
    if config.numerics.dataset.name == "synthetic":
        raise ValueError("dataset must have files; the lists of the drawn scenes are drawn by the split's name")
    folder = split_root(config)
    path, val = folder / "train.txt", folder / "val.txt"
    if path.is_file() or not config.execution.image_pattern:
        train = _read_list(path, config.execution)
    else:
        taken = set() if with_val else listed_images(val, config)
        train = [sample for sample in _matching_files(config, say) if same_image(sample.image) not in taken]
    once = _once(train)
    if len(once) < len(train):
        say(f"{path}: {len(train) - len(once)} lines repeat an image; each image is drawn from once")
    if not train:
        raise ValueError(f"{path} must hold a sample, or image_pattern match a file; {_why_none(path, config)}")
    return once


def _why_none(path: Path, config: TrainConfig) -> str:
    """Say what is there where no sample was found."""
    if path.is_file() or not config.execution.image_pattern:
        return "it is empty"
    folder = _folder_of_images(config)
    kinds = Counter(found.suffix or "no suffix" for found in find_files(folder).files)
    there = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common(5))
    return f"{config.execution.image_pattern} matches none of the files below {folder} ({there or 'there are none'})"


def read_val(config: TrainConfig, say: Callable[[str], None] = lambda line: None) -> list[Sample]:
    """Read only the validation list, or the images held out instead; `say` is called for lines that repeat an image.

    Raises:
        ValueError: It is not there, a line is malformed, or it is empty.
    """
    if config.numerics.evaluation.held_out:
        return read_splits(config).val
    if config.numerics.dataset.name == "synthetic":
        return _scene_splits(config.numerics).val
    val, num_repeats = _read_val(split_root(config), config.execution)
    if num_repeats:
        say(f"the val list repeats images on {num_repeats} line{'s' if num_repeats > 1 else ''}; each counts once")
    if not val:
        raise ValueError("the val list must hold a sample; it is empty")
    return val


def listed_images(path: Path, config: TrainConfig) -> set[str]:
    """Return the images in a split list as spelling-independent keys; empty if the list does not exist.

    Raises:
        ValueError: A line is malformed.
    """
    return _images(_read_list(path, config.execution, with_labels=False)) if path.is_file() else set()


def split_sha256(splits: Splits) -> str:
    """Hash the three lists (their content, not their place)."""
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
    if config.execution.image_pattern and not given:
        return candidates[0]  # where `splits draw` makes the first lists
    looked = " or ".join(map(str, candidates))
    raise MissingFileError(f"split_root must be the folder of the split lists; got {given!r}, and there is no {looked}")


def split_names(root: Path) -> list[str]:
    """Return the splits that have lists in a folder of split lists."""
    names = (path.parent.name for path in root.glob("*/labeled.txt"))
    return sorted(name for name in names if not is_hidden(name))


def _folder_splits(config: TrainConfig) -> Splits:
    root = split_root(config)
    folder = root / config.numerics.split
    if not (folder / "labeled.txt").is_file():
        known = ", ".join(split_names(root)) or "none"
        raise MissingFileError(f"split must be one of those in {root} ({known}); got {config.numerics.split!r}")
    labeled = _read_list(folder / "labeled.txt", config.execution)
    is_held_out = config.numerics.evaluation.held_out > 0
    val, num_repeats = ([], 0) if is_held_out else _read_val(root, config.execution)
    return Splits(labeled, _unlabeled(folder, labeled, config), val, num_repeats)


def _read_val(root: Path, execution: ExecutionConfig) -> tuple[list[Sample], int]:
    """Return the validation list with each image once, so that none counts twice, and the number of repeated lines."""
    samples = _read_list(root / "val.txt", execution)
    once = _once(samples)
    first = {same_image(sample.image): sample for sample in once}
    for sample in samples:
        other = first[same_image(sample.image)]
        if same_image(other.label or "") != same_image(sample.label or ""):
            raise ValueError(
                f"{sample.origin}: image {sample.image} must have one label; {other.label} is its label in "
                f"{other.origin}, got {sample.label}"
            )
    return once, len(samples) - len(once)


def _unlabeled(folder: Path, labeled: list[Sample], config: TrainConfig) -> list[Sample]:
    for path in (folder / "unlabeled.txt", folder.parent / "train.txt"):
        if path.is_file():
            break
    else:
        if not counts_unlabeled(config.numerics):
            return []
        name = config.numerics.method.name
        raise MissingFileError(f"method {name} needs {folder / 'unlabeled.txt'} or {path}; neither exists")
    taken = _images(labeled) if path.name == "train.txt" else set()
    samples = _read_list(path, config.execution, with_labels=False)
    return [sample for sample in samples if same_image(sample.image) not in taken]


def _once(samples: Iterable[Sample]) -> list[Sample]:
    """Return the first sample of each image."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(same_image(sample.image), sample)
    return list(first.values())


def _images(samples: Iterable[Sample]) -> set[str]:
    """Return the spelling-independent keys of samples' images."""
    return {same_image(sample.image) for sample in samples}


def _read_list(path: Path, execution: ExecutionConfig, *, with_labels: bool = True) -> list[Sample]:
    if not path.is_file():
        raise MissingFileError(f"split list {path} is not there")
    samples = []
    for number, line in enumerate(list_lines(path), 1):
        if line.strip():
            samples += _samples_of(line, f"{path}:{number}", execution, with_labels)
    return samples


def _samples_of(line: str, origin: str, execution: ExecutionConfig, with_labels: bool) -> list[Sample]:
    """Return the sample of a line, or one for each frame that it names."""
    words = words_of(line)
    if len(words) == 1 and execution.image_pattern:
        name = _name(execution.image_pattern, words[0]) or words[0]
        words = [_path(pattern, name) for pattern in (execution.image_pattern, execution.label_pattern) if pattern]
    if len(words) > 2 or (with_labels and len(words) < 2):
        raise ValueError(f"{origin}: a line must be `<image> <label>`; got {line!r}{hints.of_line(line, len(words))}")
    for word in words:
        if leads_out(word, Path(execution.data_root)):
            raise ValueError(
                f"{origin}: paths in lists start from data_root and stay in it; got {word!r}: choose a "
                "folder above it as data_root, or link to it there"
            )
    columns = [_frames(word, origin) for word in words]
    num_frames = {len(column) for column in columns}
    if num_frames != {len(columns[0])} or not columns[0]:
        raise ValueError(f"{origin}: image and label must name as many frames, first to last; got {line!r}")
    if with_labels:
        return [Sample(image, label, origin) for image, label in zip(*columns, strict=True)]
    truths = columns[1] if len(columns) == 2 else [None] * len(columns[0])
    return [Sample(image, None, origin, truth) for image, truth in zip(columns[0], truths, strict=True)]


def _frames(word: str, origin: str) -> list[str]:
    try:
        return frames_of(word)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None


def _path(pattern: str, name: str) -> str:
    return pattern.replace("{}", name)


def _name(pattern: str, path: str) -> str:
    """Return the part of a path that stands for a pattern's `{}`; empty if the path does not match."""
    before, after = pattern.split("{}")
    return path[len(before) : -len(after) or None] if path.startswith(before) and path.endswith(after) else ""


def unlisted_images(
    config: TrainConfig, split_names: Iterable[str], say: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Return the images that match `image_pattern` but are in no list of the splits; empty without such a folder.

    `say` is called with what was skipped.
    """
    if not config.execution.image_pattern or not _folder_of_images(config).is_dir():
        return []
    every = (read_splits(replace(config, numerics=replace(config.numerics, split=name))) for name in split_names)
    listed = {same_image(sample.image) for splits in every for sample in splits}
    return [sample.image for sample in _matching_files(config, say) if same_image(sample.image) not in listed]


def _folder_of_images(config: TrainConfig) -> Path:
    return data_root(config) / config.execution.image_pattern.partition("{}")[0].rpartition("/")[0]


def _matching_files(config: TrainConfig, say: Callable[[str], None]) -> list[Sample]:
    root, execution = data_root(config), config.execution
    found = find_files(_folder_of_images(config))
    if skipped := found.skipped():
        say(skipped)
    paths = (path.relative_to(root).as_posix() for path in found.files)
    names = [name for path in paths if (name := _name(execution.image_pattern, path))]
    labels = {name: _path(execution.label_pattern, name) for name in names}  # an empty pattern names none
    images = {name: _path(execution.image_pattern, name) for name in sorted(names)}
    are_labels = set(labels.values())  # images and labels may share a folder
    return [
        Sample(image, labels[name] if labels[name] and (root / labels[name]).is_file() else None, image)
        for name, image in images.items()
        if image not in are_labels
    ]


def _scene_splits(numerics: NumericsConfig) -> Splits:
    scenes = numerics.dataset.scenes
    num_labeled = scenes.num_labeled(numerics.split)
    # one order whatever the split, so that every split holds the smaller ones
    order = _shuffled(scenes.num_train, scenes.seed, "SCENE")
    names = [f"scene:train:{index}" for index in order]
    return Splits(
        labeled=[Sample(name, name, name) for name in names[:num_labeled]],
        unlabeled=[Sample(name, None, name, truth=name) for name in names[num_labeled:]],
        val=[Sample(name, name, name) for name in (f"scene:val:{index}" for index in range(scenes.num_val))],
    )


def _hold_out(splits: Splits, config: TrainConfig) -> Splits:
    """Draw the held-out part, and remove its images from both training lists."""
    numerics, settings = config.numerics, config.numerics.evaluation
    candidates = splits.labeled if settings.held_out_from == "labeled" else _with_labels(splits, config)
    if not candidates:
        raise ValueError(
            "evaluation.held_out_from must be labeled where no image of the unlabeled list has a label that is there; "
            f"got {settings.held_out_from!r}"
        )
    order = _shuffled(len(candidates), numerics.seed, "HELD_OUT")
    val = _once(candidates[place] for place in sorted(order[: settings.num_held_out(len(candidates))]))
    taken = _images(val)
    labeled, unlabeled = (
        [one for one in part if same_image(one.image) not in taken] for part in (splits.labeled, splits.unlabeled)
    )
    if not (labeled if settings.held_out_from == "labeled" else unlabeled):
        raise ValueError(
            f"evaluation.held_out must leave an image of the {settings.held_out_from} list to train on, which has "
            f"{len(candidates)} that can be held out; got {settings.held_out:g}"
        )
    return Splits(labeled, unlabeled, val)


def _with_labels(splits: Splits, config: TrainConfig) -> list[Sample]:
    """Return the unlabeled images that can be held out, each once, without those in the labeled list."""
    dataset, seen = open_dataset(config), _images(splits.labeled)
    found = []
    for sample in splits.unlabeled:
        if sample.truth is None or same_image(sample.image) in seen:
            continue
        seen.add(same_image(sample.image))
        if not isinstance(dataset, FolderDataset) or dataset.has_label(sample.truth):
            found.append(replace(sample, label=sample.truth, truth=None))
    return found


def _check(splits: Splits, numerics: NumericsConfig) -> None:
    needed = ["labeled", "val", *(["unlabeled"] if counts_unlabeled(numerics) else [])]
    for name in needed:
        if not getattr(splits, name):
            raise ValueError(f"the {name} list of split {numerics.split!r} must hold a sample; it is empty")
    for_val = {same_image(sample.image): sample for sample in splits.val}
    for sample in splits.labeled:
        if other := for_val.get(same_image(sample.image)):
            raise ValueError(
                f"{sample.origin}: image {sample.image} must not be for validation too; it is, in {other.origin}"
            )


def _shuffled(num: int, seed: int, purpose: str) -> list[int]:
    """Draw an order, counted by seed and purpose."""
    import torch  # takes seconds to import, and the lists of files are read without it

    from rankmatch.distributed import Purpose, generator

    order: list[int] = torch.randperm(num, generator=generator(seed, 0, 0, Purpose[purpose])).tolist()
    return order
