"""A few validation images with their labels and the predictions of the best epoch, in one picture."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rankmatch import pictures, sheet
from rankmatch.config import IGNORE_INDEX, TrainConfig
from rankmatch.data.catalog import Dataset, labeled_pair
from rankmatch.data.splits import Splits
from rankmatch.data.transforms import eval_image
from rankmatch.distributed import Purpose, generator
from rankmatch.drawn import class_name, colour_map
from rankmatch.durable import sync_file, sync_folder
from rankmatch.evaluation import predict
from rankmatch.pictures import Predicted
from rankmatch.predict import in_palette, save_png
from rankmatch.run_files import BEST, SAMPLES

TITLES = ("image", "label", "prediction")


def choose(num_val: int, num_samples: int, seed: int) -> list[int]:
    """Choose places of the validation list; all where it is short."""
    order = torch.randperm(num_val, generator=generator(seed, 0, 0, Purpose.SAMPLES))
    return sorted(order[:num_samples].tolist())


def leave(
    run_dir: Path, config: TrainConfig, network: nn.Module, splits: Splits, dataset: Dataset, device: torch.device
) -> None:
    """Leave the pictures of a run that is at its end in its folder; see `draw` and `pictures.write`.

    What prevents that is a warning: pictures never cost a run its result.
    """
    try:
        shown, heading = draw(run_dir / SAMPLES, config, network, splits, dataset, device, run_dir / BEST)
        pictures.write(run_dir, config, network, shown, heading)
    except Exception as error:
        what = f"the pictures in {run_dir} are missing or incomplete, the result is not affected"
        warnings.warn(f"{what}: {type(error).__name__}: {error}", stacklevel=2)


def draw(
    path: Path,
    config: TrainConfig,
    network: nn.Module,
    splits: Splits,
    dataset: Dataset,
    device: torch.device,
    best: Path | None = None,
) -> tuple[list[Predicted], str]:
    """Write image, label and prediction of some validation images side by side, a row each; none if none are wanted.

    Returns these images, and which weights they are of. The network is left in evaluation mode, with the weights of
    `best` (a run's `best.pt`) where that is there.
    """
    numerics, num = config.numerics, config.execution.tracking.num_samples
    places = choose(len(splits.val), num, numerics.seed)
    if not places:
        return [], ""
    heading = _take(network, best) if best and best.exists() else "after the last epoch"
    network.eval()
    shown, values = [], set[int]()
    for place in places:
        image, label = labeled_pair(dataset, splits.val[place])
        images = eval_image(image)[None].to(device)
        found = predict(network, images, mode=numerics.evaluation.mode, crop_size=numerics.augment.crop_size)
        maps = np.asarray(label), found[0].to(torch.uint8).cpu().numpy()
        values |= {int(value) for part in maps for value in np.unique(part)}
        shown.append(Predicted(place, splits.val[place].image, image, *maps))
    rows = [sheet.Row(one.name, [one.image, *map(in_palette, (one.label, one.prediction))]) for one in shown]
    save_png(sheet.draw(heading, TITLES, rows, legend(values, config.execution.class_names)).image, path)
    sync_file(path)  # nobody can draw it again once the checkpoints are gone
    sync_folder(path.parent)
    return shown, heading


def legend(values: Iterable[int], names: Sequence[str]) -> list[tuple[str, sheet.Colour]]:
    """Name the classes that a picture shows, with their colours."""
    colours = colour_map()
    return [(class_name(value, [*names], IGNORE_INDEX), tuple(map(int, colours[value]))) for value in sorted(values)]  # type: ignore[misc]


def _take(network: nn.Module, best: Path) -> str:
    """Fill a network with the weights of the best epoch; return what the picture is called."""
    content = torch.load(best, map_location="cpu", weights_only=True)
    network.load_state_dict(content["model"])
    return f"best epoch: {content['epoch']}, mIoU {100 * content['miou']:.1f} %"
