import os
import re
from pathlib import Path

import pytest

import rankmatch
from rankmatch.durable import make_folder, move, replacing

ROOT = Path(rankmatch.__file__).parents[1]
BY_HAND = re.compile(r"with_name\(f?[\"']\.|os\.replace\(|mkstemp\(|NamedTemporaryFile\(")
ALLOWED = {
    "rankmatch/durable.py": "the one place",
    "orchestration/machine/files.py": "the lock beside a file",
    "orchestration/machine/snapshot.py": "a whole folder",
    "orchestration/runs/links.py": "a link beside a folder that moves, by whose name the next call finds it",
    "rankmatch/data/store.py": "a name by which what a killed process left is found and removed",
}


def test_file_has_its_old_content_until_the_new_one_is_whole_and_nothing_else_stays(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old" and draft.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_write_that_fails_names_its_file_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space") as caught, replacing(path) as draft:
        draft.write_text("half")
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_files_are_renamed_into_place_by_one_function():
    sources = [path for name in ("rankmatch", "orchestration", "dashboards") for path in (ROOT / name).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in sources if BY_HAND.search(path.read_text(encoding="utf-8"))}
    assert found <= ALLOWED.keys()


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """The names of what was synced, in order."""
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    return seen


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, synced):
    path = tmp_path / "out.txt"
    with replacing(path) as draft:
        draft.write_text("new")
        assert synced == []
    assert synced == [str(draft)]


def test_names_of_all_new_folders_are_on_the_disk(tmp_path, synced):
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert {*synced} == {str(tmp_path / part) for part in ("", "a", "a/b")}
    synced.clear()
    make_folder(tmp_path / "a" / "b" / "c")  # of a process that was killed before it could wait
    assert synced == [str(tmp_path / "a" / "b")]


def test_moved_folder_is_on_the_disk_where_it_is_and_no_longer_where_it_was(tmp_path, synced):
    (tmp_path / "old" / "cell").mkdir(parents=True)
    (tmp_path / "new").mkdir()
    assert move(tmp_path / "old" / "cell", tmp_path / "new" / "cell") == tmp_path / "new" / "cell"
    assert {*synced} == {str(tmp_path / "new"), str(tmp_path / "old")}
