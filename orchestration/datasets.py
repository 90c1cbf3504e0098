"""What is done with a data set before it is trained on: its files looked at, its split lists brought or drawn."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from orchestration import files
from orchestration.cells import compose, experiments_folder
from orchestration.values import read_settings
from rankmatch.config import TrainConfig


def configuration(name: str, settings: Sequence[str]) -> TrainConfig:
    """Compose the configuration of a data set with some settings, `key=value`.

    Raises:
        ValueError: The data set or a setting is not allowed.
    """
    return compose({"dataset": name, "backbone.pretrained": False} | read_settings(settings))


def check(name: str, settings: Sequence[str], console: Console) -> None:
    """Open every file of one split (`split=`), else of all that there are, once; tell the pixels of every class.

    Raises:
        ValueError: All faults, a line each.
    """
    from rankmatch.data.check import check_files
    from rankmatch.data.splits import split_root

    config = configuration(name, settings)
    names = [config.numerics.split]
    if name != "synthetic" and not any(setting.startswith("split=") for setting in settings):
        names = sorted(path.parent.name for path in split_root(config).glob("*/labeled.txt")) or names
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("images", total=None)
        report = check_files(
            config, names, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    if report.faults:
        raise ValueError("\n".join([f"{len(report.faults)} of {report.num_images} samples:", *report.faults]))
    classes = config.execution.class_names or [str(number) for number in range(config.numerics.dataset.num_classes)]
    table = Table("class", "labeled pixels", "val pixels")
    for row in zip(classes, report.labeled_class_counts, report.val_class_counts, strict=True):
        table.add_row(row[0], f"{row[1]:,}", f"{row[2]:,}")
    console.print(table)
    console.print(
        f"{report.num_images} images of split {', '.join(names)} are good; "
        f"{len(report.present_classes)} of {len(classes)} classes occur in the val labels"
    )


def download(name: str, to: Path, checkout: Path | None, base_url: str, console: Console) -> None:
    """Bring the published lists of a data set from a checkout or the network.

    Raises:
        ValueError: All that could not be had or is not what was published, a line each.
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


def draw(
    name: str, counts: Sequence[int], settings: Sequence[str], seed: int, balanced: bool, console: Console
) -> None:
    """Draw lists from a data set's `train.txt` into its folder of split lists.

    Raises:
        ValueError: A count is out of range, or another list of that name is there; nothing was written then.
    """
    from rankmatch.data.catalog import open_dataset
    from rankmatch.data.draw import classes_shown, draw_order, list_texts
    from rankmatch.data.splits import read_train, split_root

    config = configuration(name, settings)
    train, root = read_train(config), split_root(config)
    for count in counts:
        if not 1 <= count < len(train):
            raise ValueError(f"--count must be 1 to {len(train) - 1}, one less than train.txt has; got {count}")
    classes = None
    if balanced:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("labels", total=len(train))
            classes = classes_shown(open_dataset(config), train, lambda: progress.advance(task))
    order = draw_order(len(train), seed, classes)
    texts = {count: list_texts(train, order[:count]) for count in counts}
    drawn = {
        root / str(count) / f"{kind}.txt": text
        for count, pair in texts.items()
        for kind, text in zip(("labeled", "unlabeled"), pair, strict=True)
    }
    for path, text in drawn.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path} is there and holds another list; it is kept, and nothing was written")
    for path, text in drawn.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, text)
        console.print(f"{path}: {text.count(chr(10))} images", soft_wrap=True)
    for count in counts if classes is not None else ():
        covered = frozenset().union(*(classes[index] for index in order[:count])) if classes else frozenset()
        console.print(f"{count} labeled images show {len(covered)} of {config.numerics.dataset.num_classes} classes")
