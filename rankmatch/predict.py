"""A trained model on images of any size: label PNGs, overlays, and probabilities."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from rankmatch.data.folders import find_files
from rankmatch.data.pixels import read_image
from rankmatch.data.transforms import eval_image
from rankmatch.evaluation import predict, predict_with_probabilities

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
LABELS, OVERLAYS, PROBABILITIES = "labels", "overlays", "probabilities"
OVERLAY_OPACITY = 0.5
NUM_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One image and what is written for it."""

    image: Path
    label: Path
    overlay: Path | None
    probabilities: Path | None = None


def find_jobs(
    sources: Sequence[Path],
    out: Path,
    *,
    overlays: bool = True,
    probabilities: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Job]:
    """Pair every image with its outputs `out/labels/<name>.png` and `out/overlays/<name>.png`.

    Args:
        sources: Images, and folders that are searched for them with everything below; a name is relative to its folder.
        out: Where the outputs go.
        overlays: Whether overlays are wanted.
        probabilities: Whether `out/probabilities/<name>.npy` is wanted.
        overwrite: Whether outputs may be there already.
        say: Told what was passed over.

    Raises:
        ValueError: A source is not there or holds no image, two images have the same output, or an output is there.
    """
    jobs: dict[Path, Job] = {}
    for image, name in _images(sources, out, say):
        label = out / LABELS / name.with_suffix(".png")
        if other := jobs.get(label):
            raise ValueError(f"images must have names of their own; {other.image} and {image} would both be {label}")
        overlay = out / OVERLAYS / name.with_suffix(".png") if overlays else None
        array = out / PROBABILITIES / name.with_suffix(".npy") if probabilities else None
        jobs[label] = Job(image, label, overlay, array)
    there = [str(label) for label in jobs if label.exists()]
    if there and not overwrite:
        more = f" and {len(there) - NUM_SHOWN} more" if len(there) > NUM_SHOWN else ""
        raise ValueError(f"outputs must not be there already; {', '.join(there[:NUM_SHOWN])}{more}")
    return list(jobs.values())


def predict_files(
    model: nn.Module,
    jobs: Iterable[Job],
    *,
    device: torch.device | str,
    image_bits: int = 0,
    mode: str = "whole",
    crop_size: int | None = None,
    batch_size: int = 8,
    written_as: npt.NDArray[np.uint8] | None = None,
    done: Callable[[Job], None] = lambda job: None,
) -> list[str]:
    """Write the outputs of every job; return what could not be read, a line each.

    Args:
        model: Images to (logits at the images' size, ...); it is put in evaluation mode.
        jobs: Those whose images follow each other and have the same size go through the network together.
        device: Where the model is.
        image_bits: As in `dataset.image_bits`.
        mode: As in `evaluation.predict`.
        crop_size: As in `evaluation.predict`.
        batch_size: How many images go together at most.
        written_as: For each class the value, or the colour [classes, 3], that labels are written in; None: its number.
        done: Called after each job.
    """
    model.eval()
    faults: list[str] = []
    for batch in _batches(jobs, batch_size, image_bits, faults, done):
        images = torch.stack([eval_image(image) for _, image in batch]).to(device)
        if batch[0][0].probabilities is None:
            classes, shares = predict(model, images, mode=mode, crop_size=crop_size), None
        else:
            classes, shares = predict_with_probabilities(model, images, mode=mode, crop_size=crop_size)
        labels = classes.to(torch.uint8).cpu().numpy()
        for place, (job, image) in enumerate(batch):
            if shares is not None and job.probabilities is not None:
                save_array(shares[place].half().cpu().numpy(), job.probabilities)
            _write(job, image, labels[place], written_as)
            done(job)
    return faults


def colour_map() -> npt.NDArray[np.uint8]:
    """Return the colours of PASCAL VOC for 256 classes [256, 3]: a class's bits, spread over the three channels."""
    classes = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def _images(sources: Sequence[Path], out: Path, say: Callable[[str], None]) -> Iterator[tuple[Path, Path]]:
    """Give every image and its name below its source; what was written into `out` before is none."""
    for source in sources:
        if source.is_dir():
            found = _images_below(source, out, say)
            if not found:
                raise ValueError(f"folder {source} must hold an image ({', '.join(sorted(SUFFIXES))}); it holds none")
            yield from ((path, path.relative_to(source)) for path in found)
        elif source.is_file():
            yield source, Path(source.name)
        else:
            raise ValueError(f"an image or a folder of images must be there; got {str(source)!r}")


def _images_below(source: Path, out: Path, say: Callable[[str], None]) -> list[Path]:
    listed = find_files(source)
    if skipped := listed.skipped():
        say(skipped)
    images = [path for path in listed.files if path.suffix.lower() in SUFFIXES]
    written = [
        folder
        for name in (LABELS, OVERLAYS, PROBABILITIES)
        if source.resolve() in (folder := (out / name).resolve()).parents
    ]
    found = [path for path in images if not any(path.resolve().is_relative_to(folder) for folder in written)]
    if len(found) < len(images):
        say(f"passed over: {len(images) - len(found)} images that lie where outputs go, below {out}")
    return found


def _batches(
    jobs: Iterable[Job], batch_size: int, image_bits: int, faults: list[str], done: Callable[[Job], None]
) -> Iterator[list[tuple[Job, Image.Image]]]:
    """Read images and group neighbours of one size; note those that cannot be read."""
    batch: list[tuple[Job, Image.Image]] = []
    for job in jobs:
        try:
            image = read_image(job.image, str(job.image), image_bits=image_bits)
        except (ValueError, OSError) as error:
            faults.append(str(error))
            done(job)
            continue
        if batch and (len(batch) == batch_size or batch[0][1].size != image.size):
            yield batch
            batch = []
        batch.append((job, image))
    if batch:
        yield batch


def _write(
    job: Job, image: Image.Image, label: npt.NDArray[np.uint8], written_as: npt.NDArray[np.uint8] | None
) -> None:
    coloured = in_palette(label)
    if job.overlay is not None:
        save_png(Image.blend(image, coloured.convert("RGB"), OVERLAY_OPACITY), job.overlay)
    if written_as is not None:
        values = written_as[label]
        coloured = Image.fromarray(values) if values.ndim == 3 else in_palette(values)
    save_png(coloured, job.label)  # last, so that it says that the image is done


def in_palette(label: npt.NDArray[np.uint8]) -> Image.Image:
    """Return a label as an image in the palette of `colour_map`."""
    image = Image.fromarray(label)
    image.putpalette(colour_map().tobytes())
    return image


def save_array(values: npt.NDArray[Any], path: Path) -> None:
    """Write an array beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:  # a name would get another suffix
        np.save(file, values)
    draft.replace(path)


def save_png(image: Image.Image, path: Path) -> None:
    """Write an image beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    image.save(draft, format="PNG")
    draft.replace(path)
