"""Report crops that leave a part of the network untrained that whole images use, with the settings that fix it."""

from collections.abc import Sequence

from orchestration.grids.cells import Cell
from rankmatch.config import NumericsConfig
from rankmatch.reach import RATES, TAPS, num_unreached, smallest_crop, unreached_rates


def notes(cells: Sequence[Cell]) -> list[str]:
    """Return a line for each crop and output stride that leave taps untrained which larger images use."""
    lines = [_note(cell.config.numerics) for cell in cells if _is_met(cell.config.numerics)]
    return list(dict.fromkeys(lines))


def _is_met(numerics: NumericsConfig) -> bool:
    """Return whether a run's scores depend on untrained taps, as far as the sizes of images are known."""
    if numerics.evaluation.mode == "sliding" or numerics.backbone.unreached_taps == "zero":
        return False
    return bool(unreached_rates(numerics.feature_size, met_by=_largest_grid(numerics)))


def _largest_grid(numerics: NumericsConfig) -> int | None:
    if numerics.dataset.name != "synthetic":
        return None
    return -(-numerics.dataset.scenes.size // numerics.backbone.output_stride)


def _note(numerics: NumericsConfig) -> str:
    grid, rates = numerics.feature_size, unreached_rates(numerics.feature_size)
    crop, stride = numerics.augment.crop_size, numerics.backbone.output_stride
    return (
        f"augment.crop_size={crop} leaves {num_unreached(rates)} of the {TAPS * len(RATES)} taps of the dilated "
        f"convolutions untrained: its {grid}x{grid} features do not reach those of rate "
        f"{' and '.join(map(str, rates))}, and larger images meet them as random as they began. "
        "evaluation.mode=sliding scores by windows of the crop, as the network was trained; "
        "backbone.unreached_taps=zero begins and keeps them at zero; "
        f"a crop of {smallest_crop(stride)} or more trains all"
    )
