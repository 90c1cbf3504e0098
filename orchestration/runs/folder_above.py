"""Which folder below a runs folder a file belongs to."""

from pathlib import Path

from orchestration.runs.folders import CellFolder, GridFolder, LaunchFolder


def launch_of(grid_file: Path) -> LaunchFolder | None:
    """Return the launch to which a grid file belongs; None if it is no file of a launch."""
    folder = LaunchFolder(grid_file.resolve().parent)
    is_one = grid_file.name == LaunchFolder.grid_file.name and folder.path.parent.name == GridFolder.launches_dir.name
    return folder if is_one else None


def grid_of(grid_file: Path) -> GridFolder:
    """Return the grid's folder that contains a file, directly or in one of its launches."""
    launch = launch_of(grid_file)
    return launch.grid if launch else GridFolder(grid_file.resolve().parent)


def cell_above(path: Path) -> CellFolder | None:
    """Return the cell to which a file belongs, for example in one of its attempts; None if there is none.

    It is the grid's, if the path leads through that.
    """
    found = (CellFolder(folder) for folder in (*path.absolute().parents, *path.resolve().parents))
    return next((cell for cell in found if cell.config_file.is_file() and cell.attempts_dir.is_dir()), None)
