"""Windows in which a single cell cannot be read: its folder, or all its attempts, on some machines or on all."""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.runs.folders import signature_in
from orchestration.runs.run_folder import RunFolder, folders

if TYPE_CHECKING:
    from simulation.world import World

KIND = "cell away"
_RARELY = (600.0, 3 * 3600.0), (20.0, 300.0, 1800.0, 5 * 3600.0, 9 * 3600.0)
_OFTEN = (10.0, 300.0), (3.0, 8.0, 20.0, 60.0)
"""The pause between two windows, and how long they last."""


@dataclass(frozen=True, slots=True)
class _Window:
    signature: str
    of_attempts: bool
    until: float
    hosts: str
    """The hosts that cannot read it begin so."""


class CellsAway:
    """What is away now; drawn apart from all else, so that a history without it stays the same."""

    def __init__(self, world: "World") -> None:
        self._world, self._chance = world, random.Random(f"{world.seed}: cells away")
        self._pause_s, self._lasts_s = self._chance.choice([_RARELY, _RARELY, _OFTEN])
        self._windows: list[_Window] = []
        world.hub.after(self._chance.uniform(60, 3600), self._open)

    def _open(self) -> None:
        world, chance = self._world, self._chance
        if not world.weather.is_stormy:
            return
        if cells := self._cells():
            lasts_s, hosts = chance.choice(self._lasts_s), chance.choice(["", "", "", "login", "n"])
            signature, of_attempts = chance.choice(cells).signature, chance.random() < 0.3
            self.begin(signature, lasts_s, hosts, of_attempts=of_attempts)
            if self._lasts_s is _RARELY[1]:  # hundreds of short ones would hide the rest of the diary
                what = "the attempts of" if of_attempts else "all of"
                world.note(f"fault: {KIND}: {what} {signature} for {lasts_s:.0f} s, on {hosts or 'every host'}")
        world.hub.after(chance.uniform(*self._pause_s), self._open)

    def begin(self, signature: str, lasts_s: float, hosts: str, *, of_attempts: bool = False) -> None:
        """Have a cell be away, or only its attempts, on the hosts whose names begin so."""
        now = self._world.hub.now
        still = [window for window in self._windows if window.until > now]
        self._windows = [*still, _Window(signature, of_attempts, now + lasts_s, hosts)]
        self._world.weather.num[KIND] += 1

    def _cells(self) -> list[RunFolder]:
        """Return the cells one of which is to be away: mostly those that somebody has something to do with."""
        every = [one for _, one in sorted(folders(self._world.grid_dir).items())]
        is_left = [one for one in every if not one.has_result()]
        return is_left if is_left and self._chance.random() < 0.8 else every

    def refuse(self, path: object) -> None:
        """Raise ESTALE if a path lies in what the process at work cannot read now."""
        hub = self._world.hub
        if hub.current is None or not self._windows or not isinstance(path, str | Path):
            return
        _, is_of_cell, below = str(path).partition("/cells/")
        if is_of_cell and self._world.weather.is_stormy and any(self._hides(one, below) for one in self._windows):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    def _hides(self, one: _Window, below: str) -> bool:
        hub = self._world.hub
        name, _, inside = below.partition("/")
        assert hub.current is not None
        return (
            signature_in(name) == one.signature
            and (inside.startswith("attempts") or not one.of_attempts)
            and hub.now < one.until
            and hub.current.host.startswith(one.hosts)
        )

    def checked(self, act: Callable[..., object]) -> Callable[..., object]:
        """Return a function of the operating system that may fail so; the link to a cell is not in its folder."""

        def checking(path: object = ".", *words: object, **options: object) -> object:
            if options.get("follow_symlinks", True):
                self.refuse(path)
            return act(path, *words, **options)

        return checking
