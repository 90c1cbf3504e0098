"""A grid of grids of which a data set is missing: what is said, what is launched all the same, what is left out."""

import html
import json
import shlex
import shutil

import pytest
from orchestration_fakes import slurm  # noqa: F401 (a fixture)
from rich.console import Console
from two_grids import NUM_DISTINCT, TwoGrids
from typed_words import Options, launch

from orchestration.grids import launched
from orchestration.launching import control, step
from orchestration.machine import snapshot
from orchestration.on_slurm import submissions
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.planning import disk_space
from orchestration.runs.run_folder import folders

NEEDED = "scan: data_root must be the folder of scan; there is no "
LEFT_OUT = "--available leaves out 2 cells (2 of Table 3: scan), whose inputs are not here"


@pytest.fixture
def made(tmp_path):
    both = TwoGrids(tmp_path)
    both.images = both.add_scan()
    return both


@pytest.fixture
def roomy(monkeypatch):
    """A disk that holds all of the paper."""
    monkeypatch.setattr(disk_space, "free_bytes", lambda runs: 10**15)


def statuses(made):
    return json.loads(made("status", "--grid", "both", "--json"))["counts"]


def test_plan_says_what_is_missing_of_each_data_set_and_how_many_cells_are_not_touched_by_it(made):
    said = made("plan", "--grid", made.file)
    assert f"needed before launching: {NEEDED}{made.images}" in said
    assert f"--available launches the {NUM_DISTINCT} cells whose inputs are here" in said
    said = made("plan", "--grid", made.file, "--available")
    assert LEFT_OUT in said and f"not here, so left out: {NEEDED}" in said and "needed before launching" not in said
    assert f"{NUM_DISTINCT + 2} cells: {NUM_DISTINCT} submit, 2 leave out" in said
    answer = json.loads(made("plan", "--grid", made.file, "--available", "--json"))
    (reason,) = {cell["reason"] for cell in answer["cells"] if cell["action"] == "leave out"}
    assert reason.startswith("not here: data_root must be the folder of scan")
    assert any(note.startswith(LEFT_OUT) for note in answer["notes"]) and answer["missing"] == []


@pytest.mark.usefixtures("roomy")
def test_papers_plan_names_pages_and_commands_of_each_data_set(made):
    said = made("plan", "--grid", "paper", "--cluster", "slurm", "--only", "cityscapes", "--only", "lucchi",
                "--only", "table=1")  # fmt: skip
    for words in (
        "pascal: data_root must be the folder of pascal; got '': give data_root=FOLDER, or name it in the site's file",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        "`rankmatch splits download pascal --to FOLDER/splits` brings the lists",
        "`rankmatch splits download cityscapes --to FOLDER/splits` brings the lists",
        "pascal: backbone.weights must be the ImageNet file of resnet50 where",
        "cityscapes: backbone.weights must be the ImageNet file of resnet101 where",
        "https://github.com/LiheYoung/UniMatch#pretrained-backbone",
        "`rankmatch splits draw lucchi --count 5 --count 10 --count 20 data_root=FOLDER` brings the lists",
    ):
        assert words in said
    assert "--available" not in said  # there is nothing here


def test_lists_that_are_missing_beside_their_images_are_said_with_their_command(tmp_path):
    made = TwoGrids(tmp_path)
    (tmp_path / "voc").mkdir()
    words = ("plan", "--grid", "ablation_num_agents", "backbone.pretrained=false", f"data_root={tmp_path / 'voc'}")
    said = made(*words)
    assert f"the split lists of pascal must be in {tmp_path / 'voc' / 'splits'} or " in said
    assert f"`rankmatch splits download pascal --to {tmp_path / 'voc' / 'splits'}` brings the lists" in said
    (tmp_path / "voc" / "splits" / "183").mkdir(parents=True)
    (tmp_path / "voc" / "splits" / "183" / "labeled.txt").write_text("a.png b.png\n")
    assert f"split must be one of those in {tmp_path / 'voc' / 'splits'} (183); got '92'" in made(*words)


def test_launch_without_a_data_set_is_refused_before_anything_is_made(made):
    said = made.launch(code=2)
    assert said.startswith(f"error: {NEEDED}") and f"--available launches the {NUM_DISTINCT} cells" in said
    assert not (made.runs / "both" / "launches").exists() and not folders(made.runs / "both")


def test_nothing_available_is_refused(made):
    said = made.launch("--available", "--only", "scan", code=2)
    assert "--available must find the inputs of a cell here; it finds none:" in said and "data_root must be" in said


def test_what_is_here_is_launched_and_the_rest_not_run_until_its_data_are_there(made, tiny_root):
    said = made.launch("--available", code=1)
    assert LEFT_OUT in said and f"{NUM_DISTINCT} of {NUM_DISTINCT + 2} cells are done, 2 are left" in said
    assert len(folders(made.runs / "both")) == NUM_DISTINCT
    assert "not run" in said.partition("Table 3: scan")[2]
    report = (made.runs / "both" / "report.md").read_text()
    assert (
        "| supervised | not run |" in report.partition("Table 3: scan")[2]
        and "0 of 2 cells are done, 2 not run." in report
    )
    page = html.unescape((made.runs / "both" / "report.html").read_text())
    assert "not run" in page
    assert statuses(made) == {"done": NUM_DISTINCT, "not submitted": 2}
    said = made("status", "--grid", "both")
    assert "left out: not here: data_root must be the folder of scan" in said
    retry = ("retry", "--grid", "both")
    way = f"`{shlex.join(['rankmatch', *retry, '--runs', str(made.runs)])}`"
    later = f"left out by --available, as inputs were not there; {way} trains them once these are there"
    assert f"2 cells were {later}" in said and f"## Left out\n\n- 2 cells were {later}" in report
    assert f"2 cells were {later}".replace("`", "") in page
    assert f"{LEFT_OUT}: {way} trains them once these are" in made("plan", "--grid", made.file, "--available")
    assert LEFT_OUT in made("resume", "--grid", "both", code=1)  # as the launch was told
    shutil.copytree(tiny_root, made.images)
    made(*retry)  # the command that plan, status and report have named
    assert statuses(made) == {"done": NUM_DISTINCT + 2}
    after = (made.runs / "both" / "report.md").read_text().partition("Table 3: scan")[2]
    assert "left out" not in after and "left out" not in made("status", "--grid", "both")
    assert "| not run |" not in after and "2 of 2 cells are done." in after


def test_retry_passes_over_what_is_still_not_here_unless_it_is_named(made):
    made.launch("--available", code=1)
    made("drop", "supervised-4-s0", "--grid", "both")
    said = made("retry", "--grid", "both", code=1)
    assert LEFT_OUT in said and f"{NUM_DISTINCT} of {NUM_DISTINCT + 2} cells are done, 2 are left" in said
    made("drop", "supervised-4-s0", "--grid", "both")
    made("retry", "supervised-4-s0", "--grid", "both", code=1)
    assert statuses(made) == {"done": NUM_DISTINCT, "not submitted": 2}
    assert LEFT_OUT in made("resume", "--grid", "both", code=1)
    assert NEEDED in made("retry", "scan", "--grid", "both", code=2)


def test_campaign_submits_what_is_here_and_ends_without_the_rest(made, slurm, monkeypatch):  # noqa: F811
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    console = Console(width=300, record=True)
    typed = Options(grid=str(made.file), overrides=("trainer.device=cpu",), runs=made.runs, cluster="slurm")
    with pytest.raises(ValueError, match=NEEDED):
        launch(typed, console)
    assert not submissions.newest_jobs(made.runs / "both")
    typed = Options(**{name: getattr(typed, name) for name in typed.__slots__} | {"available": True})
    assert launch(typed, console) == 0 and LEFT_OUT in console.export_text()
    grid_dir = made.runs / "both"
    (launch_dir,) = (grid_dir / "launches").iterdir()
    assert len(submissions.newest_jobs(grid_dir)) == NUM_DISTINCT
    every = launched.load_folder(grid_dir)
    absent = {cell.signature for cell in every.parts[2].cells}
    campaign = Campaign.read(launch_dir)
    assert {*campaign.left_out} == absent
    assert step.left_out(campaign, every, grid_dir, {}) == absent
    slurm.queued.clear()
    control.retry(grid_dir, (), (), (), console)
    *_, launch_dir = sorted((grid_dir / "launches").iterdir())
    assert {*Campaign.read(launch_dir).left_out} == absent
    assert {one.number for one in submissions.newest_jobs(grid_dir).values()} == {f"2_{n}" for n in range(NUM_DISTINCT)}


@pytest.mark.usefixtures("roomy")
def test_paper_is_meant_on_slurm_where_no_grid_is_named_and_the_demo_elsewhere(made):
    named, meant = (made("plan", "--cluster", "slurm", *words) for words in (("--grid", "paper"), ()))
    assert named == meant and "435 cells: 435 submit" in meant
    site = made.folder / "my_site.yaml"
    site.write_text("partition: gpu\n")
    assert "435 cells: 435 submit" in made("plan", "--cluster", site)
    for cluster in ("local", "inline"):
        assert "12 cells: 12 submit" in made("plan", "--cluster", cluster)
