"""The device of a training, and the network with its initial weights."""

from pathlib import Path

import torch

from rankmatch.checks import MissingFileError, MissingGpuError
from rankmatch.config import TrainConfig
from rankmatch.distributed import Purpose, generator, synchronise_batch_norm
from rankmatch.hashing import sha256_of
from rankmatch.models import DeepLabV3Plus, build_model
from rankmatch.models.deeplabv3plus import silence_unreached
from rankmatch.models.weights import load_backbone


def choose_device(name: str) -> torch.device:
    """Resolve `auto`. If several workers share a node, their launcher has set the current GPU."""
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise MissingGpuError(
            "torch finds no GPU here; trainer.device must be cpu where none is meant to be; got 'cuda'"
        )
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def make_network(config: TrainConfig, device: torch.device) -> DeepLabV3Plus:
    """Build the network with its initial weights: counted random ones, and the backbone's file if `pretrained`."""
    numerics, path = config.numerics, Path(config.execution.backbone.weights)
    network = build_model(numerics.model, generator=generator(numerics.seed, 0, 0, Purpose.INIT))
    if numerics.backbone.pretrained:
        if not path.is_file():
            given = config.execution.backbone.weights
            raise MissingFileError(
                f"backbone.weights must be an ImageNet file when backbone.pretrained is true; got {given!r}"
            )
        if sha256_of(path) != numerics.backbone.weights_sha256:
            raise ValueError(
                f"backbone.weights: {path} is not the file with SHA-256 {numerics.backbone.weights_sha256}"
            )
        load_backbone(network, path, numerics.backbone.weights_nest)
    if numerics.backbone.unreached_taps == "zero":
        silence_unreached(network, numerics.feature_size)
    network = network.to(device).to(memory_format=torch.channels_last)
    return synchronise_batch_norm(network, device)
