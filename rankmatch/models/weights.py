"""Pretrained backbones and published checkpoints: loaded whole or refused."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor, nn

from rankmatch.config import ModelConfig
from rankmatch.models.deeplabv3plus import DeepLabV3Plus, outline
from rankmatch.models.mobilenet import MobileNetV2

# The authors' checkpoints hold a numpy scalar (`previous_best`), written under the module's name in numpy 1.
SAFE_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (scalar, "numpy.core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    (np.dtypes.Float64DType, "numpy.dtypes.Float64DType"),
]
IGNORED_PARTS = ("itr", "tmp", "track")
UNREADABLE = (OSError, EOFError, RuntimeError, LookupError, ValueError, pickle.UnpicklingError)  # seen on broken files
NUM_SHOWN = 3


def load_backbone(model: DeepLabV3Plus, path: Path) -> None:
    """Fill the backbone from an ImageNet file.

    Raises:
        ValueError: if the file cannot be read or is of another architecture; the model is then unchanged.
    """
    load(model.backbone, read_state_dict(path), path, ignored_prefixes(model, prefix=""))


def check_backbone(model_config: ModelConfig, path: Path) -> None:
    """Refuse an ImageNet file that `load_backbone` would refuse; no network is filled for it.

    Raises:
        ValueError: As `load_backbone` does.
    """
    model = outline(model_config)
    refuse_others(model.backbone, read_state_dict(path), path, ignored_prefixes(model, prefix=""))


def load_checkpoint(model: DeepLabV3Plus, path: Path) -> None:
    """Fill the whole network from a checkpoint, bare or nested under `model`, with or without `module.`.

    Raises:
        ValueError: if the file cannot be read or is of another architecture; the model is then unchanged.
    """
    load(model, read_state_dict(path), path, ignored_prefixes(model, prefix="backbone."))


def ignored_prefixes(model: DeepLabV3Plus, prefix: str) -> tuple[str, ...]:
    """Return what names of ImageNet layers that the network does not have begin with."""
    names = ("fc.", "18.") if isinstance(model.backbone, MobileNetV2) else ("fc.",)
    return tuple(prefix + name for name in names)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a file without running any code that it holds."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"weights {path} cannot be read: {reason_of(error)}") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights {path} hold no state dict (names to tensors, bare or nested under 'model')")
    return {name.removeprefix("module."): value for name, value in content.items()}


def reason_of(error: Exception) -> str:
    """Return in a line what is wrong with a file, without torch's advice to load it without safety."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds {found[1]}, and only tensors and plain values are read"
    if isinstance(error, LookupError | pickle.UnpicklingError):
        return "it was not written by torch.save"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def load(module: nn.Module, found: dict[str, Tensor], path: Path, ignored: tuple[str, ...]) -> None:
    """Fill a module from named tensors, or refuse them all."""
    refuse_others(module, found, path, ignored)
    module.load_state_dict({name: found.get(name, value) for name, value in module.state_dict().items()})


def refuse_others(module: nn.Module, found: dict[str, Tensor], path: Path, ignored: tuple[str, ...]) -> None:
    """Refuse named tensors that are not those of a module, with the first names that differ."""
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


def is_ignored(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a name that the module does not have may stand in a file."""
    return name.startswith(prefixes) or any(part in name for part in IGNORED_PARTS)


def summary(names: list[str]) -> str:
    """Return the first names and the number of the others."""
    rest = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + rest
