"""Data, weights and MLflow are named once, in the site's file: a launch needs no path, and cells stay what they are."""

from pathlib import Path

import pytest
import torch
import yaml
from orchestration_fakes import FakeSlurm
from own_grid import OwnGrid
from rich.console import Console

from orchestration.grids import grid, launched
from orchestration.launching import campaign
from orchestration.machine import snapshot
from orchestration.on_slurm import cluster
from orchestration.runs.run_folder import folders
from rankmatch.config import ModelConfig
from rankmatch.models import build_model

WEIGHTS = ("dataset=synthetic", "backbone.pretrained=true", "method=supervised", "seed=0")


@pytest.fixture
def away(tmp_path: Path, tiny_root: Path) -> OwnGrid:
    """A grid whose own words for its data lead nowhere, beside a site that knows where they are."""
    made = OwnGrid(tmp_path, tiny_root)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "site.yaml").write_text("scheduler: inline\ndata_root: {scan.yaml: elsewhere, pascal: /no/pascal}\n")
    return made


def launch_at(own: OwnGrid, site: str, *words: object, code: int = 0) -> str:
    grid_file = own.folder / "membranes.yaml"
    return own("launch", "--grid", grid_file, "--cluster", own.folder / site, "method=supervised", *words, code=code)


def test_launch_finds_its_data_by_the_site_and_later_commands_without_it(away: OwnGrid, tiny_root: Path) -> None:
    elsewhere = away.folder / "elsewhere"
    said = launch_at(away, "site.yaml", "seed=0")
    assert f"data_root of scan: {elsewhere}, from the site {away.folder}/site.yaml" in said and "pascal" not in said
    made = folders(away.runs / "membranes")
    told = grid.load(str(away.folder / "membranes.yaml"), (f"data_root={tiny_root}", "method=supervised", "seed=0"))
    assert made.keys() == {cell.signature for cell in told.cells}  # as where no site is named
    assert all(f"data_root: {elsewhere}\n" in folder.config() for folder in made.values())
    (away.folder / "site.yaml").unlink()
    assert "1 cell: 1 keep" in away("plan", "--grid", "membranes", "--cluster", "inline")


def test_command_line_beats_the_site_and_the_plan_says_so(away: OwnGrid, tiny_root: Path) -> None:
    words = ("plan", "--grid", away.folder / "membranes.yaml", "--cluster", away.folder / "site.yaml")
    said = away(*words, f"data_root={tiny_root}")
    site = f"the site {away.folder}/site.yaml"
    told = f"data_root of scan: {tiny_root}, as the command line or an axis says; {site} has {away.folder}/elsewhere"
    assert told in said and "needed before" not in said
    said = away(*words, f"cluster.data_root={{{away.folder}/scan.yaml: {tiny_root}}}")
    assert f"data_root of scan: {tiny_root}, from {site}" in said
    assert f"there is no {away.folder}/images" in away(*words[:3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_root: {pascall: /data}", "data_root of a site must name a data set: camvid, .* got 'pascall'; did you "),
        ("data_root: {synthetic: /data}", "data_root of a site must name a data set: "),
        ("data_root: {none.yaml: /data}", "dataset must be an existing YAML file; got '.*none.yaml'"),
        ("data_root: {scan.yaml: images, ./scan.yaml: images}", "data_root of a site must name .*scan.yaml once"),
        ("data_root: /data", "cluster.data_root must be a mapping of names to texts; got '/data'"),
        ("data_root: {pascal: [/data]}", "cluster.data_root must be a mapping of names to texts; got "),
        ("data_root: {pascal: ~nobodys/x}", "'~nobodys/x' must be a path; there is no user 'nobodys' here"),
        ("data_root: {pascal: $DATA/x}", "a path of a site must be written out, as no shell reads it; got '[$]DATA/x'"),
        ("data_root: {pascal: ''}", "data_root of pascal in a site must be a path; got ''"),
        ("weights: {resnet52: /r.pth}", "weights of a site must name a backbone: mobilenet_v2, .* got 'resnet52'"),
        (
            "tracking_uri: 'http://me:pw@host:5000'",
            "cluster.tracking_uri must hold no password; .* got 'http://me@host",
        ),
        ("scheduler: pbs", "cluster.scheduler must be one of slurm, local, ray, inline; got 'pbs'"),
        ("scheduler: local\npartition: gpu", "cluster.partition must be given with scheduler: slurm; local reads only"),
        (
            "scheduler: local\naddress: head:6379",
            "cluster.address must be given with scheduler: ray; got it with local",
        ),
    ],
)
def test_wrong_place_is_refused_before_anything_is_made(text: str, message: str, away: OwnGrid) -> None:
    (away.folder / "site.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        cluster.load(str(away.folder / "site.yaml"))
    assert launch_at(away, "site.yaml", code=2) == f"error: {refused.value}"
    assert not away.runs.exists()


def test_place_that_is_not_there_is_refused_where_the_grid_needs_it(away: OwnGrid) -> None:
    (away.folder / "elsewhere").rename(away.folder / "gone")
    said = launch_at(away, "site.yaml", code=2)
    assert said.startswith(f"error: data_root must be the folder of scan; there is no {away.folder}/elsewhere")
    (away.folder / "site.yaml").write_text("scheduler: inline\nweights: {mobilenet_v2: none.pth}\n")
    said = launch_at(away, "site.yaml", "backbone.pretrained=true", code=2)
    assert f"there is none at '{away.folder}/none.pth', which the site {away.folder}/site.yaml names" in said


def test_setting_of_a_site_without_a_site_is_refused(away: OwnGrid) -> None:
    said = away("plan", "--grid", "demo", "cluster.partition=gpu", code=2)
    assert said.startswith("error: cluster.partition=gpu must be given with --cluster slurm or a site's file")


def test_weights_of_a_site_make_the_cells_that_the_command_line_makes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(build_model(ModelConfig(backbone="mobilenet_v2", num_classes=2)).backbone.state_dict(), path)
    (tmp_path / "site.yaml").write_text("weights: {mobilenet_v2: weights.pth}\n")
    site = cluster.places_of(cluster.load(str(tmp_path / "site.yaml")))
    (told,) = grid.load("demo", (*WEIGHTS, "split=4", f"backbone.weights={path}")).cells
    (placed,) = launched.load("demo", (*WEIGHTS, "split=4"), site=site).cells
    assert placed == told
    (random,) = launched.load("demo", ("method=supervised", "seed=0", "split=4"), site=site).cells
    assert random.config.execution.backbone.weights == ""


def test_launch_on_slurm_leaves_its_places_to_its_controllers(
    away: OwnGrid, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    store = f"sqlite:///{away.folder}/site.db"
    (away.folder / "site.yaml").write_text(f"data_root: {{scan.yaml: elsewhere}}\ntracking_uri: {store}\n")
    said = launch_at(away, "site.yaml", "trainer.device=cpu")
    assert f"MLflow: {store}, from the site" in said and "2 cells as job" in said
    assert (away.folder / "site.db").exists() and not (away.runs / "mlflow.db").exists()
    (launch,) = away.runs.glob("membranes/launches/*/grid.yaml")
    assert yaml.safe_load(launch.read_text())["places"] == {"data_root": {"scan": f"{away.folder}/elsewhere"}}
    cells = launched.load_stored(launch).cells
    assert {cell.config.execution.data_root for cell in cells} == {f"{away.folder}/elsewhere"}


def test_retry_with_a_setting_of_the_site_keeps_the_data_that_the_launch_named(
    away: OwnGrid, tiny_root: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    (away.folder / "site.yaml").write_text("data_root: {scan.yaml: elsewhere}\n")
    launch_at(away, "site.yaml", "trainer.device=cpu", f"data_root={tiny_root}")
    retried: list[str] = []
    monkeypatch.setattr(
        campaign,
        "_submit_new",
        lambda loaded, *_: retried.extend(cell.config.execution.data_root for cell in loaded.cells),
    )
    signatures = [*folders(away.runs / "membranes")]
    moved = f"cluster.data_root={{{away.folder}/scan.yaml: {away.folder}/elsewhere}}"
    for setting in ("cluster.time_min=60", moved):
        campaign.launch_again(away.runs / "membranes", signatures, [setting], Console())
    assert retried == [str(tiny_root)] * 2 + [f"{away.folder}/elsewhere"] * 2


def test_store_of_a_site_is_beside_its_file_wherever_a_command_is_given(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("tracking_uri: sqlite:///store.db\n")
    assert cluster.load(str(tmp_path / "site.yaml")).tracking_uri == f"sqlite:///{tmp_path}/store.db"
    (tmp_path / "site.yaml").write_text("tracking_uri: http://mlflow:5000\n")
    assert cluster.load(str(tmp_path / "site.yaml")).tracking_uri == "http://mlflow:5000"


def test_site_of_a_ray_says_its_address(away: OwnGrid) -> None:
    (away.folder / "site.yaml").write_text("scheduler: ray\ndata_root: {scan.yaml: elsewhere}\n")
    assert "--address must be given with --cluster ray" in launch_at(away, "site.yaml", code=2)
    assert "from the site" in launch_at(away, "site.yaml", "--dry-run")
    (away.folder / "site.yaml").write_text("scheduler: ray\naddress: 127.0.0.1:9\n")
    assert "--pilot must be given with --cluster slurm" in launch_at(
        away, "site.yaml", "--pilot", "--nodes", "2", code=2
    )


def test_search_takes_its_data_from_the_site(away: OwnGrid) -> None:
    text = "set: {dataset: scan.yaml, backbone.pretrained: false, backbone: mobilenet_v2, method.num_agents: 4}\n"
    text += (
        "search: {spaces: {trainer.learning_rate: {low: 0.001, high: 0.1}}, held_out: 0.5, held_out_from: labeled}\n"
    )
    (away.folder / "find.yaml").write_text(text)
    (away.folder / "site.yaml").write_text("scheduler: local\ndata_root: {scan.yaml: elsewhere}\n")
    said = away("tune", away.folder / "find.yaml", "--cluster", away.folder / "site.yaml", "--dry-run")
    assert f"data_root of scan: {away.folder}/elsewhere, from the site" in said and "needed before" not in said
