import json
import shlex
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest
from shell_programs import FOREIGN_GIT, programs

from orchestration.machine import provenance
from orchestration.machine.checkout import Checkout
from rankmatch.config import TrainConfig
from rankmatch.execution import ExecutionConfig, TrainerExecution

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "rankmatch").mkdir()
    (tmp_path / "rankmatch" / "a.py").write_text("")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_commit_is_that_of_the_checkout(checkout: Path) -> None:
    head = (checkout / ".git" / (checkout / ".git" / "HEAD").read_text().split()[1]).read_text().strip()
    assert provenance.commit(checkout) == head
    assert not provenance.is_dirty(checkout)


@pytest.mark.parametrize("name", ["a.py", "new.py"])
def test_changed_or_new_source_is_dirty(checkout: Path, name: str) -> None:
    (checkout / "rankmatch" / name).write_text("1")
    assert provenance.is_dirty(checkout)


def test_file_outside_the_sources_is_not_dirty(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("1")
    assert not provenance.is_dirty(checkout)


def test_folder_within_another_checkout_has_no_commit(checkout: Path) -> None:
    assert provenance.commit(checkout / "rankmatch") == ""
    assert not provenance.is_dirty(checkout / "rankmatch")


def test_lock_file_is_named_by_its_hash(tmp_path: Path) -> None:
    assert provenance.collect(tmp_path)["lock_sha256"] == ""
    (tmp_path / "requirements.lock").write_text("torch==2\n")
    assert provenance.collect(tmp_path)["lock_sha256"] == sha256(b"torch==2\n").hexdigest()


def test_versions_are_told_without_importing_torch_or_naming_secrets() -> None:
    code = "import json, sys; from orchestration.machine import provenance; found = provenance.collect(); "
    code += "assert 'torch' not in sys.modules; print(json.dumps(found))"
    root = Path(provenance.__file__).parents[2]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "API_TOKEN": "hunter2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    assert found["packages"]["torch"] == version("torch")
    assert found["device"]
    assert "hunter2" not in done.stdout


def test_difference_names_changed_and_new_sources(checkout: Path) -> None:
    (checkout / "rankmatch" / "a.py").write_text("changed = 1\n")
    (checkout / "rankmatch" / "new.py").write_text("new = 1\n")
    told = provenance.difference(checkout)
    assert "+changed = 1" in told and "+new = 1" in told
    assert list((checkout / ".git").glob("index.*")) == []


def test_training_process_tells_what_it_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    config = TrainConfig(execution=ExecutionConfig(trainer=TrainerExecution(num_workers=2)))
    told = provenance.training(config, torch.device("cpu"))
    assert (told["torch"], told["world_size"], told["num_gpus"]) == (torch.__version__, 2, 0)
    assert (told["precision"], told["seed"], told["driver"]) == ("float32", 0, "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    monkeypatch.setattr(provenance, "_of_gpus", lambda field: ["570.1", "570.1"])
    told = provenance.training(config, torch.device("cuda", 1))
    assert (told["device"], told["driver"], told["num_gpus"]) == ("GPU of cuda:1", "570.1", 2)


def test_repository_that_the_shell_is_in_is_not_taken_for_ours(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "rankmatch").mkdir()
    (other / "rankmatch" / "b.py").write_text("")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "of another"]):
        subprocess.run([*GIT, "-C", str(other), *command], check=True)
    ours = provenance.commit(checkout)
    for name, value in (("GIT_DIR", other / ".git"), ("GIT_WORK_TREE", other), ("GIT_INDEX_FILE", other / ".git/index"),
                        ("GIT_OBJECT_DIRECTORY", other / ".git/objects"), ("GIT_COMMON_DIR", other / ".git"),
                        ("GIT_CEILING_DIRECTORIES", checkout.parent), ("GIT_NAMESPACE", "other")):  # fmt: skip
        monkeypatch.setenv(name, str(value))
        assert (provenance.commit(checkout), provenance.is_dirty(checkout)) == (ours, False), name
    (checkout / "rankmatch" / "a.py").write_text("changed = 1\n")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "true")
    assert "+changed = 1" in provenance.difference(checkout)
    assert provenance.commit(other) not in ("", ours)


def test_settings_of_a_user_hide_no_change(checkout: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path_factory.mktemp("home") / "gitconfig"
    settings.write_text(
        "[status]\nshowUntrackedFiles = no\n[diff]\nnoprefix = true\nexternal = true\n[color]\nui = always\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert not provenance.is_dirty(checkout)
    (checkout / "rankmatch" / "new.py").write_text("new = 1\n")
    assert provenance.is_dirty(checkout)
    told = provenance.difference(checkout)
    assert "+++ b/rankmatch/new.py\n" in told and "+new = 1\n" in told and "\x1b" not in told


def test_checkout_that_git_refuses_to_read_is_none_without_commits(
    checkout: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path_factory.mktemp("bin"), monkeypatch, git=FOREIGN_GIT)
    found = provenance.collect(checkout)
    assert (found["commit"], found["dirty"]) == ("", None)
    assert found["commit_unknown"].startswith("git refuses: fatal: detected dubious ownership in repository at ")


def test_no_git_no_repository_and_no_commit_are_told_apart(checkout: Path, tmp_path_factory, monkeypatch) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert provenance.collect(empty)["commit_unknown"] == "no repository"
    subprocess.run([*GIT, "-C", str(empty), "init", "-q"], check=True)
    assert provenance.collect(empty)["commit_unknown"] == "there is no commit yet"
    assert "commit_unknown" not in provenance.collect(checkout)
    monkeypatch.setenv("PATH", str(empty))
    assert provenance.collect(checkout)["commit_unknown"] == "git is not installed"


def test_what_mends_a_refusing_checkout_can_be_pasted_where_its_path_has_a_space() -> None:
    mend = Checkout(Path("/home/me/my code"), unknown="git refuses: ... safe.directory ...").mend
    assert shlex.split(mend.split("`")[1]) == [
        "git",
        "config",
        "--global",
        "--add",
        "safe.directory",
        "/home/me/my code",
    ]
