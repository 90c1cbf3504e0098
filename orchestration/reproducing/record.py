"""What a run folder says about how its training began: command, code, environment, data."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.grids import index
from orchestration.machine.image import DIGEST, IMAGE
from orchestration.machine.provenance import PACKAGES
from orchestration.runs import changes, made_with, origin, store
from orchestration.runs.folders import CellFolder, GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder

DATA = {"split_sha256": "the split lists", "data_fingerprint": "the data files"}


@dataclass(frozen=True, slots=True)
class Record:
    """The first attempt of a run, and the loss rows that count."""

    folder: RunFolder
    launch: str
    """The folder name of its launch; empty if it was not recorded."""
    of_grid: str
    """The grid whose launch that was; empty if it was not recorded: then the one that has the cell."""
    made: Mapping[str, Any]
    """The provenance of the attempt in which training began."""
    codes: list[str]
    """Commit and hash of uncommitted changes of all attempts whose steps count."""
    losses: list[dict[str, Any]]
    """Up to the attempt, if any, in which other code trained on."""
    other_code_at: int | None
    """The first step of that attempt."""

    @property
    def commit(self) -> str:
        """The commit of the code; empty if it is unknown."""
        return str(self.made.get("commit") or "")

    @property
    def difference(self) -> Path | None:
        """The stored uncommitted changes; None if there were none."""
        return changes.find(self.folder, self.made, self._launched.path)

    @property
    def _launched(self) -> GridFolder:
        """The grid that launched it, which may have another name since; if it is gone, the one that has the cell."""
        own = self.folder.grid
        named = own.runs.grid(self.of_grid) if self.of_grid else own
        begun = (
            one for one in (named, own, *own.runs.grids()) if self.launch and one.launch(self.launch).path.is_dir()
        )
        return next(begun, own)

    def lines(self) -> Iterator[str]:
        """Yield what repeating the training needs."""
        yield f"command      {self._command()}"
        commit = self.commit or f"unknown: {self.made.get('commit_unknown') or 'it was not recorded'}"
        changes = f", with the changes in {self.difference}" if self.difference else ""
        lost = ", with changes that were not stored" if self.made.get("dirty") and not self.difference else ""
        yield f"code         commit {commit}{changes}{lost}"
        lock = self.made.get("lock_sha256")
        yield f"environment  {', '.join(self._versions())}; requirements.lock {_short(lock)}"
        if place := origin.of(self.folder):
            yield f"imported     from {place}"
        image = self.made.get(IMAGE)
        yield f"image        {f'{image} {_short(self.made.get(DIGEST))}' if image else 'none recorded'}"
        threads = self.made.get("num_threads")
        yield f"device       {self.made.get('device') or 'unknown'}, {threads or 'unknown'} threads"
        data = ", ".join(f"{what} {_short(self.made.get(name))}" for name, what in DATA.items())
        yield f"data         {data}"

    def _command(self) -> str:
        grid = self._launched
        launched = grid.launch(self.launch).grid_file if self.launch else grid.grid_file
        file = launched if launched.is_file() else grid.grid_file
        if not file.is_file():
            return f"not known: the folder of {self.of_grid or 'its grid'} is gone; config.yaml has all settings"
        varied = index.axes(self.folder, index.known_axes(self.folder.grid.path))
        axes = [f"{key}={text}" for key, text in varied.items()]
        words = ["rankmatch", "launch", "--grid", str(file), "--cluster", "inline", "--runs", "reproduced", *axes]
        return shlex.join(words)

    def _versions(self) -> Iterator[str]:
        yield f"Python {self.made.get('python') or 'unknown'}"
        packages = self.made.get("packages") or {}
        yield from (f"{name} {packages[name]}" for name in PACKAGES if packages.get(name))


def read(folder: RunFolder) -> Record:
    """Read how a run was made.

    Raises:
        ValueError: It has no training whose beginning is known, or no recorded loss.
    """
    pairs = [(one, limit) for one, limit in folder.attempts_with_limits() if one.first_step() is not None]
    begun = next((attempt for attempt, limit in pairs if attempt.first_step() == 0 and limit > 0), None)
    if begun is None:
        raise ValueError(f"{folder.path} must have an attempt that began at the first step; it has none")
    described = made_with.of_attempts(pairs)
    other_code_at = _other_code_at(described)
    owner = begun.known_owner()
    losses = [row for row in folder.steps().to_pylist() if other_code_at is None or row["step"] < other_code_at]
    if not losses:
        raise ValueError(f"{folder.path} must have a recorded loss of the code that began it; there is none")
    return Record(
        folder,
        str(owner.get("launch") or ""),
        str(owner.get("grid") or ""),
        made_with.known(begun),
        made_with.code({made_with.ATTEMPTS: described}),
        losses,
        other_code_at,
    )


def _other_code_at(described: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the step at which an attempt with other code than the first one's began."""
    codes = [made_with.code(attempt) for attempt in described]
    return next((one["first_step"] for one, code in zip(described, codes, strict=True) if code != codes[0]), None)


def find(word: str, runs: Path, grid: str = "") -> RunFolder:
    """Return the run folder that a word names: a path, a signature, or a part of a name.

    Raises:
        ValueError: No run or several have this name.
    """
    if CellFolder(Path(word)).config_file.is_file():
        return RunFolder(store.as_a_grid_has_it(Path(word)))
    every = RunsFolder(runs.resolve())
    grids = [every.grid(grid)] if grid else every.grids()
    places = [cell for each in grids for cell in each.cells()] + ([] if grid else every.cells())
    found: dict[str, RunFolder] = {}
    for place in places:
        if word in place.name:  # of a cell that several grids have, the first one's link
            found.setdefault(os.path.realpath(place.path), RunFolder(store.as_a_grid_has_it(place.path)))
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(f"CELL must be a run folder, or name one run below {runs}; {_several(word, [*found.values()])}")


def _several(word: str, found: Sequence[RunFolder]) -> str:
    if not found:
        return f"none has {word!r} in its name"
    shown = ", ".join(f"{one.grid.path.name}/{one.path.name}" for one in found[:5])
    return f"{len(found)} have {word!r} in their names: {shown}{', ...' if len(found) > 5 else ''}"


def _short(value: object) -> str:
    return str(value)[:12] if value else "unknown"
