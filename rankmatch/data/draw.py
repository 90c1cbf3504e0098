"""Draw which images of a train list are labeled, and which are validation images."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import torch

from rankmatch.data.catalog import Dataset, Sample
from rankmatch.data.lists import FRAME, file_of, frame_of, line_of
from rankmatch.distributed import Purpose, generator


def draw_order(
    num: int,
    seed: int,
    classes: Sequence[frozenset[int]] | None = None,
    left_out: Collection[int] = (),
) -> list[int]:
    """Return a random order of `num` images. Its first k are the list of size k, so larger lists contain smaller ones.

    Args:
        num: How many images there are.
        seed: Of the draw.
        classes: The classes in each image. If given, each next image shows the class that is rarest among the images
            drawn so far (if a remaining image shows it); the random order breaks ties.
        left_out: Images that are not in the order; leaving them out does not change the random order of the others.
    """
    drawn: list[int] = torch.randperm(num, generator=generator(seed, 0, 0, Purpose.SPLIT)).tolist()
    order = [index for index in drawn if index not in left_out]
    return order if classes is None else _balanced(order, classes)


def in_a_row(samples: Sequence[Sample], num: int, seed: int) -> tuple[set[str], set[str]]:
    """Draw `num` labeled images that are consecutive in their stacks.

    Args:
        samples: Of one stack or several, in any order.
        num: How many.
        seed: Of the draw.

    Returns: The images, and the unlabeled ones between them.
    """
    stack = sorted(samples, key=_place)
    places = [place for place, sample in enumerate(stack) if sample.label is not None]
    draws = generator(seed, 0, 1, Purpose.SPLIT)
    first = int(torch.randint(len(places) - num + 1, (1,), generator=draws))
    chosen = places[first : first + num]
    block = stack[chosen[0] : chosen[-1] + 1]
    between = {sample.image for sample in block if sample.label is None}
    return {sample.image for sample in block} - between, between


def beside(samples: Sequence[Sample], images: Collection[str], gap: int) -> set[str]:
    """Return the images at most `gap` places away from one of `images` in the same stack."""
    stack = sorted(samples, key=_place)
    near = set()
    for place, sample in enumerate(stack):
        around = stack[max(0, place - gap) : place + gap + 1]
        if any(other.image in images and _stack_of(other) == _stack_of(sample) for other in around):
            near.add(sample.image)
    return near - set(images)


def _place(sample: Sample) -> tuple[list[tuple[int, str]], int]:
    """Order images as people count: slice 9 before slice 10, frames by their number."""
    parts = re.findall(r"\d+|\D+", file_of(sample.image))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], frame_of(sample.image) or 0


def _stack_of(sample: Sample) -> str:
    """Name the stack of an image: the volume of a frame, or the name without its last number."""
    if FRAME.search(sample.image):
        return file_of(sample.image)
    return re.sub(r"\d+(?=\D*$)", "", sample.image)


def classes_shown(
    dataset: Dataset, samples: Sequence[Sample], done: Callable[[], None] = lambda: None
) -> list[frozenset[int]]:
    """Return the classes in each sample's label.

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
