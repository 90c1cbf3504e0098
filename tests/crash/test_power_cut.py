"""A cell whose machine loses power at any moment is resumed from what was synced, and loses nothing that was said."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import power_cut
import pytest
from crash_points import HAS_STRACE, Programs
from equal_cells import make_cell
from power_cut import Disk, moments, restore
from system_calls import Call
from undisturbed import content

from orchestration.runs.run_folder import RunFolder
from rankmatch.run_files import step_of

pytestmark = [
    pytest.mark.xdist_group("crash_power_cut"),
    pytest.mark.skipif(not HAS_STRACE, reason="needs strace (apt-get install strace)"),
]
STEP = re.compile(r"/step_(\d+)$")


class Recorded:
    """A cell that was trained with every call noted, which can be had as any power cut leaves it."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs, self.folder = programs, make_cell(folder)
        self.begin = Disk(self.folder.path)
        order = {"path": str(self.folder.path)}
        self.calls = programs.calls("cell", order, self.folder.path, is_whole=True)
        self.whole = content(self.folder)

    def cut(self, num_calls: int, way: str) -> str:
        """Leave what a power cut after so many calls does; return a word that is equal where that is."""
        restore(self.begin, "nothing")
        disk = Disk(self.folder.path)
        for call in self.calls[:num_calls]:
            disk(call)
        return restore(disk, way, seed=num_calls)

    def survives(self, num_calls: int) -> str:
        """Return what is lost after `cut`, once the same command has been given again."""
        wrong = broken_promise(self.folder, self.calls[:num_calls])
        if self.programs("cell", {"path": str(self.folder.path)}) != 0:
            return f"the same command fails: {self.programs.printed.read_text()[-2000:]}"
        found = content(self.folder)
        return "; ".join([*wrong, *(f"{name} differs" for name in found if found[name] != self.whole[name])])


def broken_promise(folder: RunFolder, done: Sequence[Call]) -> list[str]:
    """Return what a process relied on as being on the disk, by what it did afterwards, and is not there."""
    relied = [call for call in done if call.name not in ("fsync", "close", "openat", "lseek")]
    saved = [int(found[1]) for call in relied[:-1] if call.name == "rename" and (found := STEP.search(call.paths[-1]))]
    published = any(call.name == "link" and call.paths[-1].endswith("/result.json") for call in relied[:-2])
    if folder.has_result():
        return []
    newest = folder.newest_checkpoint()
    wrong = ["the result is gone"] if published else []
    if saved and (newest is None or step_of(newest) < max(saved)):
        wrong.append(f"the checkpoint of step {max(saved)} is gone, there is {newest}")
    return wrong


@pytest.fixture(scope="module")
def recorded(in_memory: Path) -> Iterator[Recorded]:
    with Programs(in_memory) as programs:
        yield Recorded(programs, in_memory / "cells")


def test_replay_of_all_calls_gives_what_the_cell_holds(recorded: Recorded) -> None:
    recorded.cut(len(recorded.calls), "names")
    assert content(recorded.folder) == recorded.whole
    recorded.cut(0, "names")
    assert {path.name for path in recorded.folder.path.iterdir()} == {"config.yaml", "axes.json"}


def test_nothing_that_a_process_relied_on_is_lost_at_any_moment(recorded: Recorded) -> None:
    wrong = []
    for moment in moments(recorded.calls):
        recorded.cut(moment, "nothing")
        wrong += [f"{moment}: {line}" for line in broken_promise(recorded.folder, recorded.calls[:moment])]
    assert wrong == []
    assert recorded.folder.has_result()


@pytest.mark.crash
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", power_cut.WAYS)
def test_cell_survives_a_power_cut_at_every_moment(
    recorded: Recorded, way: str, tell_points: Callable[[str, int, list[str]], None]
) -> None:
    seen, wrong = set[str](), []
    for moment in moments(recorded.calls):
        word = recorded.cut(moment, way)
        if word not in seen and (lost := recorded.survives(moment)):
            wrong.append(f"before call {moment}: {lost}")
        seen.add(word)
    tell_points(f"power cut, of what was not synced: {way}", len(seen), wrong)
    assert wrong == []
