import errno
import grp
import os
import stat
import tempfile
from pathlib import Path

import pytest

from orchestration.machine import own_files


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A folder that others may enter, wherever the tests run."""
    path = tmp_path / "opened"
    path.mkdir()
    path.chmod(0o755)
    return path


def written(folder: Path, mode: int) -> Path:
    path = folder / "task"
    path.write_bytes(b"content")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o644, 0o755])
def test_file_that_only_its_owner_can_write_is_read(opened, mode):
    assert own_files.read(written(opened, mode)) == b"content"


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_file_that_others_can_write_is_refused_unless_its_folder_is_closed_to_them(opened, mode, monkeypatch):
    monkeypatch.setattr(own_files, "_is_within_closed", lambda *_: False)  # pytest's own folder is closed
    with pytest.raises(PermissionError, match=f"can be written by others \\(mode {mode:o}\\)"):
        own_files.read(written(opened, mode))
    monkeypatch.undo()
    opened.chmod(0o700)
    assert own_files.read(written(opened, mode)) == b"content"


def test_file_that_a_group_can_write_is_read_in_a_folder_that_is_shared_with_it_alone():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place).chmod(0o755)  # as pytest's own folders are closed
        shared = Path(place) / "launch"
        (shared / "tune").mkdir(parents=True)
        path = written(shared / "tune", 0o664)
        for mode, is_read in ((0o2770, True), (0o2775, False), (0o2777, False)):
            shared.chmod(mode)
            for folder in (shared, None, shared.parent):
                if is_read and folder == shared:
                    assert own_files.read(path, folder) == b"content"
                else:
                    with pytest.raises(PermissionError, match=r"can be written by others \(mode 664\)"):
                        own_files.read(path, folder)


def test_error_where_this_user_may_not_write_says_who_owns_the_folder_and_who_this_is(opened, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, _: folder != opened)  # root may write everywhere
    path, user = opened / "demo" / "cells", os.geteuid()
    said = own_files.said(PermissionError(errno.EACCES, "Permission denied", str(path)))
    expected = f"{opened} belongs to user {opened.stat().st_uid} (mode 755), and this is user {user}"
    assert said == f"{path}: Permission denied; {expected}"


def test_file_of_another_user_is_refused(opened, monkeypatch):
    path = written(opened, 0o600)
    other = os.geteuid() + 1
    monkeypatch.setattr(own_files.os, "geteuid", lambda: other)
    with pytest.raises(PermissionError, match=f"belongs to user {other - 1} and is read by user {other}"):
        own_files.read(path)


def test_folder_is_closed_to_all_or_to_all_but_a_named_group(opened, monkeypatch):
    monkeypatch.delenv(own_files.GROUP, raising=False)
    own_files.check_group()
    own_files.close(opened)
    assert stat.S_IMODE(opened.stat().st_mode) == 0o700
    own = grp.getgrgid(os.getegid()).gr_name
    monkeypatch.setenv(own_files.GROUP, own)
    own_files.check_group()
    own_files.close(opened)
    assert stat.S_IMODE(opened.stat().st_mode) == 0o2770
    assert opened.stat().st_gid == os.getegid()


def test_group_of_others_is_refused_with_those_that_may_be_named(monkeypatch):
    monkeypatch.setenv(own_files.GROUP, "no-such-group")
    monkeypatch.setattr(own_files.os, "geteuid", lambda: 1)
    with pytest.raises(
        ValueError, match=r"must name a group of yours \(.*\); got 'no-such-group', which this machine "
    ):
        own_files.check_group()
    monkeypatch.setattr(own_files.grp, "getgrnam", lambda name: grp.struct_group((name, "x", 60_001, [])))
    with pytest.raises(ValueError, match=r"must name a group of yours \(.*\); got 'no-such-group'$"):
        own_files.check_group()


def test_own_group_is_taken_though_the_machine_does_not_list_it(monkeypatch):
    """As with LDAP or SSSD without enumeration: the group is found by its name, but in no list of all groups."""
    found = grp.struct_group(("lab", "x", 60_001, []))
    monkeypatch.setenv(own_files.GROUP, "lab")
    monkeypatch.setattr(own_files.os, "geteuid", lambda: 1)
    monkeypatch.setattr(own_files.os, "getgroups", lambda: [60_001, 60_002])
    monkeypatch.setattr(own_files.grp, "getgrnam", {"lab": found}.__getitem__)
    own_files.check_group()
    monkeypatch.setenv(own_files.GROUP, "labb")
    with pytest.raises(ValueError, match=r"\(.*60001, 60002.*\); got 'labb'"):
        own_files.check_group()


def test_error_in_a_folder_that_its_owner_has_closed_says_how_it_is_shared(opened, monkeypatch):
    error = PermissionError(13, "Permission denied", str(opened / "launches" / "x.json"))
    assert own_files.said(error) == f"{opened}/launches/x.json: Permission denied"
    opened.chmod(0o700)
    owner = os.geteuid()
    monkeypatch.setattr(own_files.os, "geteuid", lambda: owner + 1)
    assert f"; {opened} is closed to all but its owner, user {owner}, who shares later ones by RANKMATCH_GROUP=" in (
        own_files.said(error)
    )
    assert own_files.said(OSError("plain")) == "plain"
