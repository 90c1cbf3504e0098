"""Prepare a data set: check and show its files, pack and convert them, download or draw its split lists."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from orchestration.grids import kept_lists
from orchestration.grids.cells import Cell, changed, compose_untrained, experiments_folder, from_yaml
from orchestration.grids.values import read_settings
from orchestration.machine import files
from orchestration.planning import costs
from orchestration.runs.folders import CellFolder
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.store import as_a_grid_has_it
from rankmatch.checks import one_of
from rankmatch.config import TrainConfig
from rankmatch.unused import counts_unlabeled

if TYPE_CHECKING:
    from rankmatch.data.catalog import Sample


_GIVE_BATCH = "the files are good; set a smaller batch in the data set's file, or pass it here as in the grid"


def configuration(name: str, settings: Sequence[str]) -> TrainConfig:
    """Compose the configuration of a data set with some settings, `key=value`.

    Raises:
        ValueError: The data set or a setting is not allowed.
    """
    return compose_untrained(name, read_settings(settings))


def check(name: str, settings: Sequence[str], console: Console) -> None:
    """Open every file of one split (`split=`) or of all splits once; print the number of pixels of every class.

    Raises:
        ValueError: Faults were found; the message has a line for each.
    """
    from rankmatch.data.check import check_files
    from rankmatch.data.splits import unlisted_images

    config = configuration(name, settings)
    names = _split_names(config, settings)
    if unlisted := unlisted_images(config, names, _sayer(console)):
        _sayer(console)(f"in no list of these splits, but matching image_pattern: {len(unlisted)}, first {unlisted[0]}")
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("images", total=None)
        report = check_files(
            config, names, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    for note in report.notes:
        _sayer(console)(note)
    if report.faults:
        num = len(report.faults)
        head = f"{num} fault{'s' if num > 1 else ''} in {report.num_images} samples:"
        raise ValueError("\n".join([head, *report.faults]))
    for note in filter(None, [_batch_fault(config, name, "supervised") for name in names]):
        _sayer(console)(f"{note}; with method.supervised_steps=equal it can")
    classes = config.execution.class_names or [str(number) for number in range(config.numerics.dataset.num_classes)]
    table = Table("class", "labeled pixels", "val pixels")
    for row in zip(classes, report.labeled_class_counts, report.val_class_counts, strict=True):
        table.add_row(row[0], f"{row[1]:,}", f"{row[2]:,}")
    console.print(table)
    console.print(
        f"{report.num_images} images of split {', '.join(names)} are good; "
        f"{len(report.present_classes)} of {len(classes)} classes occur in the val labels"
    )
    if faults := list(filter(None, [_batch_fault(config, name, config.numerics.method.name) for name in names])):
        raise ValueError("\n".join([*faults, _GIVE_BATCH]))


def _batch_fault(config: TrainConfig, split: str, method: str) -> str:
    """Return the fault, as a plan reports it, of a batch larger than the list that an epoch passes over, or nothing."""
    numerics = replace(config.numerics, split=split, method=replace(config.numerics.method, name=method))
    if method == "supervised" and counts_unlabeled(numerics):
        return ""  # as all other methods
    try:
        costs.num_steps(replace(config, numerics=numerics))
    except ValueError as error:
        who = "method supervised" if method == "supervised" else "a method that sees unlabeled images"
        return f"{who} cannot train on split {split}: {error}"
    return ""


def _sayer(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line without markup, because names of files may look like it."""
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a training step."""

    path: Path | None
    num_rows: int
    step: int = 0


def show(name: str, settings: Sequence[str], wanted: Picture, console: Console) -> None:
    """Draw what a step of a training sees: of a cell, or of a data set by UniMatch unless the settings name a method.

    Raises:
        ValueError: Bad data or settings.
    """
    from rankmatch import preview

    if CellFolder(Path(name)).config_file.is_file():
        config = _of_cell(RunFolder(as_a_grid_has_it(Path(name))), settings)
    else:
        config = compose_untrained(name, {"method": "unimatch", **read_settings(settings)})
    path = wanted.path or Path(f"{config.numerics.dataset.name}-{config.numerics.split}.png")
    num = preview.draw(config, path, wanted.num_rows, wanted.step)
    which = f"step {wanted.step}" if wanted.step else "the first step"
    _sayer(console)(f"{path}: crops and views of {num} images, as {which} is trained on them")


def _of_cell(folder: RunFolder, settings: Sequence[str]) -> TrainConfig:
    """Return the configuration of a cell, whose lists are read as its grid kept them if the originals are gone."""
    config = changed(from_yaml(folder.config()), read_settings(settings))
    kept_lists.use_copies([Cell(config, {})], folder.grid.path)
    return config


def pack(name: str, settings: Sequence[str], to: Path | None, kind: str, console: Console) -> None:
    """Pack the files of one split (`split=`) or of all splits into a data store.

    Raises:
        ValueError: Some files could not be packed; the message has a line for each. The others are packed.
    """
    from rankmatch.data import store
    from rankmatch.data.catalog import data_root, pack_keys
    from rankmatch.data.splits import read_splits

    config = configuration(name, settings)
    root = data_root(config)
    folder = to or root / f"packed-{kind}"
    numerics = [replace(config.numerics, split=split) for split in _split_names(config, settings)]
    samples = [sample for one in numerics for sample in read_splits(replace(config, numerics=one))]
    dataset = config.numerics.dataset
    properties = store.Properties(kind, dataset.colours, dataset.image_bits)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("images and labels", total=None)
        packed = store.pack(
            folder,
            root,
            pack_keys(samples, root),
            properties,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    for line in packed.damaged:
        console.print(line, soft_wrap=True)
    num_bytes = sum(shard.stat().st_size for shard in store.shards_of(folder))
    console.print(
        f"{packed.num_packed} packed, {packed.num_kept} kept, {num_bytes / 1e9:.2f} GB; data_store={folder}",
        soft_wrap=True,
    )
    if packed.faults:
        raise ValueError("\n".join([f"{len(packed.faults)} could not be packed:", *packed.faults]))


def _split_names(config: TrainConfig, settings: Sequence[str]) -> list[str]:
    """Return the split that the settings name, or all splits."""
    from rankmatch.data.splits import split_names, split_root

    one = config.numerics.split
    if config.numerics.dataset.name == "synthetic" or any(setting.startswith("split=") for setting in settings):
        return [one]
    return split_names(split_root(config)) or [one]


def download(name: str, to: Path, checkout: Path | None, base_url: str, console: Console) -> None:
    """Copy the published lists of a data set from a checkout, or download them.

    Raises:
        ValueError: Some lists could not be obtained or differ from the published ones; a line for each.
    """
    from rankmatch.data import published

    lists = published.read_manifest(experiments_folder() / "paper" / "splits_manifest.csv", name)
    read = published.from_web(base_url) if checkout is None else published.from_checkout(checkout)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("lists", total=len(lists))
        obtained = published.obtain(lists, to, read, done=lambda: progress.advance(task))
    console.print(f"{to}: {len(obtained.written)} lists written, {len(obtained.kept)} kept", soft_wrap=True)
    if obtained.faults:
        raise ValueError("\n".join(obtained.faults))


def convert(name: str, root: Path, console: Console) -> None:
    """Convert the labels of a data set's archive to those that its lists name.

    Raises:
        ValueError: The data set needs no conversion, or a label cannot be read.
    """
    from rankmatch.data import cityscapes

    one_of("the data set to convert", name, ("cityscapes",))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("labels", total=None)
        num_written = cityscapes.convert(
            root,
            lambda done, total: progress.update(task, completed=done, total=total),
            _sayer(console),
        )
    console.print(f"{root}: {num_written} *{cityscapes.MADE} written", soft_wrap=True)


@dataclass(frozen=True, slots=True)
class ValDraw:
    """Which validation images to draw, and how far labeled images stay away from them."""

    num: int = 0
    """How many to draw; 0: they are already in `val.txt`, or there are none yet."""
    in_a_row: bool = False
    """They are consecutive in their stack."""
    gap: int = 0
    """How many slices on each side of them are in no list."""

    def check(self, there: Path) -> None:
        """Refuse contradictory options.

        Raises:
            ValueError: `val.txt` exists already, or another option requires drawing it.
        """
        if self.num and there.exists():
            raise ValueError(f"--val must be left out where {there} is there; got {self.num}")
        if self.in_a_row and not self.num:
            raise ValueError("--val, the number of consecutive slices, must be given with --contiguous; got 0")
        if self.gap and self.num and not self.in_a_row:
            raise ValueError(f"--gap must be given with --contiguous if --val draws images; got {self.gap} without it")
        if self.gap and not self.num and not there.exists():
            raise ValueError(f"--gap must be given with --val, or with {there}, which does not exist; got {self.gap}")


def draw(
    name: str,
    counts: Sequence[int],
    settings: Sequence[str],
    seed: int,
    balanced: bool,
    wanted: ValDraw,
    console: Console,
) -> None:
    """Draw lists from a data set's `train.txt`, or from its files, into its folder of split lists.

    Raises:
        ValueError: A count is out of range, or a different list of that name exists; nothing is written then.
    """
    from rankmatch.data.draw import list_text
    from rankmatch.data.lists import same_image
    from rankmatch.data.splits import listed_images, read_train, split_root

    config = configuration(name, settings)
    every, root = read_train(config, _sayer(console), with_val=True), split_root(config)
    wanted.check(root / "val.txt")
    known = listed_images(root / "val.txt", config)
    train = [sample for sample in every if same_image(sample.image) not in known]
    _refuse_no_labels(config, train)
    rows, left_out = _val_in_a_row(train, wanted, seed)
    if wanted.gap:
        left_out |= _beside_val(config, train, rows, wanted)
    free = [sample for sample in train if sample.image not in left_out | rows]
    labeled = [sample for sample in free if sample.label is not None]
    num_drawn = wanted.num if not wanted.in_a_row else 0
    _check_counts(counts, (len(labeled), len(free)), num_drawn, len(free) + len(rows))
    classes = _classes(config, labeled, console) if balanced else None
    order = _order(every, labeled, seed, classes)
    val = rows | {labeled[index].image for index in order[len(order) - num_drawn :]}
    drawn = {root / "val.txt": list_text(sample for sample in train if sample.image in val)} if wanted.num else {}
    for count in counts:
        chosen = {labeled[index].image for index in order[:count]}
        drawn[root / str(count) / "labeled.txt"] = list_text(sample for sample in labeled if sample.image in chosen)
        rest = (sample for sample in free if sample.image not in chosen | val)
        drawn[root / str(count) / "unlabeled.txt"] = list_text(rest)
    _write_new(drawn, console)
    for line in _not_nested(config, root, counts):
        _sayer(console)(line)
    if left_out:
        _sayer(console)(f"in no list, because they are too close to validation images: {len(left_out)}")
    for count in counts if classes is not None else ():
        covered = frozenset().union(*(classes[index] for index in order[:count])) if classes else frozenset()
        console.print(f"{count} labeled images show {len(covered)} of {config.numerics.dataset.num_classes} classes")


def _refuse_no_labels(config: TrainConfig, train: Sequence["Sample"]) -> None:
    if any(sample.label is not None for sample in train):
        return
    if not train:
        raise ValueError("there must be an image that is not in val.txt; there is none")
    image, execution = train[0].image, config.execution
    before, after = execution.image_pattern.split("{}")
    name = image.removeprefix(before).removesuffix(after)
    looked = Path(execution.data_root) / execution.label_pattern.replace("{}", name)
    where = f"; of {image} there is no {looked}" if execution.label_pattern else "; got ''"
    raise ValueError(f"label_pattern must lead to the labels of images; none of the {len(train)} images has one{where}")


def _order(
    every: Sequence["Sample"], labeled: Sequence["Sample"], seed: int, classes: Sequence[frozenset[int]] | None
) -> list[int]:
    """Return the order in which lists take the labeled images; it is the same whether or not val.txt exists already."""
    from rankmatch.data.draw import draw_order

    candidates = [sample for sample in every if sample.label is not None]
    place = {sample.image: number for number, sample in enumerate(labeled)}
    numbers = [place.get(sample.image, -1) for sample in candidates]
    shown = [classes[number] if number >= 0 else frozenset() for number in numbers] if classes is not None else None
    left_out = {index for index, number in enumerate(numbers) if number < 0}
    return [numbers[index] for index in draw_order(len(candidates), seed, shown, left_out)]


def _not_nested(config: TrainConfig, root: Path, counts: Sequence[int]) -> Iterator[str]:
    """Report new lists that do not contain an existing smaller one, or are not contained in a larger one."""
    from rankmatch.data.splits import listed_images

    sizes = sorted(int(path.parent.name) for path in root.glob("*/labeled.txt") if path.parent.name.isdecimal())
    images = {size: listed_images(root / str(size) / "labeled.txt", config) for size in sizes}
    for small, large in itertools.combinations(sizes, 2):
        if {small, large} & {*counts} and (others := images[small] - images[large]):
            yield (
                f"split {large} does not hold split {small}, {len(others)} of whose {len(images[small])} images are "
                "not in it: they were drawn with other settings, another seed or from other images"
            )


def _val_in_a_row(train: Sequence["Sample"], wanted: ValDraw, seed: int) -> tuple[set[str], set[str]]:
    """Return the consecutive validation images, and the unlabeled ones between them, if any are to be drawn."""
    from rankmatch.data.draw import in_a_row

    num_labeled = sum(sample.label is not None for sample in train)
    if not wanted.in_a_row:
        return set(), set()
    if wanted.num >= num_labeled:
        raise ValueError(
            f"--val must be at most {num_labeled - 1} of the {num_labeled} labeled images; got {wanted.num}"
        )
    return in_a_row(train, wanted.num, seed)


def _beside_val(config: TrainConfig, train: Sequence["Sample"], rows: set[str], wanted: ValDraw) -> set[str]:
    """Return the images of the train list that are too close to a validation image."""
    from rankmatch.data.draw import beside
    from rankmatch.data.splits import read_val

    known = [] if wanted.num else read_val(config)
    val = rows | {sample.image for sample in known}
    return beside([*train, *known], val, wanted.gap)


def _check_counts(counts: Sequence[int], num_free: tuple[int, int], num_val: int, num_images: int) -> None:
    """Refuse counts of more labels than there are, or that leave no unlabeled image.

    Args:
        counts: How many images each list is to have.
        num_free: How many images to draw from have a label, and how many there are.
        num_val: How many of the labeled ones the validation list takes.
        num_images: How many there are with those that were taken as consecutive slices.
    """
    num_labeled, num_all = num_free
    most = min(num_labeled, num_all - 1) - num_val
    if most < 1:
        raise ValueError(f"--val must leave two of the {num_images} images, one of them to label; it does not")
    why = f"so that one of the {num_images} images is left"
    if num_labeled < num_all - 1:
        of_val = f", and --val takes {num_val} of these" if num_val else ""
        why = f"as {num_labeled} of the {num_all} images to draw from have a label{of_val}"
    for count in counts:
        if not 1 <= count <= most:
            raise ValueError(f"--count must be 1 to {most}, {why}; got {count}")


def _classes(config: TrainConfig, labeled: Sequence["Sample"], console: Console) -> list[frozenset[int]]:
    from rankmatch.data.catalog import open_dataset
    from rankmatch.data.draw import classes_shown

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("labels", total=len(labeled))
        return classes_shown(open_dataset(config), labeled, lambda: progress.advance(task))


def _write_new(texts: Mapping[Path, str], console: Console) -> None:
    """Write lists, all or none; an existing file with the same content is fine."""
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path} exists with another list; nothing was written")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, text)
        _sayer(console)(f"{path}: {text.count(chr(10))} images")
