"""Pretrained backbones and published checkpoints: loaded whole or refused."""

from pathlib import Path

import torch
from torch import Tensor, nn

from rankmatch.config import ModelConfig
from rankmatch.models.deeplabv3plus import DeepLabV3Plus, outline
from rankmatch.models.mobilenet import MobileNetV2
from rankmatch.models.state_dicts import read_state_dict

IGNORED_PARTS = ("itr", "tmp", "track")
NUM_SHOWN = 3


def load_backbone(model: DeepLabV3Plus, path: Path, chosen: str = "") -> None:
    """Fill the backbone from an ImageNet file; `chosen` names the nest to use if there are several.

    Raises:
        ValueError: if the file cannot be read or is of another architecture; the model is then unchanged.
    """
    load(model.backbone, _backbone_state(model, path, chosen), path, ignored_prefixes(model, prefix=""))


def check_backbone(model_config: ModelConfig, path: Path, chosen: str = "") -> None:
    """Refuse an ImageNet file that `load_backbone` would refuse, without filling a network.

    Raises:
        ValueError: As `load_backbone` does.
    """
    model = outline(model_config)
    refuse_others(model.backbone, _backbone_state(model, path, chosen), path, ignored_prefixes(model, prefix=""))


def _backbone_state(model: DeepLabV3Plus, path: Path, chosen: str) -> dict[str, Tensor]:
    return read_state_dict(path, model.backbone.state_dict(), chosen, "backbone.weights_nest=NAME")


def load_checkpoint(model: DeepLabV3Plus, path: Path, chosen: str = "") -> None:
    """Fill the whole network from a checkpoint, bare or nested, with or without wrappers' parts in names.

    `chosen` names the nest to use if there are several, such as `model` and `model_ema`.

    Raises:
        ValueError: if the file cannot be read or is of another architecture; the model is then unchanged.
    """
    found = read_state_dict(path, model.state_dict(), chosen, "--nest NAME")
    load(model, found, path, ignored_prefixes(model, prefix="backbone."))


def ignored_prefixes(model: DeepLabV3Plus, prefix: str) -> tuple[str, ...]:
    """Return the prefixes of ImageNet layers that the network does not have."""
    names = ("fc.", "18.") if isinstance(model.backbone, MobileNetV2) else ("fc.",)
    return tuple(prefix + name for name in names)


def load(module: nn.Module, found: dict[str, Tensor], path: Path, ignored: tuple[str, ...]) -> None:
    """Fill a module from named tensors, or refuse all of them."""
    refuse_others(module, found, path, ignored)
    module.load_state_dict({name: found.get(name, value) for name, value in module.state_dict().items()})


def refuse_others(module: nn.Module, found: dict[str, Tensor], path: Path, ignored: tuple[str, ...]) -> None:
    """Refuse named tensors that do not match a module or are no weights; the message has the first differing names."""
    wanted = module.state_dict()
    differences = {
        "missing": [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in found if name not in wanted and not is_ignored(name, ignored)],
        "other shapes": [
            f"{name} {list(found[name].shape)}, not {list(value.shape)}"
            for name, value in wanted.items()
            if name in found and found[name].shape != value.shape
        ],
    }
    if any(differences.values()):
        shown = "; ".join(f"{kind}: {summary(names)}" for kind, names in differences.items() if names)
        raise ValueError(f"weights {path} are of another architecture than {type(module).__name__}: {shown}")
    _refuse_no_weights({name: (found[name], value.dtype) for name, value in wanted.items() if name in found}, path)


def _refuse_no_weights(pairs: dict[str, tuple[Tensor, torch.dtype]], path: Path) -> None:
    """Refuse values that can be copied into parameters but are no weights: integers, quantized, NaN, infinity."""
    pairs = {name: pair for name, pair in pairs.items() if pair[1].is_floating_point}
    whole = [f"{name} {str(value.dtype)[6:]}" for name, (value, _) in pairs.items() if not value.is_floating_point()]
    if whole:
        raise ValueError(
            f"weights {path} must be floating-point numbers; others have {summary(whole)}: "
            "save them unquantized, as float32 or float16"
        )
    infinite = [name for name, (value, dtype) in pairs.items() if not value.to(dtype).isfinite().all()]
    if infinite:
        raise ValueError(f"weights {path} must be finite; NaN or infinity is in {summary(infinite)}: take another file")


def is_ignored(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a file may contain this name although the module does not have it."""
    return name.startswith(prefixes) or any(part in name for part in IGNORED_PARTS)


def summary(names: list[str]) -> str:
    """Return the first few names and the number of the others."""
    rest = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + rest
