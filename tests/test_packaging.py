import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def files(folder, pattern):
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern) if path.is_file()}


def test_wheel_carries_every_module_and_all_experiments(tmp_path):
    source = tmp_path / "source"  # a build leaves files beside the sources
    for name in ("rankmatch", "orchestration", "experiments"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert files("rankmatch", "*.py") | files("orchestration", "*.py") <= names
    data = files("experiments", "*.yaml") | files("experiments", "*.csv")
    assert {f"orchestration/{name}" for name in data} <= names


def test_versions_of_the_lock_file_are_those_that_are_installed():
    from importlib.metadata import version

    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    for name in ("torch", "torchvision", "ray[train,tune]", "mlflow", "submitit", "hydra-core", "pyarrow"):
        pinned = pins.get(name) or pins[name.partition("[")[0]]
        assert version(name.partition("[")[0]).partition("+")[0] == pinned
