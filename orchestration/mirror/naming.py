"""The name of a cell's run in MLflow, and the text above it."""

from collections.abc import Mapping

from orchestration.runs import hints
from orchestration.runs.run_folder import RunFolder

_NAMED = ("method", "split", "backbone", "seed")


def name_of(folder: RunFolder, axes: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Name a run by what distinguishes it, then by those of method, split, backbone and seed that are no axes.

    Args:
        folder: The folder of the cell.
        axes: The cell's axes.
        names: Method, split, backbone and seed of its configuration.
    """
    common = [f"s{names[key]}" if key == "seed" else names[key] for key in _NAMED if key not in axes]
    return " ".join([folder.slug, *common])


def described(folder: RunFolder, axes: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Describe what was trained, the places of its files and its grid's report, and the command; see `name_of`."""
    grid = folder.grid
    words = [f"{key}={value}" for key, value in axes.items()]
    command = hints.shell("rankmatch", "launch", "--grid", grid.name, "--runs", str(grid.runs.path), *words)
    lines = [
        ", ".join(f"{key} {value}" for key, value in {**names, **axes}.items()),
        f"Configuration: `config.yaml` among the artifacts. Files of the run: `{folder.path}`",
        f"Report of the grid: `{grid.page_file}`",
        f"Command: {command}",
    ]
    return "\n\n".join(lines)
