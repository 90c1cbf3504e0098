"""Folders for the sockets of a Ray: closed to others, and swept only when whoever made them is gone."""

import errno
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from orchestration.machine import scratch
from rankmatch.data.staging import stage

ROOT = Path(__file__).resolve().parents[3]
SESSION = "session_2026-01-31_12-00-00_123456_789"
IN_OTHER_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(scratch, "PLACES", (tmp_path,))
    return tmp_path


def aged(path: Path) -> Path:
    os.utime(path, (0, 0))
    return path


def die(place: Path) -> None:
    scratch.make()
    os._exit(0)


def left_behind(place: Path) -> Path:
    process = multiprocessing.get_context("fork").Process(target=die, args=(place,))
    process.start()
    process.join()
    (path,) = place.glob("rm-ray-*")
    return path


def test_folder_is_closed_to_others_under_a_name_that_nobody_can_guess():
    made = [scratch.make() for _ in range(2)]
    try:
        assert {one.path.stat().st_mode & 0o777 for one in made} == {0o700}
        assert made[0].path != made[1].path
        assert all(str(os.getpid()) not in one.path.name and len(str(one.ray)) <= 40 for one in made)
    finally:
        for one in made:
            one.remove()
    assert not made[0].path.exists()


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_has_is_not(place):
    gone = left_behind(place)
    with scratch.held() as mine:
        scratch.sweep()
        assert not gone.exists() and mine.path.exists()


def can_unshare() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*IN_OTHER_NAMESPACE, "true"]).returncode


@pytest.mark.skipif(not can_unshare(), reason="no namespaces may be made here")
def test_container_that_shares_a_folder_but_no_process_numbers_sweeps_nothing_that_is_alive(place):
    code = (
        f"from pathlib import Path; from orchestration.machine import scratch; scratch.PLACES = (Path({str(place)!r}),)"
    )
    with scratch.held() as mine:
        command = [*IN_OTHER_NAMESPACE, sys.executable, "-c", f"{code}; scratch.sweep()"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert mine.path.exists()
    gone = left_behind(place)
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert not gone.exists()


def test_folder_whose_owner_is_not_written_yet_stays(place):
    path = left_behind(place)
    (path / "owner.json").unlink()
    scratch.sweep()
    assert aged(path).exists()
    scratch.sweep()
    assert path.exists()


@pytest.mark.parametrize(
    "name",
    ["rankmatch-runs", "rankmatch-main", "rankmatch-data", "rankmatch-store-0-0123456789ab", "rankmatch-123",
     "rankmatch-j12", "rankmatch-abcd_123", "rm-ray-data", "rm-ray-abcd_123"],
)  # fmt: skip
@pytest.mark.parametrize("content", ["grid/cells/a/result.json", "voc.arrow", "owner.json", "session_1/a", ""])
def test_old_folder_of_somebody_else_is_never_swept_whatever_it_is_called(place, name, content):
    path = place / name / content
    path.parent.mkdir(parents=True, exist_ok=True)
    if content:
        path.write_text('{"host": "a", "boot": "b", "pid": 1, "made_by": "me"}')
    else:
        path.mkdir(exist_ok=True)
    (place / name).chmod(0o700)
    aged(place / name)
    scratch.sweep(lambda owner: True)
    assert path.exists()


@pytest.mark.parametrize("name", ["rankmatch-runs", "rankmatch-123"])
def test_folder_with_other_things_beside_those_of_a_ray_is_never_swept(place, name):
    path = place / name
    (path / SESSION / "sockets").mkdir(parents=True)
    (path / "mine").touch()
    aged(path)
    scratch.sweep()
    assert (path / "mine").exists()


def test_store_that_a_training_staged_outlives_a_sweep(place, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("SLURM_TMPDIR", str(place))
    source = tmp_path_factory.mktemp("source")
    (source / "a.arrow").write_bytes(b"a")
    staged = stage(source)
    aged(staged)
    scratch.sweep()
    assert (staged / "a.arrow").read_bytes() == b"a"


def test_folder_that_others_may_enter_was_not_made_here_and_stays(place):
    path = left_behind(place)
    path.chmod(0o755)
    scratch.sweep()
    assert path.exists()


@pytest.mark.parametrize(("host", "boot", "is_gone"), [("", "", True), ("other", "", True), ("other", "b", False)])
def test_on_a_file_system_of_several_machines_only_folders_of_this_one_are_swept(
    host, boot, is_gone, place, monkeypatch
):
    monkeypatch.setattr(scratch, "is_local", lambda path: False)
    path = left_behind(place)
    owner = json.loads((path / "owner.json").read_text())
    changed = {"host": host or owner["host"], "boot": boot or owner["boot"]}
    (path / "owner.json").write_text(json.dumps(owner | changed))
    scratch.sweep()
    assert path.exists() != is_gone
    scratch.sweep(lambda owner: owner["boot"] == "b")
    assert not path.exists()


def test_links_and_files_are_left_alone(place, tmp_path):
    target = left_behind(place).rename(tmp_path / "target")
    (place / "rm-ray-link").symlink_to(target)
    (place / "rm-ray-file").touch()
    aged(place / "rm-ray-file")
    scratch.sweep()
    assert target.exists() and (place / "rm-ray-file").exists()


def test_folder_of_an_earlier_version_is_swept_once_nothing_listens_there(place, monkeypatch):
    path = place / "rankmatch-123"
    sockets = path / SESSION / "sockets"
    sockets.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(sockets)  # for a short name
        listener.bind("raylet")
        listener.listen()
        monkeypatch.chdir(ROOT)
        scratch.sweep()
        assert path.exists()
        aged(path)
        scratch.sweep()
        assert path.exists()
    scratch.sweep()
    assert not path.exists()


Usage = namedtuple("Usage", "free")


def test_first_place_with_room_is_taken_and_where_none_has_any_the_reasons_are_told(tmp_path, monkeypatch):
    full, good = tmp_path / "full", tmp_path / "good"
    for folder in (full, good):
        folder.mkdir()
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: Usage(2**30 if path == good else 2**20))
    monkeypatch.setattr(scratch, "PLACES", (tmp_path / "missing", full, good))
    with scratch.held() as made:
        assert made.path.parent == good
    monkeypatch.setattr(scratch, "PLACES", (full, tmp_path / "missing"))
    monkeypatch.setattr(scratch.tempfile, "mkdtemp", refuse)
    with pytest.raises(OSError, match=r"a Ray needs a folder with 64 MB on this machine \(.*full: 1 MB are free; .*"):
        scratch.make()


def refuse(**options):
    raise OSError(errno.EACCES, "Permission denied")
