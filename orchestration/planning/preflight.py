"""Check every file that the cells of a plan will open, once, before the first cell starts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestration.grids.cells import Cell
from orchestration.grids.inputs import missing_inputs, missing_inputs_of
from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError, tell
from orchestration.machine.fields import COUNT, TEXT, Fields
from rankmatch import NUMERICS
from rankmatch.config import TrainConfig
from rankmatch.methods import METHODS
from rankmatch.unused import counts_unlabeled

MAX_FAULTS_SHOWN = 20

Progress = Callable[[str, int, int], None]
"""Called with what is being checked, the number of samples done and the number of all."""


_OF_GOOD = Fields({"data_fingerprint": TEXT, "notes": TEXT.listed()}, {"transductive": COUNT})


@dataclass(frozen=True, slots=True)
class DataIdentity:
    """The identity of a cell's data at the time of the check."""

    split_sha256: str
    data_fingerprint: str
    transductive: int = 0
    """Number of validation images in the cell's unlabeled list; it trains on them without their labels."""
    notes: tuple[str, ...] = ()
    """Things to know about the data, one line each."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as the run folder stores them."""
        known = {"split_sha256": self.split_sha256, "data_fingerprint": self.data_fingerprint}
        return known | ({"transductive": self.transductive} if self.transductive else {})


def check(cells: Sequence[Cell], cache_dir: Path, progress: Progress) -> Mapping[str, DataIdentity]:
    """Check inputs and data of the cells; return the identity of each cell's data by signature.

    Data and weights that passed the check are not opened again while sizes and times of their files stay the same.

    Args:
        cells: All cells that the launch keeps, resumes or submits.
        cache_dir: Remembers what passed, by the state of its files.
        progress: Called with the progress of the check.

    Raises:
        ValueError: Something is missing or wrong; the message has a line for each fault.
    """
    _refuse(missing_inputs_of(cells))
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_data_key(cell), []).append(cell)
    identities: dict[str, DataIdentity] = {}
    faults = _faults_of_weights(cells, cache_dir)
    for members in groups.values():
        identity, found = _look(members[0], cache_dir, progress)
        faults += found
        identities |= {cell.signature: _of_cell(cell, identity) for cell in members}
    _refuse(list(dict.fromkeys(faults)))
    return identities


def notes_of_lists(cells: Sequence[Cell]) -> list[str]:
    """Report overlaps and faults of some cells' split lists, as far as their text shows them.

    No image is opened; missing lists are skipped.
    """
    groups = {_data_key(cell): cell for cell in cells if cell.config.numerics.dataset.name != "synthetic"}
    lines = []
    for cell in groups.values():
        if missing_inputs(cell) or cell.config.numerics.evaluation.held_out:
            continue
        from rankmatch.data.overlaps import find_overlaps
        from rankmatch.data.splits import read_splits

        try:
            lines += [f"{_name(cell)}: {note}" for note in find_overlaps(read_splits(cell.config)).notes]
        except ValueError as error:
            lines.append(str(error))
    return list(dict.fromkeys(lines))


def _of_cell(cell: Cell, identity: DataIdentity) -> DataIdentity:
    """Drop lists that the cell's method does not read."""
    method = METHODS[cell.config.numerics.method.name]
    return identity if method.sees_unlabeled else replace(identity, transductive=0)


def _name(cell: Cell) -> str:
    return f"{cell.config.numerics.dataset.name}, split {cell.config.numerics.split}"


def _faults_of_weights(cells: Sequence[Cell], cache_dir: Path) -> list[str]:
    """Compare each file of ImageNet weights with its backbone."""
    pairs = {
        repr((cell.config.numerics.backbone, cell.config.execution.backbone.weights)): cell.config
        for cell in cells
        if cell.config.numerics.backbone.pretrained
    }
    faults = []
    for config in pairs.values():
        good = cache_dir / f"weights-{_state_of_weights(config)}"
        if good.exists():
            continue
        from rankmatch.models.weights import check_backbone  # torch takes seconds to import

        try:
            path, nest = Path(config.execution.backbone.weights), config.numerics.backbone.weights_nest
            check_backbone(config.numerics.model, path, nest)
        except ValueError as error:
            faults.append(f"backbone.weights: {error}")
        else:
            cache_dir.mkdir(parents=True, exist_ok=True)
            files.replace(good, "", sync=False)
    return faults


def _state_of_weights(config: TrainConfig) -> str:
    """Return a hash of a network, and of size and modification time of its file of weights."""
    path, network = Path(config.execution.backbone.weights).absolute(), config.numerics.model
    stat = path.stat()
    known = (NUMERICS, network, config.numerics.backbone.weights_nest, path, stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _data_key(cell: Cell) -> str:
    numerics, execution = cell.config.numerics, cell.config.execution
    needs_labels_only = not counts_unlabeled(numerics)
    places = (execution.data_root, execution.split_root, execution.data_store)
    evaluation = numerics.evaluation
    held_out = (evaluation.held_out, evaluation.held_out_from, numerics.seed) if evaluation.held_out else ()
    return repr((numerics.dataset, numerics.split, places, needs_labels_only, held_out))


def _look(cell: Cell, cache_dir: Path, progress: Progress) -> tuple[DataIdentity, list[str]]:
    from rankmatch.data.check import check_data, state_of_files  # torch takes seconds to import
    from rankmatch.data.splits import read_splits, split_sha256

    splits = read_splits(cell.config)
    good = cache_dir / f"{split_sha256(splits)}-{state_of_files(cell.config, splits)}"
    if known := _remembered(split_sha256(splits), good):
        return known, []
    report = check_data(cell.config, progress=lambda done, total: progress(_name(cell), done, total))
    notes = tuple(f"{_name(cell)}: {note}" for note in report.notes)
    identity = DataIdentity(split_sha256(splits), report.fingerprint, report.num_transductive, notes)
    if not report.faults:
        cache_dir.mkdir(parents=True, exist_ok=True)
        files.replace(good, json.dumps({**identity.as_dict(), "notes": notes}) + "\n")
    return identity, report.faults


def _remembered(sha256: str, good: Path) -> DataIdentity | None:
    try:
        known = files.read_json(good, _OF_GOOD, "the data is looked at again")
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        tell(error)
        return None
    return DataIdentity(sha256, known["data_fingerprint"], known.get("transductive", 0), tuple(known["notes"]))


def _refuse(faults: Sequence[str]) -> None:
    if not faults:
        return
    hidden = len(faults) - MAX_FAULTS_SHOWN
    more = [f"... and {hidden} more"] if hidden > 0 else []
    raise ValueError("\n".join([*faults[:MAX_FAULTS_SHOWN], *more]))
