"""What reproduces a cell is in the cell's own folder, whatever becomes of the folder of the grid that trained it."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from launcher import Launcher
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.machine import checkout, provenance
from orchestration.runs import changes
from orchestration.runs.folders import RunsFolder
from orchestration.runs.run_folder import RunFolder

CHANGES = """diff --git a/orchestration/added.py b/orchestration/added.py
new file mode 100644
index 0000000..8b13789
--- /dev/null
+++ b/orchestration/added.py
@@ -0,0 +1 @@
+ADDED = 1
"""
HASH = sha256(CHANGES.encode()).hexdigest()
needs_a_repository = pytest.mark.skipif(
    not provenance.commit() or checkout.look(provenance.ROOT, ()).unknown != "", reason="no repository"
)


@pytest.fixture
def changed(fresh: Launcher, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """A grid of one cell, launched by code with these changes."""
    known = provenance.collect()
    monkeypatch.setattr(provenance, "collect", lambda: {**known, "dirty": True})
    monkeypatch.setattr(provenance, "difference", lambda: CHANGES)
    assert fresh("method=supervised", "seed=0") == 0
    return fresh


def cell(runs: Path) -> RunFolder:
    (found,) = RunsFolder(runs).cells()
    return RunFolder(found.path)


def say(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == code, (done.exception, done.output)
    return done.output


@needs_a_repository
@pytest.mark.long
def test_cell_of_a_removed_grid_is_reproduced_with_the_changes_that_it_was_trained_with(changed: Launcher) -> None:
    found = cell(changed.runs)
    assert [path.name for path in found.changes_dir.iterdir()] == [f"{HASH}.diff"]
    assert found.change_file(HASH).read_text() == CHANGES
    shutil.rmtree(changed.runs / "small")
    said = say("reproduce", found.path, "--dry-run")
    assert f", with the changes in {found.change_file(HASH)}" in said
    assert "command      not known: the folder of small is gone" in said
    assert "equal: the 1 recorded losses" in say("reproduce", found.path, "--steps", "1")


def test_cells_of_a_renamed_grid_are_its_own_and_name_its_launch(changed: Launcher) -> None:
    (changed.runs / "small").rename(changed.runs / "other")
    found = cell(changed.runs)
    said = say("reproduce", "supervised-4-s0", "--runs", changed.runs, "--dry-run")
    assert f"{changed.runs}/other/launches/" in said and f"{found.signature}-supervised-4-s0/changes/{HASH}" in said
    again = Launcher(changed.file.parent)
    again.file = changed.file.rename(changed.file.with_name("other.yaml"))
    assert again("method=supervised", "seed=0") == 0
    assert "1 keep" in again.printed and "kept from grid" not in again.printed
    client = MlflowClient(f"sqlite:///{again.runs}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("other").experiment_id])
    (of_cell,) = [run for run in runs if "rankmatch.signature" in run.data.tags]
    assert "rankmatch.trained_for" not in of_cell.data.tags
    assert of_cell.data.tags["rankmatch.launches"] == changed_launch(found)


def changed_launch(found: RunFolder) -> str:
    (attempt,) = found.attempts()
    return str(attempt.owner()["launch"])


def test_changes_that_lie_with_the_grid_alone_as_in_earlier_versions_are_found_and_imported(
    changed: Launcher, tmp_path: Path
) -> None:
    found = cell(changed.runs)
    shutil.rmtree(found.changes_dir)
    said = say("reproduce", "supervised-4-s0", "--runs", changed.runs, "--dry-run")
    (launch,) = (changed.runs / "small" / "launches").iterdir()
    assert f", with the changes in {launch}/uncommitted.diff" in said
    assert "1 cell" in say("import", changed.runs, "--runs", tmp_path / "mine")
    assert cell(tmp_path / "mine").change_file(HASH).read_text() == CHANGES


@pytest.mark.parametrize(("content", "why"), [("something else", "is not what was launched"), (None, "No such file")])
def test_changes_that_are_not_those_launched_are_told_of_and_not_kept(
    content: str | None, why: str, changed: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    found = cell(changed.runs)
    made = found.attempts()[0].owner()["provenance"]
    shutil.rmtree(found.changes_dir)
    file = changed.runs / "small" / made["difference"]
    file.unlink()
    if content:
        file.write_text(content)
    changes.keep(RunFolder(changed.runs / "small" / "cells" / found.name), made)
    assert why in capfd.readouterr().err and not found.changes_dir.exists()
