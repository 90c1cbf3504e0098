"""A few validation images with their labels and what the network of the best epoch says, in one picture."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rankmatch import sheet
from rankmatch.config import IGNORE_INDEX, TrainConfig
from rankmatch.data.catalog import Dataset, labeled_pair
from rankmatch.data.splits import Splits
from rankmatch.data.transforms import eval_image
from rankmatch.distributed import Purpose, generator
from rankmatch.durable import sync_file, sync_folder
from rankmatch.evaluation import predict
from rankmatch.predict import colour_map, in_palette, save_png

FILE = "samples.png"
TITLES = ("image", "label", "prediction")
Labels = npt.NDArray[np.uint8]


def choose(num_val: int, num_samples: int, seed: int) -> list[int]:
    """Choose places of the validation list; all where it is short."""
    order = torch.randperm(num_val, generator=generator(seed, 0, 0, Purpose.SAMPLES))
    return sorted(order[:num_samples].tolist())


def draw(
    path: Path,
    config: TrainConfig,
    network: nn.Module,
    splits: Splits,
    dataset: Dataset,
    device: torch.device,
    best: Path | None = None,
) -> None:
    """Write image, label and prediction of some validation images side by side, a row each; none if none are wanted.

    The network is left in evaluation mode, with the weights of `best` (a run's `best.pt`) where that is there.
    """
    numerics, num = config.numerics, config.execution.tracking.num_samples
    places = choose(len(splits.val), num, numerics.seed)
    if not places:
        return
    heading = _take(network, best) if best and best.exists() else "after the last epoch"
    network.eval()
    rows, shown = [], set[int]()
    for place in places:
        image, label = labeled_pair(dataset, splits.val[place])
        images = eval_image(image)[None].to(device)
        found = predict(network, images, mode=numerics.evaluation.mode, crop_size=numerics.augment.crop_size)
        maps = [np.asarray(label), found[0].to(torch.uint8).cpu().numpy()]
        shown |= {int(value) for part in maps for value in np.unique(part)}
        rows.append(sheet.Row(splits.val[place].image, [image, *map(in_palette, maps)]))
    save_png(sheet.draw(heading, TITLES, rows, legend(shown, config.execution.class_names)).image, path)
    sync_file(path)  # nobody can draw it again once the checkpoints are gone
    sync_folder(path.parent)


def legend(values: Iterable[int], names: Sequence[str]) -> list[tuple[str, sheet.Colour]]:
    """Name the classes that a picture shows, with their colours."""
    colours = colour_map()
    return [(_name(value, names), tuple(map(int, colours[value]))) for value in sorted(values)]  # type: ignore[misc]


def _name(value: int, names: Sequence[str]) -> str:
    if value == IGNORE_INDEX:
        return "ignored"
    return names[value] if value < len(names) else f"class {value}"


def _take(network: nn.Module, best: Path) -> str:
    """Fill a network with the weights of the best epoch; return what the picture is called."""
    content = torch.load(best, map_location="cpu", weights_only=True)
    network.load_state_dict(content["model"])
    return f"best epoch: {content['epoch']}, mIoU {100 * content['miou']:.1f} %"
