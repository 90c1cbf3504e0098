"""The doctor says what is missing, what it breaks and how to mend it."""

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from shell_programs import programs
from typer.testing import CliRunner

from orchestration.checkup import folder, inputs, node_look, software
from orchestration.checkup.finding import Verdict
from orchestration.commands.main import app
from orchestration.grids.cells import experiments_folder
from orchestration.on_slurm import commands
from orchestration.on_slurm.cluster import ClusterConfig
from rankmatch import locks

GOOD_SITE = "partition: gpu\ngpus_per_node: 4\ncpus_per_worker: 4\nmem_gb_per_worker: 16\n"


@pytest.fixture(autouse=True)
def without_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new Python that imports torch and Ray takes seconds; one test has it."""
    answers = {software._TORCH: {"version": "2.14.1", "cuda": "13.0", "is_available": True, "has_nccl": True},
               software._RAY: {"version": "2.60.0"}}  # fmt: skip
    monkeypatch.setattr(software, "_answer_of", lambda code: (answers[code], ""))


def examined(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def subjects(text: str, verdict: str) -> list[str]:
    return [line[7:].partition(":")[0] for line in text.splitlines() if line.startswith(verdict)]


@pytest.mark.long
def test_machine_on_which_the_demo_runs_is_well(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, text = examined("--runs", tmp_path / "runs", "--grid", "demo")
    assert code == 0, text
    assert subjects(text, "FAULT") == []
    assert {"Python", "torch", "Ray", "runs folder", "clock", "disk", "MLflow", "grid demo"} <= set(
        subjects(text, "good")
    )
    assert list(tmp_path.iterdir()) == []


def test_torch_that_cannot_use_the_gpus_of_the_machine_is_a_fault(tmp_path, monkeypatch):
    programs(
        tmp_path / "bin", monkeypatch, **{"nvidia-smi": 'case "$*" in *driver*) echo 470.1 ;; *) echo V100 ;; esac'}
    )
    told = {"version": "2.14.1", "cuda": "13.0", "is_available": False, "has_nccl": True}
    monkeypatch.setattr(software, "_answer_of", lambda code: (told, ""))
    code, text = examined("--runs", tmp_path / "runs")
    assert (code, subjects(text, "FAULT")) == (1, ["GPU"])
    assert "1 x V100 with driver 470.1, but torch 2.14.1 cannot use it\n" in text
    assert "breaks: cells would fail, or train on the processor\n" in text
    assert "fix:    a driver for CUDA 13.0" in text


def test_library_that_ends_the_process_that_loads_it_is_a_fault(monkeypatch):
    monkeypatch.undo()
    assert software._answer_of("import os; os.abort()") == ({}, "Python ends with -6")
    assert software._answer_of("import no_such_module")[1] == "ModuleNotFoundError: No module named 'no_such_module'"


def test_folder_that_cannot_hold_runs_is_a_fault(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "held", refuse)
    found = list(folder.runs_folder(tmp_path))
    assert [one.text for one in found if one.verdict is Verdict.FAULT] == [
        "cannot be locked: [Errno 37] No locks available"
    ]
    monkeypatch.undo()
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: refuse())
    found = list(folder.runs_folder(tmp_path))
    assert [one.text for one in found if one.verdict is Verdict.NOTE] == [
        "has no hard links (No locks available): checkpoints are copied, claims go by a lock file"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "runs", "a/b"])
def test_file_in_the_place_of_the_runs_folder_is_a_fault_and_refused_by_plan_and_launch(below, tmp_path):
    (tmp_path / "file").touch()
    runs = str(tmp_path / "file" / below)
    code, text = examined("--runs", runs)
    assert (code, subjects(text, "FAULT")) == (1, ["runs folder"])
    assert f"{tmp_path / 'file'} is a file, and no folder\n" in text
    for words in (["plan"], ["launch", "--dry-run"], ["launch"]):
        done = CliRunner().invoke(app, [*words, "--grid", "demo", "--runs", runs])
        assert str(done.exception) == (
            f"--runs must be a folder, or one that can be made; {tmp_path / 'file'} is a file"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_clock_of_the_disk_that_is_another_is_a_fault(tmp_path, monkeypatch):
    real = Path.stat

    def later(path: Path, **options) -> os.stat_result:
        found = list(real(path, **options))
        return os.stat_result([*found[:8], found[8] + 900, *found[9:]])

    monkeypatch.setattr(
        Path,
        "stat",
        lambda path, **options: later(path, **options) if path.name.startswith("time-") else real(path, **options),
    )
    [found] = [one for one in folder.runs_folder(tmp_path) if one.subject == "clock"]
    assert found.verdict is Verdict.FAULT and "s from this machine's" in found.text


def test_store_that_does_not_answer_and_data_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:s3cret@127.0.0.1:9/mlflow")
    code, text = examined("--runs", tmp_path, "--grid", "camvid", "data_root=/no/such/folder")
    assert (code, set(subjects(text, "FAULT"))) == (1, {"MLflow", "grid camvid"})
    assert "/no/such/folder" in text and "s3cret" not in text


@pytest.mark.parametrize(
    ("name", "fields", "faults", "notes"),
    [
        ("old", GOOD_SITE, [], ["accounting", "requeue"]),
        ("typed", GOOD_SITE.replace("gpu\n", "main\n", 1), [], []),
        ("cancels", GOOD_SITE.replace("gpu\n", "batch\n", 1), [], ["preemption"]),
        ("cancels", GOOD_SITE, ["partition"], ["preemption"]),
        ("typed", GOOD_SITE.replace("gpu\n", "main\n", 1) + "gpu_type: h100\n", ["nodes"], []),
        ("without_gpus", "partition: short\n", ["partition", "nodes"], ["accounting", "preemption"]),
        (
            "without_gpus",
            "partition: short\ngpu_flag: none\nmax_time_min: 3\ntime_min: 3\nsignal_before_s: 60\n"
            "cpus_per_worker: 2\nmem_gb_per_worker: 1\n",
            [],
            ["accounting", "preemption", "GPUs"],
        ),
    ],
)
def test_site_is_looked_at_as_its_jobs_would_meet_it(name, fields, faults, notes, at_site, tmp_path):
    at_site(name)
    (tmp_path / "site.yaml").write_text(fields)
    code, text = examined("--cluster", tmp_path / "site.yaml", "--runs", tmp_path / "runs")
    assert subjects(text, "FAULT") == faults, text
    assert code == bool(faults)
    others = {"GPU", "commit", "shared memory", "disk", "packages"}
    assert [one for one in subjects(text, "note") if one not in others] == notes


def test_slurm_that_does_not_answer_is_a_fault_of_its_sites_alone(tmp_path, monkeypatch):
    scripts = dict.fromkeys(("sbatch", "squeue", "scancel", "sinfo", "srun"), "exit 1")
    programs(tmp_path / "bin", monkeypatch, scontrol="echo 'Unable to contact slurm controller' >&2; exit 1", **scripts)
    code, text = examined("--cluster", "slurm", "--runs", tmp_path / "runs")
    assert (code, subjects(text, "FAULT")) == (1, ["Slurm"])
    assert "Unable to contact slurm controller" in text
    code, text = examined("--runs", tmp_path / "runs")
    assert (code, subjects(text, "FAULT")) == (0, [])
    assert "Slurm" in subjects(text, "note")


_SQUEUE = """case "$*" in
*--states=all*) echo 77 ;;
*%i\\|*) [ ! -e "$LOG/answered" ] || exit 0  # it has left the queue
    [ -e "$LOG/asked" ] || { touch "$LOG/asked"; echo 'Socket timed out' >&2; exit 1; }
    name=$(cat "$LOG/name")
    if [ "$ANSWERS" ]; then
      echo '{"host": "n1", "findings": []}' > "$(ls -d "$RUNS"/.rankmatch-doctor-*)/answer.json"
      touch "$LOG/answered"
    fi
    echo "77|PENDING||Priority|1|(null)|$name" ;;
esac"""
_SBATCH = """for file; do :; done
sed -n 's/^#SBATCH --job-name=//p' "$file" > "$LOG/name"
echo 77"""


@pytest.fixture
def doctor_job(at_site, tmp_path, monkeypatch):
    """Have sbatch take the doctor's job, squeue fail once, and scancel note what it is asked to end."""
    at_site("old")
    (tmp_path / "log").mkdir()
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ANSWERS", "")
    monkeypatch.setattr(node_look, "POLL_S", 0.01)
    (tmp_path / "runs").mkdir()
    (tmp_path / "site.yaml").write_text(GOOD_SITE)
    scripts = {"squeue": _SQUEUE, "sbatch": _SBATCH, "scancel": 'echo "$@" >> "$LOG/cancelled"'}
    programs(tmp_path / "bin", monkeypatch, **scripts)
    return ("--cluster", tmp_path / "site.yaml", "--runs", tmp_path / "runs", "--job")


def test_answer_of_the_doctors_job_is_waited_for_where_squeue_fails_once(doctor_job, tmp_path, monkeypatch):
    monkeypatch.setenv("ANSWERS", "yes")
    _, text = examined(*doctor_job)
    assert "good   job: 77 ran on n1\n" in text
    assert not (tmp_path / "log" / "cancelled").exists()


def test_doctors_job_that_does_not_run_in_time_is_cancelled(doctor_job, tmp_path, monkeypatch):
    monkeypatch.setattr(node_look, "WAIT_S", 1.0)
    _, text = examined(*doctor_job)
    assert "note   job: 77 has not run within 0 minutes (Priority) and is cancelled\n" in text
    name = (tmp_path / "log" / "name").read_text().strip()
    assert (tmp_path / "log" / "cancelled").read_text() == f"--quiet --name={name}\n"


@pytest.mark.parametrize("moment", ["while it waits", "while sbatch is asked"])
def test_doctor_that_is_interrupted_leaves_no_job_and_no_folder(moment, doctor_job, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def submit(script: Path, name: str) -> None:
        subprocess.run(["sbatch", "--parsable", script], check=True, capture_output=True)
        raise KeyboardInterrupt

    if moment == "while it waits":
        monkeypatch.setattr(node_look, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupted))
    else:
        monkeypatch.setattr(commands, "submit", submit)
    done = CliRunner().invoke(app, ["doctor", *map(str, doctor_job)])
    assert done.exit_code != 0
    name = (tmp_path / "log" / "name").read_text().strip()
    assert (tmp_path / "log" / "cancelled").read_text() == f"--quiet --name={name}\n"
    assert list((tmp_path / "runs").iterdir()) == []


def test_cluster_that_there_is_not_is_named():
    done = CliRunner().invoke(app, ["doctor", "--cluster", "nowhere.yaml"])
    assert "--cluster must be one of local, inline, ray" in str(done.exception)


def test_data_and_weights_that_a_site_names_are_looked_at(tmp_path, tiny_root):
    (tmp_path / "r50.pth").write_bytes(b"no weights")
    (tmp_path / "site.yaml").write_text(
        f"scheduler: local\ndata_root: {{camvid: {tiny_root}, pascal: gone}}\n"
        "weights: {resnet50: r50.pth, xception: no}\n"
    )
    code, text = examined("--cluster", tmp_path / "site.yaml", "--runs", tmp_path / "runs")
    assert code == 1
    assert subjects(text, "FAULT") == ["data_root of pascal", "weights of resnet50", "weights of xception"]
    assert f"FAULT  data_root of pascal: {tmp_path}/gone is not there\n" in text
    assert f"good   split lists of camvid: 2 in {tiny_root}/splits\n" in text
    assert "Slurm" not in subjects(text, "good")


def test_grid_that_was_launched_is_known_by_its_name(tmp_path):
    stored = tmp_path / "runs" / "mine" / "grid.yaml"
    stored.parent.mkdir(parents=True)
    stored.write_text((experiments_folder() / "grids" / "demo.yaml").read_text())
    found = [*inputs.of_grid("mine", [], tmp_path / "runs")]
    assert {one.verdict for one in found} == {Verdict.GOOD, Verdict.NOTE}
    (fault,) = inputs.of_grid("yours", [], tmp_path / "runs")
    assert fault.verdict is Verdict.FAULT and "(mine); got 'yours'" in " ".join(fault.lines())


@pytest.mark.parametrize(("longest", "minutes"), [(0, "10"), (3, "3")])
def test_doctors_job_is_not_ended_by_a_signal_before_its_limit_which_a_partition_allows(longest, minutes):
    flags = node_look._batch(ClusterConfig(max_time_min=longest), "doctor").flags
    assert flags["time"] == minutes and "signal" not in flags
