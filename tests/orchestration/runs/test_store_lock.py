"""The store of a shared runs folder: its lock is open to all who may make grids there, and to nobody else."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestration.mirror.ownership import owner_of
from orchestration.runs import links, store, trash
from orchestration.runs.folders import GridFolder, RunsFolder
from orchestration.runs.run_folder import RunFolder

FIRST, SECOND, STRANGER, GROUP = 4001, 4002, 4003, 4000
SIGNATURES = ("0123456789ab", "0123456789ac")


@pytest.fixture
def runs() -> Iterator[Path]:
    """A runs folder of a group, as its members with the usual umask make grids in it; pytest's are closed to them."""
    if os.getuid():
        pytest.skip("needs root, to be two users")
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o711)
        folder = Path(place) / "runs"
        folder.mkdir()
        os.chown(folder, FIRST, GROUP)
        folder.chmod(0o2775)
        umask = os.umask(0o022)
        yield folder
        os.umask(umask)


@contextmanager
def user(number: int, group: int = GROUP) -> Iterator[None]:
    """Be another user for a while."""
    groups, own = os.getgroups(), os.getgid()
    os.setgroups([group])
    os.setresgid(number, number, 0)
    os.setresuid(number, number, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(own, own, own)
        os.setgroups(groups)


def add(runs: Path, grid: str, signature: str) -> Path:
    with store.adding(runs / grid) as adder:
        return adder.made(signature, "s0").path


def test_second_user_of_a_shared_runs_folder_adds_cells_and_links_to_those_of_the_first(runs: Path) -> None:
    with user(FIRST):
        add(runs, "first", SIGNATURES[0])
    lock = RunsFolder(runs).cells_lock
    with user(SECOND):
        kept, made = (add(runs, "second", signature) for signature in SIGNATURES)
    assert kept.resolve().stat().st_uid == FIRST and made.resolve().stat().st_uid == SECOND
    assert len(store.stored(runs)) == 2
    assert not lock.exists() or stat.S_IMODE(lock.stat().st_mode) == 0o664


def test_second_user_of_a_shared_runs_folder_knows_its_id_and_may_note_its_new_place(runs: Path) -> None:
    with user(FIRST):
        known = owner_of(runs).runs_id
    moved = runs.rename(runs.with_name("moved"))
    with user(FIRST):
        assert owner_of(moved).runs_id == known
    again = moved.rename(runs)
    with user(SECOND):
        assert owner_of(again).runs_id == known
        assert owner_of(again).runs_id == known


def test_each_user_drops_own_cells_whoever_was_the_first_to_drop_one(runs: Path) -> None:
    for number, signature in zip((FIRST, SECOND), SIGNATURES, strict=True):
        with user(number):
            add(runs, f"of_{number}", signature)
            (cell,) = GridFolder(runs / f"of_{number}").cells()
            trash.drop(RunFolder(cell.path), trash.folder(cell.grid.path))
    assert not store.stored(runs)
    assert len([*RunsFolder(runs).trash_dir.glob("*/*/*")]) == len(SIGNATURES)


def test_lock_is_closed_to_those_who_may_not_write_the_runs_folder(runs: Path) -> None:
    with user(FIRST):
        add(runs, "first", SIGNATURES[0])
    with (
        user(STRANGER, STRANGER),
        pytest.raises(ValueError, match=f"{runs} must be a folder in which this user may write"),
    ):
        add(runs, "strangers", SIGNATURES[1])


def test_lock_that_only_its_owner_may_write_is_told_of_with_the_command_that_opens_it(runs: Path) -> None:
    lock = RunsFolder(runs).cells_lock
    with user(FIRST):
        lock.touch(0o600)
    with user(SECOND), pytest.raises(ValueError, match=rf"its owner can open it by `chmod g\+rw {lock}`"):
        add(runs, "second", SIGNATURES[1])


def test_folder_that_is_closed_is_told_of_unless_it_is_the_file_systems(runs: Path) -> None:
    with user(FIRST):
        add(runs, "first", SIGNATURES[0])
    for name in ("lost+found", "closed"):
        (runs / name).mkdir(0o700)
    with user(SECOND):
        found = links.read(runs)
        assert [grid.name for grid in found.grids[SIGNATURES[0]]] == ["first"]
        assert found.unread == [f"{runs / 'closed' / 'cells'} cannot be read: Permission denied"]
    with user(FIRST), pytest.raises(ValueError, match=f"cannot be told, as {runs / 'closed'}"):
        store.grids_with(runs, SIGNATURES[0])
    (runs / "closed").rmdir()
    with user(FIRST):
        assert [grid.name for grid in store.grids_with(runs, SIGNATURES[0])] == ["first"]
