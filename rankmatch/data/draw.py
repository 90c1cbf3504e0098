"""Draw which images of a train list are labeled."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch

from rankmatch.data.catalog import Dataset, Sample
from rankmatch.data.lists import line_of
from rankmatch.distributed import Purpose, generator


def draw_order(num: int, seed: int, classes: Sequence[frozenset[int]] | None = None) -> list[int]:
    """Return an order of `num` images; the first k of it are the drawn list of k, so larger lists hold smaller ones.

    Args:
        num: How many images there are.
        seed: Of the draw.
        classes: The classes that each image shows; then each next image shows the class that the fewest drawn ones
            show (of those that a remaining image has), and the random order settles the rest.
    """
    order: list[int] = torch.randperm(num, generator=generator(seed, 0, 0, Purpose.SPLIT)).tolist()
    return order if classes is None else _balanced(order, classes)


def classes_shown(
    dataset: Dataset, samples: Sequence[Sample], done: Callable[[], None] = lambda: None
) -> list[frozenset[int]]:
    """Return the classes that each sample's label shows.

    Raises:
        ValueError: A label cannot be read.
    """
    shown = []
    for sample in samples:
        counts = dataset.label(sample).histogram()[: dataset.num_classes]
        shown.append(frozenset(number for number, count in enumerate(counts) if count))
        done()
    return shown


def list_text(samples: Iterable[Sample]) -> str:
    """Return a split list with a line for each sample.

    Raises:
        ValueError: No line can name a file.
    """
    return "".join(line_of(*(name for name in (sample.image, sample.label) if name)) + "\n" for sample in samples)


def _balanced(order: list[int], classes: Sequence[frozenset[int]]) -> list[int]:
    shown: Counter[int] = Counter()
    left, result = list(order), []
    while left:
        there = {number for index in left for number in classes[index]}
        rarest = min(there, key=lambda number: (shown[number], number), default=None)
        index = next(index for index in left if rarest is None or rarest in classes[index])
        left.remove(index)
        shown.update(classes[index])
        result.append(index)
    return result
