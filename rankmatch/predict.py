"""Run a trained model on images of any size; write label PNGs, overlays and probabilities."""

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
from rankmatch.drawn import colour_map
from rankmatch.durable import replacing
from rankmatch.evaluation import predict, predict_with_probabilities

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
LABELS, OVERLAYS, PROBABILITIES = "labels", "overlays", "probabilities"
OVERLAY_OPACITY = 0.5
NUM_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One image and the outputs written for it."""

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
        sources: Images, and folders that are searched recursively; names are relative to the folder.
        out: Folder of the outputs.
        overlays: Whether to write overlays.
        probabilities: Whether to write `out/probabilities/<name>.npy`.
        overwrite: Whether outputs may exist already.
        say: Called with what was skipped.

    Raises:
        ValueError: A source does not exist or holds no image, two images have the same output, or an output exists.
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
        raise ValueError(f"outputs must not exist already; {', '.join(there[:NUM_SHOWN])}{more}")
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
    """Write the outputs of every job; return a line for each image that could not be read.

    Args:
        model: Images to (logits at the images' size, ...); it is put into evaluation mode.
        jobs: Consecutive images of the same size pass the network together.
        device: Where the model is.
        image_bits: As in `dataset.image_bits`.
        mode: As in `evaluation.predict`.
        crop_size: As in `evaluation.predict`.
        batch_size: How many images pass together at most.
        written_as: For each class the value or the colour [classes, 3] to write labels in; None: its number.
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


def _images(sources: Sequence[Path], out: Path, say: Callable[[str], None]) -> Iterator[tuple[Path, Path]]:
    """Yield every image and its name below its source; earlier outputs in `out` do not count as images."""
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
        say(f"skipped: {len(images) - len(found)} images in the output folder {out}")
    return found


def _batches(
    jobs: Iterable[Job], batch_size: int, image_bits: int, faults: list[str], done: Callable[[Job], None]
) -> Iterator[list[tuple[Job, Image.Image]]]:
    """Read images and group neighbours of the same size; collect the faults of unreadable ones."""
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
    with replacing(path) as draft, draft.open("wb") as file:  # a name would get another suffix
        np.save(file, values)


def save_png(image: Image.Image, path: Path) -> None:
    """Write an image beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        image.save(draft, format="PNG")
