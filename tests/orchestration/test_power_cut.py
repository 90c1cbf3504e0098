"""What lies on the disk if the power fails: a file that was synced, under a name whose folder was synced after it."""

import os
import time
from pathlib import Path

import pytest

from orchestration.running.run_cell import launcher, run_cell, train_inline
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder
from rankmatch import checkpoint


class Disk:
    """Notes what is synced, as the only thing that outlives a power cut."""

    def __init__(self) -> None:
        self.contents: dict[int, int] = {}
        """When a file's content was synced, by inode."""
        self.names: dict[int, dict[str, int]] = {}
        """The inodes by name that a folder had when it was synced, by its inode."""

    def fsync(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").resolve()
        inode = path.stat().st_ino
        if path.is_dir():
            with os.scandir(path) as entries:
                self.names[inode] = {entry.name: entry.inode() for entry in entries}
        else:
            self.contents[inode] = time.time_ns()

    def keeps(self, path: Path, root: Path) -> bool:
        status = path.stat()
        is_written = path.is_dir() or self.contents.get(status.st_ino, 0) >= status.st_mtime_ns
        is_named = self.names.get(path.parent.stat().st_ino, {}).get(path.name) == status.st_ino
        return is_written and is_named and (path.parent == root or self.keeps(path.parent, root))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(os, "fsync", made.fsync)
    return made


def test_power_cut_loses_neither_a_published_result_nor_what_it_names(make_cell, disk: Disk) -> None:
    cell = make_cell(epochs=2)
    assert run_cell(cell, train=train_inline, owner=launcher()) is JobState.DONE
    result = RunFolder(cell).result()
    assert result is not None
    names = ("owner.json", "events.jsonl", "epochs.jsonl", "steps.arrow", "samples.png", "best.pt")
    files = [cell / name for name in ("result.json", "config.yaml", "axes.json")]
    files += [cell / "attempts" / "1" / name for name in names]
    assert [path.name for path in files if not disk.keeps(path, cell.parents[1])] == []
    assert cell / result["model"]["path"] in files


def test_power_cut_loses_no_checkpoint_that_was_written_or_adopted(make_cell, disk: Disk, monkeypatch) -> None:
    cell, seen = make_cell(epochs=2), []
    save, adopt = checkpoint.save, checkpoint.adopt

    def watched(path: Path) -> Path:
        seen.append(path.parent.parent.name + "/" + path.name)
        for name in (checkpoint.STATE, checkpoint.BEST, checkpoint.MANIFEST):
            assert disk.keeps(path / name, cell.parents[1]), f"{path.name}/{name}"
        return path

    monkeypatch.setattr(checkpoint, "save", lambda *given, **named: watched(save(*given, **named)))
    monkeypatch.setattr(checkpoint, "adopt", lambda *given: watched(adopt(*given)))
    asked = iter(range(100))
    monkeypatch.setattr("orchestration.running.run_cell.StopCheck.__init__.__defaults__", (0.0,))
    run_cell(cell, train=train_inline, owner=launcher(), should_stop=lambda: bool(seen) and next(asked) == 1)
    run_cell(cell, train=train_inline, owner=launcher())
    assert seen == ["1/step_2", "1/step_3", "2/step_3", "2/step_2", "2/step_4"]
