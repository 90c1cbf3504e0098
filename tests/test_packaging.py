import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_bytes
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jsonschema
import pytest
import yaml

import rankmatch
from orchestration.machine import built_from, provenance

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests" / "orchestration" / "small.yaml"
LOCK = sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
SHORT = ("method=supervised", "split=4", "seed=0", "trainer.epochs=1", "dataset.scenes.num_train=8",
         "dataset.scenes.num_val=2", "dataset.scenes.size=64", "augment.crop_size=49")  # fmt: skip
"""One cell of the demo, in a few seconds."""
PAGES = """
import asyncio, sys
from pathlib import Path
from dashboards.live.server import guarded_app

app = guarded_app(Path("runs").resolve(), host="127.0.0.1", prefix="", token="")

async def status(path):
    sent = []
    async def receive():
        return {"type": "http.request"}
    async def send(message):
        sent.append(message)
    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"127.0.0.1")], "query_string": b"",
             "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1", "root_path": ""}
    await app(scope, receive, send)
    return sent[0]["status"]

print(*[asyncio.run(status(path)) for path in sys.argv[1:]])
"""
"""Asks the dashboard for pages, without a port."""
CITATION = {
    "type": "object",
    "required": ["cff-version", "message", "title", "authors"],
    "properties": {
        "cff-version": {"const": "1.2.0"},
        "type": {"enum": ["software", "dataset"]},
        "license": {"const": PROJECT["license"]},
        "authors": {"$ref": "#/$defs/authors"},
        "keywords": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string"}},
        **dict.fromkeys(("message", "title", "abstract"), {"type": "string", "minLength": 1}),
        "preferred-citation": {
            "type": "object",
            "required": ["type", "title", "authors"],
            "properties": {
                "type": {"const": "conference-paper"},
                "year": {"type": "integer"},
                "authors": {"$ref": "#/$defs/authors"},
                **dict.fromkeys(("title", "collection-title"), {"type": "string", "minLength": 1}),
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
    "$defs": {
        "authors": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "minProperties": 1,
                "properties": dict.fromkeys(("name", "family-names", "given-names"), {"type": "string"}),
                "additionalProperties": False,
            },
        }
    },
}
"""What version 1.2.0 of the Citation File Format allows, of its fields those in use; `cffconvert` has them all."""


def files(folder, pattern):
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern) if path.is_file()}


def ran(*words, **options):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The sources as a repository of their own: a build leaves files beside them."""
    source = tmp_path_factory.mktemp("source")
    for name in ("rankmatch", "orchestration", "dashboards", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "setup.py", "requirements.lock", ".gitignore"):
        shutil.copy(ROOT / name, source)
    git = ("git", "-C", source, "-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all")):
        ran(*git, *words)
    return source


@pytest.fixture(scope="session")
def built(source, tmp_path_factory):
    """A wheel that was built from a source archive, in which there is no repository, and the commit."""
    folder = tmp_path_factory.mktemp("built")
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel, ran("git", "-C", source, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="session")
def installed(built, tmp_path_factory):
    """The folder of programs of a new environment with the wheel, which takes the other packages from this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    own = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "shared.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    ran(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", built[0])
    return folder / "bin"


@pytest.mark.long
@pytest.mark.xdist_group("wheel")
def test_wheel_carries_every_module_and_all_experiments(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    assert files("rankmatch", "*.py") | files("orchestration", "*.py") <= names
    assert files("dashboards", "*.py") | files("dashboards/templates", "*.*") <= names
    assert files("dashboards/static", "*.*") and files("dashboards/static", "*.*") <= names
    assert {f"{package}/py.typed" for package in ("rankmatch", "orchestration", "dashboards")} <= names
    assert files("orchestration/commands/schemas", "*.json") <= names
    data = files("experiments", "*.yaml") | files("experiments", "*.csv")
    assert {f"orchestration/{name}" for name in data} <= names


@pytest.mark.long
@pytest.mark.xdist_group("wheel")
def test_runs_of_an_installed_wheel_keep_commit_and_lock_file(built, installed, tmp_path):
    words = ("launch", "--grid", SMALL, "--cluster", "inline", "--runs", "runs", "method=supervised", "seed=0")
    ran(installed / "rankmatch", *words, cwd=tmp_path)
    [result] = tmp_path.glob("runs/small/cells/*/result.json")
    of_run = json.loads(result.read_text())["provenance"]
    assert (of_run["commit"], of_run["dirty"], of_run["lock_sha256"]) == (built[1], False, LOCK)
    assert "commit_unknown" not in of_run
    report = (tmp_path / "runs/small/report.md").read_text()
    assert f"- commit: {built[1]} (1)\n" in report and f"- lock_sha256: {LOCK} (1)\n" in report
    assert f"The code is that of commit {built[1][:12]}." in report
    assert "1 of 1 cells are done." in (tmp_path / "runs/small/report.html").read_text()
    where = "from orchestration.machine import provenance; print(provenance.__file__)"
    assert str(installed.parent) in ran(installed / "python", "-c", where, cwd=tmp_path)


def test_build_of_uncommitted_sources_says_so(source, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    commit = ran("git", "-C", source, "rev-parse", "HEAD").strip()
    assert built_from.look(changed) == {"commit": commit, "dirty": False, "lock_sha256": LOCK}
    (changed / "orchestration" / "new.py").write_text("")
    built_from.write(changed, tmp_path / "wheel")
    found = provenance.collect(tmp_path / "wheel")
    assert (found["commit"], found["dirty"], found["lock_sha256"]) == (commit, True, LOCK)
    assert found["difference_sha256"] == sha256(provenance.difference(changed).encode()).hexdigest()


def test_build_without_a_repository_takes_the_commit_that_it_is_given_and_else_says_that_there_is_none(
    source, tmp_path, monkeypatch
):
    shutil.copytree(source, tmp_path / "sources", ignore=shutil.ignore_patterns(".git"))
    built_from.write(tmp_path / "sources", tmp_path / "without")
    found = provenance.collect(tmp_path / "without")
    assert (found["commit"], found["commit_unknown"], found["lock_sha256"]) == ("", "no repository", LOCK)
    monkeypatch.setenv("RANKMATCH_COMMIT", "c0ffee" * 6)
    built_from.write(tmp_path / "sources", tmp_path / "with")
    assert provenance.collect(tmp_path / "with")["commit"] == "c0ffee" * 6
    (tmp_path / "with" / built_from.FILE).write_text("torn")
    assert provenance.collect(tmp_path / "with")["commit_unknown"] == "no repository"


def test_versions_of_the_lock_file_are_those_that_are_installed():
    for name in ("torch", "torchvision", "ray", "mlflow", "submitit", "hydra-core", "pyarrow"):
        assert version(name).partition("+")[0] == PINNED[name]


def test_every_package_of_the_lock_file_has_hashes():
    packages = re.split(r"^(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text(), flags=re.M)[1:]
    assert len(packages) >= len(PINNED) > 100  # some have a version of their own for an older Python
    assert [text for text in packages if not re.search(r"^    --hash=sha256:[0-9a-f]{64}", text, re.M)] == []


def test_lock_file_holds_all_that_the_project_names():
    extras = PROJECT["optional-dependencies"]
    named = [re.match(r"[A-Za-z0-9-]+", text)[0].lower() for text in PROJECT["dependencies"] + extras["dev"]]
    assert {*named} - PINNED.keys() == set()


@pytest.mark.long
@pytest.mark.xdist_group("wheel")
def test_wheel_tells_its_version_its_licence_and_the_pythons_that_it_is_for(built):
    wheel = zipfile.ZipFile(built[0])
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    told = message_from_bytes(wheel.read(name))
    assert (told["Version"], told["License-Expression"], told["License-File"]) == ("0.1.0", "Apache-2.0", "LICENSE")
    assert {*told["Requires-Python"].split(",")} == {">=3.11", "<3.14"}
    pythons = [line.rpartition(" ")[2] for line in told.get_all("Classifier") if "Python :: 3." in line]
    assert pythons == ["3.11", "3.12", "3.13"]


@pytest.mark.long
@pytest.mark.xdist_group("wheel")
def test_installed_wheel_plans_trains_and_shows_the_demo_outside_of_a_checkout(installed, tmp_path):
    def rankmatch_says(*words):
        return ran(installed / "rankmatch", *words, cwd=tmp_path)

    assert rankmatch_says("--version") == f"rankmatch {PROJECT['version']}\n"
    assert "Train the cells of a grid" in rankmatch_says("--help")
    assert "12 cells" in rankmatch_says("plan", "--grid", "demo")
    assert not (tmp_path / "runs").exists()
    said = rankmatch_says("launch", "--grid", "demo", "--cluster", "inline", *SHORT)
    assert "| supervised |" in (tmp_path / "runs/demo/report.md").read_text() and "supervised" in said
    assert "supervised" in rankmatch_says("table", "--grid", "demo")
    (tmp_path / "runs/demo/report.html").unlink()
    rankmatch_says("report", "demo")
    assert "1 of 1 cells are done." in (tmp_path / "runs/demo/report.html").read_text()
    found = ran(installed / "python", "-c", PAGES, "/", "/g/demo/", "/static/look.css", "/no", cwd=tmp_path)
    assert found.split() == ["200", "200", "200", "404"]


def test_version_is_the_one_of_pyproject_or_unknown_where_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(rankmatch, "version", lambda name: PROJECT["version"])
    assert rankmatch.__version__ == PROJECT["version"]

    def fail(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(rankmatch, "version", fail)
    assert rankmatch.__version__ == "unknown"


def test_citation_is_what_its_format_allows():
    jsonschema.validate(yaml.safe_load((ROOT / "CITATION.cff").read_text()), CITATION)
