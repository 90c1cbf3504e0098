"""A small run folder to train, and one Ray for all tests that need one in their own process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campaign_life import life  # noqa: F401 (a fixture)
from launcher import Launcher
from orchestration_fakes import slurm  # noqa: F401 (a fixture)
from own_grid import OwnGrid

from orchestration.grids.cells import Cell, to_yaml
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import (
    AugmentConfig,
    BackboneConfig,
    DatasetConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
    SceneConfig,
    TrainConfig,
)
from rankmatch.execution import ExecutionConfig, TrainerExecution

MakeCell = Callable[..., Path]


def tiny_config(seed: int = 0, epochs: int = 1, num_workers: int = 1, learning_rate: float = 0.001) -> TrainConfig:
    return TrainConfig(
        numerics=NumericsConfig(
            seed=seed,
            split="4",
            dataset=DatasetConfig(scenes=SceneConfig(num_train=12, num_val=2, size=32)),
            backbone=BackboneConfig(name="mobilenet_v2", width=0.25, pretrained=False),
            method=MethodConfig(name="fixmatch"),
            augment=AugmentConfig(crop_size=33),
            trainer=OptimisationConfig(
                epochs=epochs, labeled_batch_size=4, unlabeled_batch_size=4, learning_rate=learning_rate
            ),
        ),
        execution=ExecutionConfig(trainer=TrainerExecution(device="cpu", num_workers=num_workers, num_threads=1)),
    )


@pytest.fixture
def make_cell(tmp_path: Path) -> MakeCell:
    def make(**settings) -> Path:
        cell = Cell(config=tiny_config(**settings), axes={"seed": str(settings.get("seed", 0))})
        path = tmp_path / "grid" / "cells" / cell.folder_name
        RunFolder(path).create(to_yaml(cell.config), cell.axes)
        return path

    return make


@pytest.fixture(scope="session")
def private_ray() -> Iterator[Path]:
    from orchestration.on_ray.cluster import private_ray

    with private_ray(num_cpus=2) as folder:
        yield folder


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """The small grid after its launch, to be left as it is."""
    launcher = Launcher(tmp_path_factory.mktemp("launched"))
    launcher.code = launcher()
    before = launcher.launches(), launcher.printed
    yield launcher
    assert (launcher.launches(), launcher.printed) == before, "a test launched the grid that all tests share"


@pytest.fixture
def again(launched: Launcher, tmp_path: Path) -> Launcher:
    """The same in a folder of its own."""
    return launched.copied(tmp_path / "again")


@pytest.fixture
def fresh(tmp_path: Path) -> Launcher:
    return Launcher(tmp_path)


@pytest.fixture(scope="session")
def own_launched(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> OwnGrid:
    """A grid of somebody's own after its launch, with two cells done and one that failed; to be left as it is."""
    own = OwnGrid(tmp_path_factory.mktemp("own"), tiny_root)
    own.printed = own.launch(code=1)
    return own


@pytest.fixture
def own(own_launched: OwnGrid, tmp_path: Path) -> OwnGrid:
    """The same in a folder of its own."""
    return own_launched.copied(tmp_path / "own")
