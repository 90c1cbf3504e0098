"""What cells need to be trained and is not there: data, split lists, weights."""

from collections.abc import Iterable
from pathlib import Path

from orchestration.grids.cells import Cell


def missing_inputs_of(cells: Iterable[Cell]) -> list[str]:
    """Return the missing inputs of some cells, one line each, without repetition."""
    return list(dict.fromkeys(line for cell in cells for line in missing_inputs(cell)))


def missing_inputs(cell: Cell) -> list[str]:
    """Return the inputs that a cell needs and its configuration does not give, one line each."""
    numerics, execution = cell.config.numerics, cell.config.execution
    missing = []
    if numerics.backbone.pretrained and not execution.backbone.weights:
        missing.append(
            f"backbone.weights must be the ImageNet file of {numerics.backbone.name} where backbone.pretrained is true;"
            " give it, name it in the site's file, or set backbone.pretrained=false"
        )
    if numerics.dataset.name != "synthetic" and not Path(execution.data_root or "/nowhere").is_dir():
        missing.append(
            f"data_root must be the folder of {numerics.dataset.name}; {_not_there('data_root', execution.data_root)}"
        )
    if execution.split_root and not Path(execution.split_root).is_dir():
        missing.append(
            f"split_root must be the folder of the split lists; {_not_there('split_root', execution.split_root)}"
        )
    if execution.data_store and not Path(execution.data_store).is_dir():
        words = _not_there("data_store", execution.data_store)
        missing.append(f"data_store must be a folder that `rankmatch data pack` wrote; {words}")
    return missing


def _not_there(key: str, folder: str) -> str:
    return (
        f"there is no {folder}; if it has moved: {key}=FOLDER"
        if folder
        else (f"got {folder!r}: give {key}=FOLDER, or name it in the site's file")
    )
