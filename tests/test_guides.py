"""Commands of the pages that look at finished runs are run as they stand there, and what pages link to is there."""

import re
import shlex
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import finished_grids
import pytest
from from_code.commands import all_commands
from test_readme import PAGES, commands
from typer.testing import CliRunner

from orchestration.commands.main import app

ROOT = Path(__file__).resolve().parents[1]
LOOK = re.compile(r"rankmatch (table|report|figure|results|describe|compare) ")
LOOKS = sorted({line for page in PAGES for line in commands(page) if LOOK.match(line)})
GRIDS = {path.stem for path in (ROOT / "experiments/grids").glob("*.yaml")} | {"pascal_paper"}
OURS = ("test_docs.py", "test_guides.py", "test_readme.py")
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.name not in OURS)
LANGUAGES = {"", "python", "text", "yaml"}

pytestmark = pytest.mark.xdist_group("guides")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Make a folder whose runs folder has finished runs of some grids, once for each choice."""
    made = {}

    def make(runs, names):
        if (runs, names) not in made:
            folder = made[runs, names] = tmp_path_factory.mktemp("guides")
            (folder / "docs").mkdir()
            (folder / runs).mkdir()
            for name in names:
                finished_grids.finish(finished_grids.written(folder / runs, name), folder / runs / name)
        return made[runs, names]

    return make


@pytest.mark.parametrize("line", LOOKS)
def test_command_that_looks_at_finished_runs_works_as_it_stands(line, folder_of, monkeypatch):
    words = shlex.split(line)[1:]
    runs = words[words.index("--runs") + 1] if "--runs" in words else "runs"
    folder = folder_of(runs, tuple(sorted(GRIDS & {*re.split(r"[ =]", line)})) or ("demo",))
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    written = [words[place + 1] for place, word in enumerate(words) if word == "-o"]
    assert all((folder / name).stat().st_size for name in written)
    assert written or done.output


OTHERS = sorted(
    {line for page in PAGES for line in commands(page) if line.startswith("rankmatch ") and not LOOK.match(line)}
)


@pytest.mark.parametrize("line", OTHERS)
def test_every_other_command_and_each_of_its_options_is_called_by_a_test(line):
    _, *words = shlex.split(line)
    names = {name.removeprefix("rankmatch ") for name, _ in all_commands()}
    (name,) = {" ".join(words[:length]) for length in (1, 2)} & names
    calls = r"[\"'`]?,? *[\"'`]?".join(map(re.escape, name.split()))
    assert re.search(rf"[\"' ]{calls}[\"' ]", TESTS)
    assert all(option in TESTS for option in words if option.startswith("--"))


def test_pages_hold_looks_of_every_kind():
    assert {LOOK.match(line)[1] for line in LOOKS} == set(LOOK.pattern.split("(")[1].split(")")[0].split("|"))


@pytest.mark.parametrize("page", PAGES)
def test_no_block_hides_commands_by_its_language(page):
    marks = re.findall(r"^```(.*)$", (ROOT / page).read_text(), re.M)
    assert {*marks} <= LANGUAGES


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES)
def test_anchors_are_headings_and_addresses_are_whole(page):
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        address = urlsplit(target)
        if address.scheme:
            assert address.scheme == "https" and "." in address.netloc, target
        elif address.fragment:
            there = (ROOT / page).parent / address.path if address.path else ROOT / page
            assert address.fragment in anchors(there), target


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_committed_files(page):
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("there is no repository here")
    files = set(listed.stdout.splitlines())
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        if not urlsplit(target).scheme:
            path = ((ROOT / page).parent / target).resolve().relative_to(ROOT).as_posix()
            assert path in files or any(file.startswith(f"{path}/") for file in files), target
