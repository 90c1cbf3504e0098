"""Initial weights: PyTorch's default outside the backbone, Kaiming's inside, from counted draws."""

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

DRAWS_NOTHING = (_NormBase, nn.GroupNorm, nn.LayerNorm)
"""Their `reset_parameters` sets ones and zeros, so no generator is needed."""

_WHAT_TO_DO = "add a rule to rankmatch/models/initialisation.py"


def initialise(model: nn.Module, backbone: nn.Module, generator: Generator | None) -> None:
    """Fill every parameter and buffer, in the order of `modules`.

    Outside the backbone the published recipe uses PyTorch's default. It loads the backbone from a file; without a file,
    the backbone is initialised as in He et al. (2015), which torchvision does too.

    Args:
        model: May hold unfilled memory, as `to_empty` leaves it.
        backbone: A part of it.
        generator: Source of the draws; PyTorch's global one if None.

    Raises:
        ValueError: A module has values that no rule here fills.
    """
    _blank(model)
    inside = set(backbone.modules())
    for name, module in model.named_modules():
        if not list(module.parameters(recurse=False)) and not list(module.buffers(recurse=False)):
            continue
        if isinstance(module, DRAWS_NOTHING):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            (_kaiming if module in inside else _torch_default)(module, generator)
        else:
            raise ValueError(
                f"every module must be a convolution, a linear layer or a normalisation, so that its start is known; "
                f"got {type(module).__name__} as {name!r}: {_WHAT_TO_DO}"
            )
    _refuse_blanks(model)


def _values(model: nn.Module) -> Iterator[tuple[str, Tensor, float]]:
    """Yield every parameter and buffer, with the marker for "no value yet"."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.dtype is not torch.bool:  # each of whose two values may be meant
            yield name, value.data, math.nan if value.is_floating_point() else torch.iinfo(value.dtype).min


def _blank(model: nn.Module) -> None:
    """Mark all values as not filled: uninitialised memory can look like anything, mostly like zeros."""
    for _, value, blank in _values(model):
        value.fill_(blank)


def _refuse_blanks(model: nn.Module) -> None:
    """Refuse a network with an unfilled value, such as an extra parameter of a custom convolution."""
    for name, value, blank in _values(model):
        is_left = value.sum().isnan() if math.isnan(blank) else (value == blank).any()
        if bool(is_left):
            raise ValueError(f"every parameter and buffer must be given a start; {name!r} got none: {_WHAT_TO_DO}")


def _kaiming(module: nn.Conv2d | nn.Linear, generator: Generator | None) -> None:
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _torch_default(module: nn.Conv2d | nn.Linear, generator: Generator | None) -> None:
    """Draw as `reset_parameters` does, which takes no generator: uniformly within 1 / sqrt(fan in)."""
    bound = 1 / math.sqrt(module.weight[0].numel())
    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
    if module.bias is not None:
        nn.init.uniform_(module.bias, -bound, bound, generator=generator)
