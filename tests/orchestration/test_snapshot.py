import subprocess

import pytest

from orchestration import provenance, snapshot


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
