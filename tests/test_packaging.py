import json
import shutil
import subprocess
import sys
import venv
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from orchestration import built_from, provenance

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests" / "orchestration" / "small.yaml"
LOCK = sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()


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
    for name in ("pyproject.toml", "README.md", "setup.py", "requirements.lock", ".gitignore"):
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
    where = "from orchestration import provenance; print(provenance.__file__)"
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
    from importlib.metadata import version

    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    for name in ("torch", "torchvision", "ray[train,tune]", "mlflow", "submitit", "hydra-core", "pyarrow"):
        pinned = pins.get(name) or pins[name.partition("[")[0]]
        assert version(name.partition("[")[0]).partition("+")[0] == pinned
