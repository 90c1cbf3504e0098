"""Every command of the README is one that a test, or CI itself, runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
]
RUN_BY_CI = {
    "make demo",
    "make test",
    "make docs",
    "make venv",
    "make test-ray",
    "make test-services",
    "make test-slurm",
    "make test-browser",
    "make test-image",
    ".ci/run",
}
BIN = Path(sys.executable).parent


def commands(page):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    shell = [block for language, block in blocks if not language]
    lines = [line.partition("  #")[0].strip() for block in shell for line in block.splitlines()]
    return [line for line in lines if re.match(r"(python |make |rankmatch [a-z]+( |$)|mlflow |\.ci/run$)", line)]


SHELL = [line for page in PAGES for line in commands(page) if line not in RUN_BY_CI]


def test_launch_by_a_python_without_the_packages_says_what_to_do():
    words = [sys.executable, "-I", "-S", ROOT / "orchestration/launch_grid.py", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch(r"error: \S+ has no \w+: run `make venv`, then .*\n", done.stderr)


def test_readme_names_the_two_commands():
    assert {"make demo", "make test"} <= set(commands("README.md"))
    ci = (ROOT / ".ci" / "run").read_text()
    run = {f"make {part}" for part in re.search(r"^for part in (.*); do$", ci, re.M)[1].split()}
    # docs is a part of check, which is a part of test; venv is a part of all
    assert RUN_BY_CI - {".ci/run", "make docs", "make venv"} <= run


@pytest.mark.parametrize("line", [line for line in SHELL if "--dry-run" in line or "--help" in line or " plan" in line])
def test_command_that_only_tells_works_as_it_stands(line, tmp_path):
    (tmp_path / "my_site.yaml").write_text("partition: gpu\n")
    words = shlex.split(line)
    words[0] = str(BIN / words[0])
    if words[1].endswith(".py"):
        words[1] = str(ROOT / words[1])
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


KNOWN = {
    "make test-crash",  # no part of CI, as CONTRIBUTING.md says
    "make test-faults",
    "make test-load",
    "make test-mutants",  # likewise no part of CI
    "rankmatch data show runs/demo/cells/SIGNATURE-NAME --step 137 -o step.png",  # test_bad_step.py
    "make test-simulation",  # likewise; tests/simulation plays the first histories in `make test`
    "rankmatch table --grid demo",  # test_launch.py
    "rankmatch table --grid camvid --statistics",  # test_results_load.py, of another grid
    "rankmatch figure curves --grid camvid -o camvid_curves.svg",  # test_report.py, of another grid
    "rankmatch dashboard",  # tests/dashboards/test_live.py, as the next
    "rankmatch dashboard --runs runs",
    "rankmatch report demo",  # tests/dashboards/test_report.py, as the next
    "rankmatch figure labels --grid demo -o labels.pdf",
    "rankmatch figure pictures --grid demo -o pictures.png",
    "rankmatch figure pictures --grid demo --runs short -o docs/pictures.png",
    "rankmatch figure ranks --grid demo --runs short -o docs/ranks.png",
    "rankmatch launch --grid demo --runs short dataset.scenes.num_train=40 dataset.scenes.num_val=4 "
    "dataset.scenes.size=128 augment.crop_size=97 trainer.epochs=4",
    "rankmatch bench loss --json rows.json",  # test_benchmarks.py
    # test_results_load.py, test_compare_verify.py
    "rankmatch results split=8 --format csv -o runs.csv",
    "rankmatch results method=[unimatch,rankmatch] --format csv -o runs.csv",
    "rankmatch results grid=pascal_classic --epochs --format parquet -o epochs.parquet",
    "rankmatch table --grid demo --metric last --statistics",
    "rankmatch table --grid demo --format latex -o table.tex",
    "rankmatch status --grid demo --json",  # test_json_answers.py, as the next two
    "rankmatch results grid=demo --format json",
    "rankmatch schema status",
    "rankmatch table --grid demo --cite",  # test_cite.py
    "rankmatch describe demo",  # test_describe.py
    "rankmatch compare rankmatch-8-s0 unimatch-8-s0",
    "rankmatch compare pascal_classic pascal_paper --metric miou",
    "rankmatch reproduce rankmatch-8-s0",  # test_reproduce.py
    "rankmatch reproduce rankmatch-8-s0 --result",
    "rankmatch verify --count 2",
    "rankmatch verify --count 3 --seed 0",
    "rankmatch register --grid demo",  # test_registry.py
    "rankmatch tune experiments/grids/search_rank.yaml",  # test_search.py, test_ray_search.py
    # test_ray_existing.py
    "python orchestration/launch_grid.py --cluster ray --address head:6379 --grid camvid --runs /shared/runs",
    "rankmatch data check camvid data_root=camvid",  # test_datasets.py, as the next four
    "rankmatch data show camvid data_root=camvid -o views.png",  # test_data_show.py
    "rankmatch data pack camvid data_root=camvid",
    "rankmatch data convert cityscapes cityscapes/gtFine",
    "rankmatch data new mitochondria",  # test_new_files.py, as the next four
    "rankmatch splits draw mitochondria.yaml --count 20 --val 50",
    "rankmatch data check mitochondria.yaml",
    "rankmatch data show mitochondria.yaml",
    "rankmatch grid new first --dataset mitochondria.yaml",
    "rankmatch splits download pascal --to splits/pascal",
    "rankmatch splits draw camvid --count 20 --seed 0 --balanced data_root=camvid",
    "rankmatch evaluate --checkpoint best.pt --dataset pascal data_root=VOC2012",  # test_trained.py, as the next
    "rankmatch predict --checkpoint best.pt photos -o out --dataset pascal",
    # test_campaign.py, test_pilot.py and tests/slurm, as all that follow but the last
    "python orchestration/launch_grid.py --cluster my_site.yaml --grid demo trainer.device=cpu",
    "python orchestration/launch_grid.py --cluster my_site.yaml --grid pascal_classic cluster.partition=gpu",
    "python orchestration/launch_grid.py --cluster my_site.yaml --grid pascal_classic --pilot --nodes 4",
    "rankmatch site detect > my_site.yaml",  # test_detected_site.py
    "rankmatch doctor --cluster my_site.yaml --grid pascal_classic",  # test_doctor.py
    # test_site_places.py
    "python orchestration/launch_grid.py --cluster my_site.yaml --grid pascal_classic",
    "rankmatch status --grid pascal_classic --watch",
    "rankmatch logs 1_16-s0 --grid pascal_classic -f",
    "rankmatch cancel --grid pascal_classic",
    'rankmatch retry --grid pascal_classic --class "code error"',
    "rankmatch resume --grid pascal_classic",
    "rankmatch reconcile --grid pascal_classic",
    "rankmatch sync --grid pascal_classic",
    "rankmatch ui --grid demo",  # test_mlflow_ui.py
}
"""Commands that other tests run."""


def test_every_other_command_is_known():
    others = [line for line in SHELL if not ("--dry-run" in line or "--help" in line or " plan" in line)]
    real = [line for line in others if "../shared/data" in line]  # test_real_data.py runs them, shortened
    assert set(others) - set(real) == KNOWN


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target


def test_map_shows_every_room_and_no_other():
    page = (ROOT / "docs/architecture.md").read_text()
    top = page.partition("## Where things are")[2].split("```")[1]
    rooms = page.partition("## The map")[2].split("```")[1].partition("orchestration/\n")[2]
    assert {name for name in re.findall(r"^(\w+)/", top, re.M) if (ROOT / name).is_dir()} == {
        *re.findall(r"^(\w+)/", top, re.M)
    }
    there = {path.parent.name for path in (ROOT / "orchestration").glob("*/__init__.py")}
    assert {*re.findall(r"(?<=[ ])(\w+)/(?= )", rooms)} == there
