"""What finished cells of the same kind took of memory and time, to size what the next ones ask for."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from orchestration.grids.cells import Cell, from_yaml
from orchestration.machine.counts import counted
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.messages import Message
from orchestration.planning.paces import of_finished
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder, folders
from rankmatch.config import TrainConfig

MARGIN = 1.25


@dataclass(frozen=True, slots=True)
class Size(Message):
    """What cells of a kind took at most."""

    kind: str
    num_cells: int
    mem_gb: float
    """Of each worker with its data workers; 0 where no cell has measured it."""
    seconds_per_step: float

    @property
    def mem_gb_per_worker(self) -> float:
        """What is asked for: the most that was taken, and a quarter more, in whole GB."""
        return float(-(-MARGIN * self.mem_gb // 1))

    def limit_s(self, num_steps: int) -> float:
        """Return the seconds that so many steps may take."""
        return MARGIN * self.seconds_per_step * num_steps

    def __str__(self) -> str:
        """Say what is asked for by what was taken."""
        memory = f"{self.mem_gb_per_worker:g} GB for each worker and " if self.mem_gb else ""
        taken = f"{self.mem_gb:.1f} GB and " if self.mem_gb else ""
        cells = f"{counted(self.num_cells, 'finished cell')}"
        return (
            f"sized by history: {self.kind}: {memory}{MARGIN * self.seconds_per_step:.2g} s a step, {MARGIN:g} times "
            f"what {cells} took at most ({taken}{self.seconds_per_step:.2g} s)"
        )


def kind_of(config: TrainConfig) -> str:
    """Say what memory and pace depend on: cells that agree in it are of a kind."""
    numerics, execution = config.numerics, config.execution.trainer
    trainer, backbone = numerics.trainer, numerics.backbone
    return (
        f"{numerics.method.name} on {numerics.dataset.name}, {backbone.name} (width {backbone.width:g}, stride "
        f"{backbone.output_stride}), crop {numerics.augment.crop_size}, {trainer.labeled_batch_size} + "
        f"{trainer.unlabeled_batch_size} images, {trainer.precision}, trainer.num_workers={execution.num_workers}, "
        f"trainer.num_data_workers={execution.num_data_workers}"
    )


def sizes(cells: Sequence[Cell], runs: RunsFolder, device: str) -> list[Size]:
    """Return what finished cells of the kinds of some cells took, of all grids of a runs folder.

    Args:
        cells: The cells to size.
        runs: Where cells of the kind may have been trained.
        device: `cpu` or `cuda`; what was measured on the other one does not count.
    """
    wanted = {kind_of(cell.config) for cell in cells}
    taken: dict[str, list[tuple[float, float]]] = {}
    for kind, memory, pace in _finished(runs, wanted, device):
        taken.setdefault(kind, []).append((memory, pace))
    return [
        Size(kind, len(found), max(memory for memory, _ in found), max(pace for _, pace in found))
        for kind, found in sorted(taken.items())
    ]


def notes(cells: Sequence[Cell], known: Sequence[Size]) -> list[str]:
    """Say what cells are sized by, and which kinds nothing is known of."""
    unknown = sorted({kind_of(cell.config) for cell in cells} - {size.kind for size in known})
    lacking = "no cell of this kind is finished, so it asks for what its site says"
    return [*map(str, known), *(f"sized by history: {kind}: {lacking}" for kind in unknown)]


def _finished(runs: RunsFolder, wanted: Collection[str], device: str) -> Iterator[tuple[str, float, float]]:
    for grid in runs.grids():
        for folder in folders(grid.path).values():
            try:
                if not folder.has_result() or not (pace := of_finished(folder.state(), device)):
                    continue
                kind = kind_of(from_yaml(folder.config()))
                memory_gb = _memory_gb(folder)
            except (DamagedFileError, OSError, ValueError):
                continue  # of an earlier version, or damaged: who reads it for itself says so
            if kind in wanted:
                yield kind, memory_gb, pace


def _memory_gb(folder: RunFolder) -> float:
    """Return the most memory that one worker of a cell used, with its children."""
    rows = [row for attempt in folder.attempts() for some in attempt.system().values() for row in some]
    return max((float(row["memory_gb"]) for row in rows if isinstance(row.get("memory_gb"), int | float)), default=0.0)
