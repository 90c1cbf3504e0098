"""What SECURITY.md promises of all code at once, and that each of its promises names a test that is there."""

import ast
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankmatch import checkpoint
from rankmatch.models import state_dicts

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rankmatch", "orchestration", "dashboards", "docker")
SECRETS = {
    "MLFLOW_TRACKING_USERNAME": "planted-user",
    "MLFLOW_TRACKING_PASSWORD": "planted-password",
    "MLFLOW_TRACKING_TOKEN": "planted-token",
    "RANKMATCH_WEBHOOK": "https://planted.example/hook",
    "RAY_AUTH_TOKEN": "planted-ray",
    "AWS_SECRET_ACCESS_KEY": "planted-key",
    "HF_TOKEN": "planted-hub",
}
SHORT = ("method=supervised", "split=4", "seed=0", "trainer.epochs=1", "dataset.scenes.num_train=8",
         "dataset.scenes.num_val=2", "dataset.scenes.size=64", "augment.crop_size=49")  # fmt: skip
UNPICKLES = {
    "orchestration/on_slurm/task.py": "after a look at who can have written the file",
    "orchestration/on_ray/driver.py": "after a look at who can have written the file",
    "rankmatch/data/workers.py": "what a worker of this process sent it through memory",
}
"""The only files that unpickle, and why they may."""


def calls():
    """Yield each call in the sources with its file and the dotted name of what is called."""
    for path in [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(ROOT)), ast.unparse(node.func), node


def given(node, name):
    return next((ast.unparse(word.value) for word in node.keywords if word.arg == name), None)


def test_no_program_is_started_through_a_shell():
    shells = re.compile(r"(os\.(system|popen|exec\w+|spawn\w+)|subprocess\.(getoutput|getstatusoutput)|pty\.spawn)$")
    started = [(path, node) for path, name, node in calls() if name.startswith("subprocess.")]
    assert len(started) > 10
    assert [path for path, node in started if given(node, "shell") not in (None, "False")] == []
    assert [(path, name) for path, name, _ in calls() if shells.match(name)] == []


def test_nothing_is_unpickled_or_evaluated_but_where_it_is_known_who_wrote_it():
    unsafe = re.compile(r"(\w+\.)*(pickle|cloudpickle|dill|joblib|shelve|marshal)\.(load|loads|open|Unpickler)$")
    assert {path for path, name, _ in calls() if unsafe.match(name)} == UNPICKLES.keys()
    assert [path for path, name, _ in calls() if name in ("eval", "exec", "compile", "__import__")] == []


def test_readers_of_tensors_arrays_and_yaml_make_plain_values_only():
    found = {"torch.load": [], "yaml.load": [], "numpy.load": []}
    for path, name, node in calls():
        if (known := name.replace("np.", "numpy.")) in found:
            found[known].append((path, node))
    assert len(found["torch.load"]) >= 3
    assert [path for path, node in found["torch.load"] if given(node, "weights_only") != "True"] == []
    assert {path for path, _ in found["yaml.load"]} <= {"orchestration/machine/yaml_text.py"}
    assert [path for path, node in found["numpy.load"] if given(node, "allow_pickle") not in (None, "False")] == []
    assert [path for path, name, _ in calls() if name in ("yaml.unsafe_load", "yaml.full_load")] == []


class Trap:
    """Leaves a trace as soon as it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_weights_and_checkpoints_is_not_run(tmp_path, how):
    trace, folder = tmp_path / "trace", tmp_path / "step"
    folder.mkdir()
    path = folder / checkpoint.STATE
    if how == "torch":
        torch.save({"model": Trap(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Trap(trace)}, protocol=2))  # as torch writes it
    with pytest.raises(ValueError, match="cannot be read"):
        state_dicts.read_state_dict(path)
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load(folder)
    assert not trace.exists()


@pytest.mark.long
def test_secrets_of_the_environment_are_in_no_file_and_no_output_of_a_launch(tmp_path):
    words = [Path(sys.executable).parent / "rankmatch", "launch", "--grid", "demo", "--cluster", "inline", *SHORT]
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        words, cwd=tmp_path, env={**kept, **SECRETS}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "result.json", "report.html", "launch.json"} <= {path.name for path in files}
    assert [path for path in files if b"planted" in path.read_bytes()] == []
    assert "planted" not in done.stdout + done.stderr
    [launch] = (tmp_path / "runs" / "demo" / "launches").iterdir()
    assert launch.stat().st_mode & 0o777 == 0o700


def test_each_promise_names_a_test_that_is_there():
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    promises = [row for row in rows if len(row) == 2 and row[0].strip() not in ("promise", "---")]
    assert len(promises) > 20
    for promise, tests in promises:
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", tests)
        assert named, promise
        for path, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), f"{path}::{name}"


def test_each_threat_has_promises():
    sections = re.split(r"^## ", (ROOT / "SECURITY.md").read_text(), flags=re.M)
    threats = [section for section in sections if "| promise |" in section]
    assert [section.partition("\n")[0] for section in threats] == [
        "Other users of the node",
        "Other users of the file system",
        "A data set from the internet",
        "A checkpoint from the internet",
        "A run folder from a colleague",
        "A page in the user's browser",
        "Secrets",
        "Packages",
    ]
