"""Write commented starting files: a grid, and a data set of your own."""

import os
from pathlib import Path
from string import Template

from orchestration.grids import grid
from orchestration.grids.cells import compose_untrained, experiments_folder
from orchestration.grids.own_dataset import is_own
from orchestration.grids.values import format_value
from orchestration.machine import files

TEMPLATES = "templates"
DRAWN_SPLITS = ("4", "8")
EPOCHS = "trainer.epochs: 5"


def new_grid(place: Path, dataset: str) -> Path:
    """Write a grid file that can be launched as it is; return its path.

    Args:
        place: The file, or its name without `.yaml`.
        dataset: As in `dataset=`; the grid has its existing splits.

    Raises:
        ValueError: The file exists, the name is not allowed, or the data set is unknown.
    """
    path = _yaml(place)
    grid.check_name(path)
    own = is_own("dataset", dataset)
    choice = os.path.relpath(dataset, path.parent) if own else dataset
    epochs = "# trainer.epochs: 20  # your data set file says how many, unless a number stands here" if own else EPOCHS
    splits = ", ".join(f"'{name}'" for name in _splits(dataset))
    values = {"file": path.name, "dataset": format_value(choice), "splits": f"[{splits}]", "epochs": epochs}
    return _write(path, "grid.yaml", values)


def new_dataset(place: Path) -> Path:
    """Write the file of your own data set, with every section that it can have; return its path.

    Raises:
        ValueError: The file exists, or it would be called synthetic.
    """
    path = _yaml(place)
    if path.stem == "synthetic":
        raise ValueError(
            "the file of a data set must not be called synthetic, as the drawn scenes are; got 'synthetic'"
        )
    return _write(path, "dataset.yaml", {"file": path.name, "name": path.stem})


def _splits(dataset: str) -> list[str]:
    from rankmatch.data.splits import split_names, split_root

    config = compose_untrained(dataset, {})
    if config.numerics.dataset.name == "synthetic":
        return [*DRAWN_SPLITS]
    there = split_names(split_root(config)) if config.execution.data_root else []
    return there or [config.numerics.split]


def _yaml(place: Path) -> Path:
    return place if place.suffix in (".yaml", ".yml") else place.with_name(f"{place.name}.yaml")


def _write(path: Path, template: str, values: dict[str, str]) -> Path:
    if path.exists():
        raise ValueError(f"{path} exists and was kept: take another name or remove it")
    text = (experiments_folder() / TEMPLATES / template).read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, Template(text).substitute(values))
    return path
