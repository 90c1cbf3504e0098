import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from orchestration.launching import launch, search, steps
from orchestration.launching.options import Wanted, Workers
from orchestration.machine import own_files
from orchestration.runs.run_folder import folders


def test_launch_ends_with_the_table_the_report_and_where_things_are(launched):
    assert launched.code == 0
    for expected in (
        "split=4",
        "rankmatch",
        "supervised",
        "over 2 cells each",
        "report.md",
        "MLflow UI:   `rankmatch ui --grid small --runs ",
    ):
        assert expected in launched.printed
    report = (launched.runs / "small" / "report.md").read_text()
    assert "4 of 4 cells are done" in report
    page = launched.runs / "small" / "report.html"
    assert f"page:        {page}" in launched.printed and "no page" not in launched.printed
    assert "4 of 4 cells are done." in page.read_text()


def test_launch_ends_as_well_where_its_page_cannot_be_made(again, monkeypatch):
    monkeypatch.setattr("dashboards.report.gather_tables", lambda *_: 1 / 0)
    (again.runs / "small" / "report.html").unlink()
    assert again() == 0
    assert (
        "no page for a browser: ZeroDivisionError: division by zero; `rankmatch report small --runs " in again.printed
    )
    assert "page:  " not in again.printed and "report.md" in again.printed


def test_every_cell_has_its_data_and_code_in_its_result(launched):
    for folder in folders(launched.runs / "small").values():
        result = folder.result()
        assert len(result["provenance"]["split_sha256"]) == 64
        assert len(result["provenance"]["data_fingerprint"]) == 64
        assert result["provenance"]["packages"]["torch"]


def test_launching_again_trains_nothing_and_prints_the_same_table(again):
    before, table = again.attempts(), again.printed.splitlines()
    assert again() == 0
    assert again.attempts() == before
    assert "4 cells: 4 keep" in again.printed
    assert [line for line in table if "±" in line] == [line for line in again.printed.splitlines() if "±" in line]


def test_grown_grid_trains_only_what_is_new(launched, again):
    assert again("seed=[0,1,2]") == 0
    assert again.attempts() == launched.attempts() | {"supervised-4-s2": 1, "rankmatch-4-s2": 1}


def test_mlflow_holds_a_run_for_each_cell_and_the_launch(launched):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{launched.runs / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    cells = [run for run in runs if "rankmatch.signature" in run.data.tags]
    assert sorted(run.data.tags["rankmatch.signature"] for run in cells) == sorted(folders(launched.runs / "small"))
    assert {run.info.status for run in cells} == {"FINISHED"}
    begun, *_ = [run for run in runs if "rankmatch.signature" not in run.data.tags]
    assert len(begun.data.tags["mlflow.runName"]) <= 21  # what the page shows of a name
    means = {method: [folder.result()["best_miou"] for folder in folders(launched.runs / "small").values()
                      if method in folder.path.name] for method in ("supervised", "rankmatch")}  # fmt: skip
    shown = {f"mean_best_miou/{method} split_4": sum(values) / 2 for method, values in means.items()}
    assert begun.data.metrics == pytest.approx({"cells": 4, "cells_done": 4, **shown})


def test_mlflow_shows_the_parameters_that_a_run_uses(launched):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{launched.runs / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    of = {run.data.params["method.name"]: run.data.params for run in runs if run.data.params}
    assert of["rankmatch"]["method.num_agents"] == "4" and of["rankmatch"]["dataset.scenes.size"] == "48"
    assert of["supervised"].keys() - of["rankmatch"].keys() == {"method.supervised_steps"}
    assert {"method.num_agents", "augment.cutmix_probability"} <= of["rankmatch"].keys() - of["supervised"].keys()
    assert "data_root" not in of["rankmatch"] and "" not in of["rankmatch"].values()


def test_table_is_printed_from_the_run_folders_alone(launched, capsys):
    from orchestration.commands.results import table

    report = launched.runs / "small" / "report.md"
    before = report.read_text()
    report.unlink()
    table(grid=str(launched.file), runs=launched.runs)
    assert "±" in capsys.readouterr().out
    assert report.read_text() == before


def test_dry_run_writes_nothing(fresh):
    assert fresh(dry_run=True) == 0
    assert "4 cells: 4 submit" in fresh.printed
    assert not fresh.runs.exists()


def test_cell_that_fails_does_not_stop_the_others_and_is_tried_again(fresh, monkeypatch):
    from rankmatch import trainer

    original = trainer.make_optimizer

    def broken(network, numerics):
        if numerics.seed == 1:
            raise RuntimeError("broken on purpose")
        return original(network, numerics)

    monkeypatch.setattr(trainer, "make_optimizer", broken)
    assert fresh("method=supervised") == 1
    assert "broken on purpose" in fresh.printed
    monkeypatch.undo()
    assert fresh("method=supervised") == 0
    assert fresh.attempts() == {"supervised-4-s0": 1, "supervised-4-s1": 2}


def test_changed_data_stops_before_anything_is_kept(fresh, tiny_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    arguments = ("method=supervised", "seed=0", "split=2", "dataset.name=tiny", "dataset.num_classes=3")
    assert fresh(*arguments, f"data_root={root}") == 0
    (root / "00.png").write_bytes((root / "01.png").read_bytes())
    with pytest.raises(ValueError, match="the data files"):
        fresh(*arguments, f"data_root={root}")


def test_moved_data_is_the_same_data(fresh, tiny_root, tmp_path):
    arguments = ("method=supervised", "seed=0", "split=2", "dataset.name=tiny", "dataset.num_classes=3")
    assert fresh(*arguments, f"data_root={tiny_root}") == 0
    shutil.copytree(tiny_root, tmp_path / "moved", copy_function=shutil.copyfile)
    assert fresh(*arguments, f"data_root={tmp_path / 'moved'}") == 0
    assert fresh.attempts() == {"supervised-2-s0": 1}


def test_second_launch_of_a_grid_at_work_is_refused(fresh):
    from orchestration.launching.launch_folder import only_launch_of

    grid_dir = fresh.runs / "small"
    grid_dir.mkdir(parents=True)
    with only_launch_of(grid_dir), pytest.raises(ValueError, match="another launch is at work"):
        fresh()


def test_cell_that_was_begun_under_another_name_is_followed_to_its_end(fresh):
    arguments = ("method=supervised", "seed=0", "trainer.epochs=1")
    assert fresh(*arguments) == 0
    (folder,) = folders(fresh.runs / "small").values()
    (folder.path / "result.json").unlink()
    folder.attempts()[-1].event("stopped", step=2)
    assert fresh("method=supervised", "seed=0", "trainer.epochs=[1,2]") == 0
    assert fresh.printed.count("done  mIoU") == 2


def test_stray_file_among_the_run_folders_is_no_cell(fresh):
    arguments = ("method=supervised", "seed=0")
    assert fresh(*arguments) == 0
    (fresh.runs / "small" / "cells" / ".DS_Store").write_text("")
    assert fresh(*arguments) == 0
    assert "1 cell: 1 keep" in fresh.printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("dataset=cityscape",), "dataset must be one of"),
        (("method=[supervised,rankmatc]",), "method must be one of"),
        (("trainer.learning_rate=fast",), "trainer.learning_rate"),
        (("seed=[0,0]",), "seed"),
        (("trainer.epoch=5",), "trainer.epochs"),
        (("method=rankmatch", "method.num_agents=100"), "method.num_agents must be at most 9"),
        (("split=9",), "split must be how many of the drawn scenes are labeled, 1 to 8; got '9'"),
        (("trainer.num_workers=2",), "trainer.num_workers must be 1 with --cluster inline"),
        (("dataset.name=tiny", "data_root=/nowhere/at/all"), "data_root must be the folder of tiny"),
        (("backbone.pretrained=true",), "backbone.weights must be the ImageNet file"),
        (("backbone.pretrained=true", "backbone.weights=/nowhere.pth"), "/nowhere.pth"),
    ],
)
def test_bad_input_is_refused_before_any_run_folder(overrides, message, fresh):
    with pytest.raises(ValueError, match=message):
        fresh(*overrides)
    assert not list(fresh.runs.glob("*/cells/*"))


def test_weights_of_another_backbone_are_refused_before_any_run_folder(fresh, tmp_path):
    import torch

    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.pth")
    message = "backbone.weights: weights .*other.pth are of another architecture than MobileNetV2: missing: 0.0.weight"
    with pytest.raises(ValueError, match=message):
        fresh("backbone.pretrained=true", f"backbone.weights={tmp_path / 'other.pth'}")
    assert not list(fresh.runs.glob("*/cells/*"))


def bad_data(tiny_root, tmp_path, damage):
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    damage(root)
    return ("dataset.name=tiny", "dataset.num_classes=3", "split=2", f"data_root={root}")


def _missing(root):
    (root / "05.png").unlink()


def _other_size(root):
    from PIL import Image

    Image.new("L", (10, 10)).save(root / "00_label.png")


def _no_class(root):
    from PIL import Image

    Image.new("L", (48, 40), 7).save(root / "01_label.png")


def _truncated(root):
    (root / "12.png").write_bytes((root / "12.png").read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing, "05.png"),
        (_other_size, "00_label.png"),
        (_no_class, "01_label.png.*7"),
        (_truncated, "12.png"),
    ],
)
def test_damaged_data_is_named_before_any_training(damage, message, fresh, tiny_root, tmp_path):
    with pytest.raises(ValueError, match=message):
        fresh(*bad_data(tiny_root, tmp_path, damage))
    assert not list(fresh.runs.glob("*/cells/*"))


def test_grid_files_are_kept_with_each_launch(launched):
    grid_dir = launched.runs / "small"
    launch_dirs = sorted((grid_dir / "launches").iterdir())
    assert all((folder / "plan.txt").exists() for folder in launch_dirs)
    assert json.dumps("rankmatch")[1:-1] in (grid_dir / "grid.yaml").read_text()
    assert Path(grid_dir / "table.csv").exists()


def test_grid_whose_only_axis_is_the_seed_has_its_mean_in_mlflow(fresh):
    from mlflow.tracking import MlflowClient

    text = fresh.file.read_text().partition("axes:")[0]
    fresh.file.write_text(
        text.replace("set:\n", "set:\n  method: supervised\n  split: '4'\n") + "axes: {seed: [0, 1]}\n"
    )
    assert fresh() == 0 and "MLflow is not up to date" not in fresh.printed
    client = MlflowClient(f"sqlite:///{fresh.runs / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    (launch,) = [run for run in runs if "rankmatch.launch" in run.data.tags]
    mious = [folder.result()["best_miou"] for folder in folders(fresh.runs / "small").values()]
    assert launch.info.status == "FINISHED"
    assert launch.data.metrics["mean_best_miou"] == pytest.approx(sum(mious) / 2)


@pytest.mark.parametrize("begin", [launch.launch, launch.dry_run, search.tune, search.dry_run])
def test_group_of_others_is_refused_before_the_data_are_looked_at(begin, tmp_path, monkeypatch):
    monkeypatch.setenv(own_files.GROUP, "no-such-group")
    monkeypatch.setattr(steps, "prepare", lambda *_, **__: pytest.fail("the data were looked at"))
    grid = "search" if begin in (search.tune, search.dry_run) else "demo"
    with pytest.raises(ValueError, match="RANKMATCH_GROUP must name a group of yours .*; got 'no-such-group'"):
        begin(Wanted(grid, (), tmp_path), Workers("local", 1, 1, 0.0), Console(quiet=True))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {".launch.lock"}
