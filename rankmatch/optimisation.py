"""The optimizer, its schedule, and the precision of a step."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from rankmatch.config import NumericsConfig


def make_optimizer(network: nn.Module, numerics: NumericsConfig) -> torch.optim.SGD:
    """Build SGD with one parameter group for the backbone and one for the rest."""
    settings = numerics.trainer
    base = settings.scaled_rate
    named = list(network.named_parameters())
    backbone = [parameter for name, parameter in named if name.startswith("backbone.")]
    head = [parameter for name, parameter in named if not name.startswith("backbone.")]
    groups: list[dict[str, Any]] = [
        {"params": backbone, "lr": base, "base_lr": base},
        {"params": head, "lr": base, "base_lr": base * settings.head_lr_multiplier},
    ]
    # Fused: one pass over the parameters, where the plain form takes four.
    return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True)


def autocast(numerics: NumericsConfig, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which the network runs in the configured precision."""
    enabled = numerics.trainer.precision == "bfloat16"
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=enabled)
    return context


def backward(loss: Tensor) -> None:
    """Add a loss's gradient to the parameters', outside autocast, which is for forward passes."""
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward()  # type: ignore[no-untyped-call]


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, num_steps: int, power: float, lag: int = 0) -> float:
    """Apply the poly schedule before step `step` (from 0), as it is `lag` steps before; return the backbone's rate."""
    factor = (1 - max(step - lag, 0) / num_steps) ** power
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])
