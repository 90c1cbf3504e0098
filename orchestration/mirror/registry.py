"""Register trained models: for each method and backbone of a grid, the one with the best figure in the table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestration.grids.grid import Grid
from orchestration.grids.launched import run_folders
from orchestration.mirror.grid_mirror import GridMirror, last_tracking_uri, mirrored_cells, only_writer
from orchestration.mirror.tracking import MirroredCell
from orchestration.runs import made_with
from orchestration.runs.recorder import Row
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState
from rankmatch.hashing import sha256_of
from rankmatch.run_files import BEST


@dataclass(frozen=True, slots=True)
class Candidate:
    """The best finished cell of a method and backbone."""

    name: str
    """Name of the registered model: `<grid>.<method>.<backbone>`."""
    cell: MirroredCell
    result: Row

    @property
    def weights(self) -> Path:
        """The file of the best epoch's weights; a missing file if the result names none."""
        return Path(self.cell.folder.path / (self.result.get("model") or {"path": BEST})["path"])

    def tags(self) -> dict[str, str]:
        """Return the tags of a version."""
        result = self.result
        figures = {"best_miou": result["best_miou"], "best_epoch": result["best_epoch"]}
        commits = " ".join(made_with.values(result["provenance"], made_with.COMMIT))
        known = figures | {"commit": commits, "sha256": result["model"]["sha256"]}
        return {**self.cell.axes, "signature": self.cell.signature} | {
            name: str(value) for name, value in known.items()
        }


def candidates(
    loaded: Grid, grid_dir: Path, methods: Sequence[str] = (), backbones: Sequence[str] = ()
) -> list[Candidate]:
    """Choose by `best_miou`, the validation figure of the table; ties go to the first cell of the grid."""
    best: dict[str, Candidate] = {}
    for name, cell in _finished(loaded, grid_dir, methods, backbones):
        result = cell.folder.result()
        assert result is not None
        if name not in best or result["best_miou"] > best[name].result["best_miou"]:
            best[name] = Candidate(name, cell, result)
    return list(best.values())


def register(
    loaded: Grid, grid_dir: Path, uri: str, methods: Sequence[str], backbones: Sequence[str], console: Console
) -> None:
    """Copy the weights of the chosen cells into MLflow as the newest versions of their models.

    Raises:
        ValueError: No finished cell matches, or its weights are missing.
        StoreError: The store does not answer.
    """
    chosen = candidates(loaded, grid_dir, methods, backbones)
    if not chosen:
        raise ValueError(f"a cell of {loaded.name} must be done, of that method and backbone if any; there is none")
    for candidate in chosen:
        if not candidate.weights.is_file():
            name = candidate.cell.folder.path.name
            raise ValueError(
                f"{name} is the best cell of {candidate.name}, so its weights must be there; "
                f"no {candidate.weights}: train it again, or leave it out by --method or --backbone"
            )
        known, found = candidate.result["model"]["sha256"], sha256_of(candidate.weights)
        if found != known:
            raise ValueError(
                f"{candidate.weights} must be the file that the training published, with SHA-256 {known}; "
                f"it has {found}: restore it, train it again, or leave it out by --method or --backbone"
            )
    cells = mirrored_cells(loaded, run_folders(loaded, grid_dir))
    mirror = GridMirror(last_tracking_uri(uri, grid_dir), grid_dir, cells).open()
    for candidate in chosen:
        with only_writer(grid_dir):
            mirror.sync([candidate.cell])
            name, version, is_new = mirror.register(candidate.name, candidate.cell, candidate.weights, candidate.tags())
        figure = f"{100 * candidate.result['best_miou']:.1f}"
        word = "" if is_new else ", as before"
        console.print(
            f"{name} version {version}{word}: {candidate.cell.folder.path.name}, mIoU {figure}",
            highlight=False,
            soft_wrap=True,
        )


def _finished(
    loaded: Grid, grid_dir: Path, methods: Sequence[str], backbones: Sequence[str]
) -> Iterator[tuple[str, MirroredCell]]:
    found: dict[str, RunFolder] = run_folders(loaded, grid_dir)
    for cell in loaded.cells:
        numerics, folder = cell.config.numerics, found[cell.signature]
        method, backbone = numerics.method.name, numerics.backbone.name
        is_meant = (not methods or method in methods) and (not backbones or backbone in backbones)
        if is_meant and folder.look().status is CellState.DONE:
            yield f"{loaded.name}.{method}.{backbone}", MirroredCell(folder, cell.axes, cell.signature)
