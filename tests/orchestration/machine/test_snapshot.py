import json
import subprocess

import pytest
from shell_programs import FOREIGN_GIT, programs

from orchestration.machine import provenance, snapshot
from orchestration.machine.damage import DamagedFileError


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "code"
    for name in ("rankmatch", "orchestration", "experiments"):
        (root / name).mkdir(parents=True)
        (root / name / "a.py").write_text("first\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=first")
    return root


def git(root, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", root, *identity, *words], check=True, capture_output=True, text=True).stdout


def test_jobs_keep_the_code_they_were_launched_with(checkout, tmp_path):
    taken = snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    assert taken.path.name == taken.commit == git(checkout, "rev-parse", "HEAD").strip()
    (checkout / "rankmatch/a.py").write_text("second\n")
    assert (taken.path / "rankmatch/a.py").read_text() == "first\n"
    assert sorted(path.name for path in taken.path.iterdir()) == ["experiments", "orchestration", "rankmatch"]


def test_code_that_is_not_committed_is_refused(checkout, tmp_path):
    (checkout / "rankmatch/new.py").write_text("x\n")
    with pytest.raises(ValueError, match="must be committed, so that its commit says what ran; .* --allow-dirty"):
        snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    assert not (tmp_path / "grid").exists()


def test_allowed_difference_is_stored_with_new_files_and_the_index_is_untouched(checkout, tmp_path):
    (checkout / "rankmatch/a.py").write_text("second\n")
    (checkout / "rankmatch/new.py").write_text("brand new\n")
    before = git(checkout, "status", "--porcelain")
    taken = snapshot.take(tmp_path / "grid", allow_dirty=True, root=checkout)
    assert "+second" in taken.difference and "+brand new" in taken.difference
    assert (taken.path / "rankmatch/new.py").read_text() == "brand new\n"
    assert (taken.path / provenance.DIFFERENCE).read_text() == taken.difference
    assert taken.path.name.startswith(f"{taken.commit}-")
    assert git(checkout, "status", "--porcelain") == before
    (checkout / "rankmatch/a.py").write_text("third\n")
    assert snapshot.take(tmp_path / "grid", allow_dirty=True, root=checkout).path != taken.path


def test_difference_is_taken_in_a_worktree_too(checkout, tmp_path):
    git(checkout, "worktree", "add", "--quiet", tmp_path / "other")
    (tmp_path / "other/rankmatch/a.py").write_text("second\n")
    taken = snapshot.take(tmp_path / "grid", allow_dirty=True, root=tmp_path / "other")
    assert "+second" in taken.difference


def test_installation_without_commits_is_copied(checkout, tmp_path):
    subprocess.run(["rm", "-rf", checkout / ".git"], check=True)
    taken = snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    assert taken.commit == "" and taken.path.name.startswith("installed-")
    assert (taken.path / "orchestration/a.py").read_text() == "first\n"
    assert snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout).path == taken.path
    (checkout / "orchestration/a.py").write_text("changed\n")
    assert snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout).path != taken.path


def harm(path):
    (path / "rankmatch/a.py").write_text("harmed\n")
    (path / "orchestration/a.py").unlink()
    (path / "experiments/more.py").write_text("new\n")
    (path / "rankmatch/__pycache__").mkdir()
    (path / "rankmatch/__pycache__/a.cpython-311.pyc").write_bytes(b"stale")
    return ["experiments/more.py", "orchestration/a.py", "rankmatch/a.py"]


def contents(path):
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


WHOLE = {f"{name}/a.py": "first\n" for name in ("rankmatch", "orchestration", "experiments")}


def test_harmed_snapshot_is_made_whole_before_it_is_used_again(checkout, tmp_path):
    taken = snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    assert contents(taken.path) == WHOLE
    harm(taken.path)
    assert snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout) == taken
    assert contents(taken.path) == WHOLE


def test_snapshot_is_compared_by_its_hashes_and_brought_back_from_its_commit(checkout, tmp_path):
    taken = snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    assert snapshot.make_whole(taken.path) == []
    snapshot.check(taken.path)
    harmed = harm(taken.path)
    with pytest.raises(ValueError, match=r"is not what was launched: experiments/more.py, .* missing or changed"):
        snapshot.check(taken.path)
    (checkout / "rankmatch/a.py").write_text("second\n")
    git(checkout, "commit", "--quiet", "--all", "--message=second")
    assert snapshot.make_whole(taken.path) == harmed
    assert contents(taken.path) == WHOLE
    harm(taken.path)
    subprocess.run(["rm", "-rf", checkout / ".git"], check=True)
    with pytest.raises(ValueError, match=f"it cannot be made again from {checkout}: git refuses: "):
        snapshot.make_whole(taken.path)


def test_harmed_snapshot_of_code_that_is_not_committed_is_refused(checkout, tmp_path):
    (checkout / "rankmatch/a.py").write_text("second\n")
    taken = snapshot.take(tmp_path / "grid", allow_dirty=True, root=checkout)
    (taken.path / "rankmatch/a.py").unlink()
    with pytest.raises(
        ValueError, match="rankmatch/a.py missing or changed; it was made of code that is not committed"
    ):
        snapshot.make_whole(taken.path)
    assert snapshot.take(tmp_path / "grid", allow_dirty=True, root=checkout) == taken
    assert (taken.path / "rankmatch/a.py").read_text() == "second\n"


def test_snapshot_of_an_earlier_version_is_taken_as_it_is(checkout, tmp_path):
    taken = snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    (tmp_path / "grid" / f"{taken.commit}.json").unlink()
    harm(taken.path)
    assert snapshot.make_whole(taken.path) == []


@pytest.mark.parametrize(
    "change", [{"files": ["a"]}, {"files": {"a": 1}}, {"dirty": "no"}, {"commit": None}, {"root": 3}, None]
)
def test_damaged_record_of_a_snapshot_is_named_and_a_new_launch_writes_it_anew(change, checkout, tmp_path):
    taken = snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    record = taken.path.with_name(f"{taken.commit}.json")
    record.write_text("" if change is None else json.dumps(json.loads(record.read_text()) | change))
    for looks in (snapshot.check, snapshot.make_whole):
        with pytest.raises(DamagedFileError, match=f"{record} is damaged: .* launch the grid again"):
            looks(taken.path)
    assert snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout) == taken
    snapshot.check(taken.path)


def test_checkout_that_git_refuses_to_read_is_launched_only_as_one_of_unknown_code(checkout, tmp_path, monkeypatch):
    programs(tmp_path / "bin", monkeypatch, git=FOREIGN_GIT)
    with pytest.raises(
        ValueError, match=r"must be known, .*; git refuses: .*: run `git config --global --add safe.dir"
    ):
        snapshot.take(tmp_path / "grid", allow_dirty=False, root=checkout)
    taken = snapshot.take(tmp_path / "grid", allow_dirty=True, root=checkout)
    assert taken.path.name.startswith("unknown-") and taken.commit == ""
    assert taken.unknown.startswith("git refuses")
    (checkout / "rankmatch/a.py").write_text("second\n")
    assert snapshot.take(tmp_path / "grid", allow_dirty=True, root=checkout).path != taken.path
