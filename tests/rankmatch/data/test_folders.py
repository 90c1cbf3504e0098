from pathlib import Path

import pytest

from rankmatch.data.folders import find_files


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_files(root).files]


def test_files_below_a_folder_are_listed_in_the_order_of_their_paths(tmp_path: Path):
    root = tree(tmp_path, "b.png", "a/c.png", "a/d/e.png", "A.png")
    assert [tmp_path / name for name in listed(root)] == sorted(path for path in root.rglob("*") if path.is_file())
    assert find_files(root).skipped() == ""


def test_links_to_folders_and_files_are_followed(tmp_path: Path):
    root, elsewhere = tree(tmp_path / "data", "a.png"), tree(tmp_path / "disk", "part/b.png", "c.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "d.png").symlink_to(elsewhere / "c.png")
    assert listed(root) == ["a.png", "d.png", "linked/c.png", "linked/part/b.png"]
    assert find_files(root).skipped() == ""


def test_links_that_go_round_in_circles_end_and_a_folder_is_listed_once_by_its_own_path(tmp_path: Path):
    root = tree(tmp_path, "a/b/c.png", "z/d.png")
    (root / "a" / "b" / "up").symlink_to(root)
    (root / "a" / "first").symlink_to(root / "z")
    assert listed(root) == ["a/b/c.png", "z/d.png"]
    assert find_files(root).skipped() == (f"skipped: 2 linked to a folder that is listed already (first {root}/a/b/up)")


def test_two_links_to_each_other_end(tmp_path: Path):
    root, left, right = tmp_path / "root", tree(tmp_path / "left", "l.png"), tree(tmp_path / "right", "r.png")
    tree(root, "a.png")
    (root / "to_left").symlink_to(left)
    (left / "to_right").symlink_to(right)
    (right / "to_left").symlink_to(left)
    assert listed(root) == ["a.png", "to_left/l.png", "to_left/to_right/r.png"]


@pytest.mark.parametrize("name", [
    "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg",
    ".thumbnails/normal/a.png", "sub/.a.png.12",
])  # fmt: skip
def test_hidden_files_and_what_systems_leave_are_passed_over_and_said(name: str, tmp_path: Path):
    found = find_files(tree(tmp_path, "a.png", name))
    assert [path.name for path in found.files] == ["a.png"]
    assert found.skipped().startswith(f"skipped: 1 hidden (first {tmp_path}/")


def test_folder_that_is_given_may_be_hidden_itself(tmp_path: Path):
    assert listed(tree(tmp_path / ".cache" / "data", "a.png")) == ["a.png"]


def test_links_to_nothing_are_said(tmp_path: Path):
    root = tree(tmp_path, "a.png")
    (root / "b.png").symlink_to(root / "gone.png")
    (root / "round.png").symlink_to(root / "round.png")
    assert find_files(root).skipped() == f"skipped: 2 linked to nothing (first {root}/b.png)"


def test_folder_that_is_not_there_or_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="folder .*gone cannot be read: No such file or directory"):
        find_files(tmp_path / "gone")
    tree(tmp_path, "locked/a.png")
    monkeypatch.setattr("os.scandir", _refusing("locked"))
    with pytest.raises(ValueError, match="folder .*locked cannot be read: Permission denied"):
        find_files(tmp_path)


def _refusing(name: str):
    from os import scandir

    def listing(path):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    return listing
