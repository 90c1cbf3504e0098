"""A run that is small enough to be trained within seconds, and what the authors' code returns."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from rankmatch.config import (
    AugmentConfig,
    BackboneConfig,
    DatasetConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
    TrainConfig,
)
from rankmatch.execution import ExecutionConfig, TrainerExecution

_METHOD = {"num_agents": 4, "confidence_threshold": 0.4, "supervised_steps": "equal"}


@pytest.fixture(scope="session")
def golden() -> Mapping[str, np.ndarray]:
    """Inputs and outputs of the authors' code, as golden/README.md names them."""
    with np.load(Path(__file__).with_name("golden") / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def tiny_config(tiny_root):
    """Make the configuration of a run of two epochs with five steps each."""

    def make(
        method: str = "rankmatch", *, num_workers: int = 1, epochs: int = 2, batch_size: int = 2, **settings
    ) -> TrainConfig:
        return TrainConfig(
            numerics=NumericsConfig(
                split="2",
                dataset=DatasetConfig(name="tiny", num_classes=3),
                backbone=BackboneConfig(name="mobilenet_v2", width=0.25, pretrained=False),
                method=MethodConfig(**_METHOD | {"name": method} | settings),
                augment=AugmentConfig(crop_size=33),
                trainer=OptimisationConfig(
                    epochs=epochs, labeled_batch_size=batch_size, unlabeled_batch_size=batch_size, learning_rate=0.01
                ),
            ),
            execution=ExecutionConfig(
                data_root=str(tiny_root),
                trainer=TrainerExecution(num_workers=num_workers, device="cpu", log_every_steps=1, num_threads=1),
            ),
        )

    return make
