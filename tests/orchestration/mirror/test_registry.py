import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestration.grids.grid import load
from orchestration.launching import control
from orchestration.mirror import registry
from orchestration.mirror.mlflow_store import Store
from orchestration.runs.run_folder import RunFolder, folders

ROOT = Path(__file__).resolve().parents[3]


def register(launched, *options):
    command = [str(Path(sys.executable).parent / "rankmatch"), "register", "--grid", "small", "--runs",
               str(launched.runs), *options]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def best_of(launched, method):
    found = [folder for folder in folders(launched.runs / "small").values() if f"-{method}-" in folder.path.name]
    return max(found, key=lambda folder: folder.result()["best_miou"])


def test_best_model_of_each_method_is_registered_once_and_can_be_downloaded(launched):
    assert len(register(launched)) == 2
    again = register(launched, "--method", "rankmatch")
    best = best_of(launched, "rankmatch")
    figure = 100 * best.result()["best_miou"]
    name = "small.rankmatch.mobilenet_v2"
    assert again == [f"{name} version 1, as before: {best.path.name}, mIoU {figure:.1f}"]
    client = Store(f"sqlite:///{launched.runs / 'mlflow.db'}")._client
    assert {model.name for model in client.search_registered_models()} == {name, "small.supervised.mobilenet_v2"}
    (version,) = client.search_model_versions(f"name = '{name}'")
    result = best.result()
    expected = {"signature": best.path.name[:12], "seed": best.path.name[-1], "sha256": result["model"]["sha256"]}
    assert expected.items() <= version.tags.items()
    weights = Path(client.get_model_version_download_uri(name, "1").removeprefix("file://")) / "best.pt"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == result["model"]["sha256"]


def fake_cell(grid_dir, cell, miou, *, has_model=True, sha256=""):
    folder = RunFolder(grid_dir / "cells" / cell.folder_name)
    folder.create("{}", cell.axes)
    model = {"path": "attempts/1/best.pt", "sha256": sha256 or hashlib.sha256(b"-").hexdigest(), "bytes": 1}
    attempt = folder.claim({})
    (attempt.path / "best.pt").write_bytes(b"-")
    attempt.publish({"step": 1, "num_steps": 1, "epoch": 1, "best_miou": miou, "last_miou": 1 - miou,
                     "model": model if has_model else None})  # fmt: skip


def test_highest_figure_of_the_table_decides(tmp_path):
    loaded = load(str(Path(__file__).parents[1] / "small.yaml"), ())
    for cell, miou in zip(loaded.cells, (0.2, 0.4, 0.6, 0.5), strict=True):
        fake_cell(tmp_path, cell, miou)
    chosen = registry.candidates(loaded, tmp_path)
    assert [candidate.result["best_miou"] for candidate in chosen] == [0.4, 0.6]
    assert [candidate.name.split(".")[1] for candidate in registry.candidates(loaded, tmp_path, ["rankmatch"])] == [
        "rankmatch"
    ]


def test_best_cell_without_weights_is_named_and_no_other_takes_its_place(tmp_path):
    loaded = load(str(Path(__file__).parents[1] / "small.yaml"), ())
    for cell, miou in zip(loaded.cells, (0.2, 0.4, 0.6, 0.5), strict=True):
        fake_cell(tmp_path, cell, miou, has_model=miou != 0.4)
    with pytest.raises(ValueError, match=r"supervised-4-s1 is the best cell of .*supervised.*weights must be there"):
        registry.register(loaded, tmp_path, "", (), (), Console(quiet=True))


def test_grid_without_a_finished_cell_is_refused(launched):
    with pytest.raises(ValueError, match="a cell of small must be done"):
        control.register(launched.runs / "small", ["fixmatch"], (), "", Console(quiet=True))


def test_weights_that_are_not_those_of_the_result_are_refused_with_their_name(tmp_path):
    loaded = load(str(Path(__file__).parents[1] / "small.yaml"), ())
    for cell, miou in zip(loaded.cells, (0.2, 0.4, 0.6, 0.5), strict=True):
        fake_cell(tmp_path, cell, miou, **({"sha256": "0" * 64} if miou == 0.4 else {}))
    with pytest.raises(ValueError, match=r"supervised-4-s1/attempts/1/best.pt must be the file .* with SHA-256 0{64}"):
        registry.register(loaded, tmp_path, "", (), (), Console(quiet=True))
