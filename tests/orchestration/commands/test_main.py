import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from orchestration.commands import main as cli
from orchestration.commands.main import app
from orchestration.commands.sections import SECTIONS
from orchestration.runs.jobs import SchedulerError, SchedulerRefusal

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "orchestration" / "launch_grid.py"


def run(*arguments, folder=ROOT):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_help_names_the_options_and_imports_nothing_slow():
    probe = "import sys, runpy; sys.argv = ['launch_grid.py', '--help']\n"
    probe += f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    probe += "print(sorted({'torch', 'ray', 'mlflow', 'hydra', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert all(option in done.stdout for option in ("--grid", "--cluster", "--dry-run", "--watch", "--runs"))
    assert done.stdout.splitlines()[-1] == "[]"


def test_environment_that_was_made_before_there_were_dashboards_has_all_other_commands():
    code = """import sys
class Lacking:
    def find_spec(self, name, *_):
        if name == "dashboards":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Lacking())
from orchestration.commands.main import main
main()"""
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "dashboards is not installed: pip install -e . again" in done.stderr
    words = done.stdout.split()
    assert "launch" in words and "report" not in words


@pytest.mark.parametrize("grid", ["demo", "camvid", "pascal_animals", "pascal_classic", "pascal_blended"])
def test_every_shipped_grid_is_planned_without_data(grid, tmp_path):
    done = run("--grid", grid, "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grid", "dmeo"), "grid must be a YAML file or one of ablation_agent_selection, "),
        (("--cluster", "slrum"), "--cluster must be one of local, inline, ray, site_example, slurm, or a YAML file"),
        (("dataset=cityscape",), "dataset must be one of"),
        (("trainer.learning_rate=fast",), "trainer.learning_rate"),
        (("seed=[0,0]",), "seed"),
        (("epochs=3",), "trainer.epochs"),
        (("--pilot",), "--nodes must be given with --pilot; got --pilot alone"),
        (("--nodes", "2"), "--pilot must be given with --nodes; got --nodes alone"),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_exit_code_two(arguments, message, tmp_path):
    done = run(*arguments, "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_runs_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--runs", str(tmp_path / "file"))
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("plan",), ("launch", "--dry-run")])
@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_plan_above_the_budget_is_refused(command, cluster, tmp_path):
    words = [*command, "--grid", "pascal_classic", "--cluster", cluster, "--budget-gpu-hours", "10"]
    program = [sys.executable, "-c", "from orchestration.commands.main import main; main()"]
    device = ["trainer.device=cuda"]
    done = subprocess.run([*program, *words, *device], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "GPU-hours: " in done.stdout and " GPU-h" in done.stdout and "disk: about " in done.stdout
    assert "--budget-gpu-hours must be at least " in done.stderr and "; got 10" in done.stderr
    assert "#SBATCH" not in done.stdout


def test_plan_of_slurm_prints_no_scripts(tmp_path):
    program = [sys.executable, "-c", "from orchestration.commands.main import main; main()"]
    words = ["plan", "--grid", "demo", "--cluster", "slurm"]
    done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "longest first" in done.stdout and "#SBATCH" not in done.stdout


@pytest.mark.parametrize(
    ("error", "hint", "code"), [(SchedulerError("squeue is away"), True, 1), (SchedulerRefusal("no such"), False, 2)]
)
def test_the_same_command_is_recommended_only_where_it_may_go_on(error, hint, code, capsys):
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.guarded(command)
    said = capsys.readouterr().err
    assert ended.value.code == code and f"error: {error}" in said and ("same command resumes" in said) is hint


def test_help_lists_every_command_once_below_a_heading():
    commands = get_command(app).commands
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(name for name, one in commands.items() if not one.hidden)
    done = CliRunner().invoke(app, ["--help"])
    assert [line for line in done.stdout.splitlines() if line.rstrip(":") in SECTIONS] == [
        f"{name}:" for name in SECTIONS
    ]
    assert "  launch  Train the cells of a grid" in done.stdout
