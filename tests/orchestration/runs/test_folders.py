"""Names and paths below a runs folder are said in `runs/folders.py` alone: what says one elsewhere is found here."""

import ast
from collections.abc import Iterator

import pytest

from orchestration.machine.provenance import ROOT
from orchestration.runs import folder_above, folders
from orchestration.runs.folders import CellFolder, GridFolder, LaunchFolder

OWNERS = ("orchestration/runs/folders.py", "orchestration/runs/folder_above.py")
ALLOWED = {
    (
        "orchestration/machine/provenance.py",
        "uncommitted.diff",
    ): "a snapshot has it too, and folders takes it from there",
    ("orchestration/machine/scratch.py", "owner.json"): "of a Ray's folder in /tmp",
    ("orchestration/machine/files.py", ".lock"): "the lock beside any file",
    ("orchestration/machine/files.py", "path.parents"): "of any path, up to the root",
    ("orchestration/machine/own_files.py", "path.absolute().parents"): "of any path, up to the root",
    ("orchestration/machine/control_group.py", "folder.parents"): "of the kernel's control groups",
    ("orchestration/checkup/folder.py", "lock"): "of a probe that is removed at once",
    ("orchestration/commands/new_files.py", "grid.yaml"): "a template",
    ("orchestration/grids/cells.py", "config.yaml"): "Hydra's root configuration",
    ("orchestration/grids/inputs.py", "splits"): "an example of a folder of lists, in a command that is printed",
    ("orchestration/grids/kept_lists.py", "splits"): "of a data set, beside its images",
    ("orchestration/mirror/moved.py", "artifacts"): "MLflow's own layout of an experiment's files",
    ("orchestration/mirror/moved.py", "place.parent.parent"): "the place of an experiment's files, by its address",
    ("orchestration/on_slurm/array_elements.py", "span.partition('-')"): "elements of an array of jobs",
    ("dashboards/report.py", "report.html"): "a template",
    ("dashboards/live/server.py", "report.html"): "an address of the dashboard",
    ("dashboards/live/server.py", "cells"): "an address of the dashboard",
}
"""By file and what it says: why it may."""
CUTS = {"partition", "rpartition", "split", "rsplit"}
TAKES_NAMES = {"glob", "rglob", "with_name", "joinpath", "Path"}


def names() -> set[str]:
    inner = [value for kind in vars(folders).values() if isinstance(kind, type) for value in vars(kind).values()]
    return {part for one in inner if isinstance(one, folders.Inner) for part in one.name.split("/")}


NAMES = names()


class Finder(ast.NodeVisitor):
    """Collects what a source says of the layout: names of files, ways up from one, parts cut out of a name."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self.in_paths = 0

    def find(self, node: ast.expr, what: str) -> None:
        self.found.append((node.lineno, what))

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring may name a file
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str) or " " in node.value:
            return
        parts = {part for part in node.value.split("/") if part in NAMES}
        is_path = self.in_paths or "/" in node.value
        for part in parts:
            if "." in part or is_path:
                self.find(node, part)
        if node.value.endswith(".lock") and node.value.startswith("."):
            self.find(node, node.value)
        if "%Y%m%dT" in node.value:
            self.find(node, node.value)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.in_paths += isinstance(node.op, ast.Div)
        self.generic_visit(node)
        self.in_paths -= isinstance(node.op, ast.Div)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if called in {"partition", "rpartition", "split", "rsplit"} and [ast.unparse(arg) for arg in node.args[:1]] == [
            "'-'"
        ]:
            self.find(node, ast.unparse(node))
        self.in_paths += called in TAKES_NAMES
        self.generic_visit(node)
        self.in_paths -= called in TAKES_NAMES

    def visit_Attribute(self, node: ast.Attribute) -> None:
        above = ast.unparse(node.value)
        is_climb = node.attr == "parents" or (node.attr == "parent" and above.endswith(("_dir", ".parent")))
        if is_climb and "__file__" not in above:
            self.find(node, f"{above}.{node.attr}")
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        for part, following in zip(node.values, node.values[1:], strict=False):
            is_signature = isinstance(part, ast.FormattedValue) and "signature" in ast.unparse(part)
            if is_signature and isinstance(following, ast.Constant) and following.value == "-":
                self.find(node, ast.unparse(node))
        self.generic_visit(node)


def said_in(text: str) -> list[str]:
    finder = Finder()
    finder.visit(ast.parse(text))
    return [what for _, what in finder.found]


def sources() -> Iterator[str]:
    for package in ("orchestration", "dashboards"):
        yield from (str(path.relative_to(ROOT)) for path in sorted((ROOT / package).rglob("*.py")))


def test_no_other_source_says_a_name_or_a_place_below_a_runs_folder():
    found = []
    for source in sources():
        finder = Finder()
        finder.visit(ast.parse((ROOT / source).read_text(encoding="utf-8")))
        found += [f"{source}:{line}: {what}" for line, what in finder.found if (source, what) not in ALLOWED]
    assert [one for one in found if not one.startswith(OWNERS)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("folder / 'cells' / name", ["cells"]),
        ("folder.glob('launches/*/campaign.json')", ["launches", "campaign.json"]),
        ("PLAN = 'plan.txt'", ["plan.txt"]),
        ("path = f'{folder}/result.json'", ["result.json"]),
        ("launch_dir.parents[1]", ["launch_dir.parents"]),
        ("runs = grid_dir.parent", ["grid_dir.parent"]),
        ("folder.path.name.partition('-')[0]", ["folder.path.name.partition('-')"]),
        ("name.startswith(f'{cell.signature}-')", ["f'{cell.signature}-'"]),
        ("lock = folder / '.launch.lock'", [".launch.lock", ".launch.lock"]),
        ('"""Reads result.json."""\nrow["cells"] = ROOT = Path(__file__).parents[2]', []),
    ],
)
def test_what_a_source_says_of_the_layout_is_found(text, said):
    assert sorted(said_in(text)) == sorted(said)


def test_names_on_the_disk_are_those_of_all_versions():
    assert names() == {
        "%j.log", ".cancelled.lock", ".cells.lock", ".launch.lock", ".mirror.lock", ".notices.lock", ".results",
        ".trash", "address",
        "artifacts", "attempts", "axes.json", "bad_step.json", "best.pt", "campaign.json", "cancelled",
        "cancelled.json", "cells", "changes", "checked", "checkpoints", "config.yaml", "controller.json",
        "controller.sh", "controllers", "curves.png", "ended", "ended.json", "epochs.jsonl", "evaluation.json",
        "events.jsonl", "failure.json", "failures", "figures", "grid.yaml", "head.json", "imports.jsonl",
        "index.jsonl", "jobs", "jobs.jsonl", "launch.json", "launcher.json", "launches", "lock", "log", "mlflow.db",
        "mlflow.json", "node.json", "notices.json", "order.json", "owner.json", "pictures", "pictures.json",
        "plan.txt", "ray", "ray.json", "ray.log", "report.html", "report.md", "result.json", "runs.json",
        "samples.png", "snapshots", "splits", "state.json", "steps.arrow", "stop", "submissions", "table.csv",
        "told", "tune", "uncommitted.diff", "verdicts",
    }  # fmt: skip


def test_each_name_is_in_the_docs():
    text = (ROOT / "docs" / "run_folder.md").read_text(encoding="utf-8")
    locks = {name for name in NAMES if name.endswith("lock")}
    assert [name for name in sorted(NAMES - locks - {"%j.log"}) if name not in text] == []


def test_launches_are_named_in_the_order_in_which_they_begin_whatever_the_clock_says(tmp_path):
    ahead = GridFolder(tmp_path).launch("29991231T235959.000000-1")
    ahead.path.mkdir(parents=True)
    GridFolder(tmp_path).launch("no launch").path.mkdir()
    following = GridFolder(tmp_path).next_launch()
    assert following.name.startswith("29991231T235959.000001-") and following.moment > ahead.moment
    assert following.grid == GridFolder(tmp_path)


def test_file_of_a_launch_and_one_of_a_grid_are_of_the_same_grid(tmp_path):
    launch = GridFolder(tmp_path / "runs" / "small").launch("20261128T113231.397714-1")
    assert folder_above.launch_of(launch.grid_file) == launch
    assert folder_above.grid_of(launch.grid_file) == folder_above.grid_of(launch.grid.grid_file) == launch.grid
    assert folder_above.launch_of(launch.grid.grid_file) is None and launch.grid.runs.path == tmp_path / "runs"


def test_cell_is_found_above_what_lies_in_it(tmp_path):
    cell = CellFolder(tmp_path / "cells" / "65ac34b2e77c-rankmatch-4-s0")
    cell.attempts_dir.mkdir(parents=True)
    cell.config_file.touch()
    attempt = cell.attempt(3)
    assert folder_above.cell_above(attempt.best_file) == cell and attempt.cell_dir == cell.path
    assert (cell.signature, cell.slug, cell.is_in_grid) == ("65ac34b2e77c", "rankmatch-4-s0", True)
    assert folder_above.cell_above(tmp_path / "weights.pt") is None


def test_stop_of_a_launch_and_the_cells_that_were_cancelled_are_two_files():
    names = [LaunchFolder.stop_file, LaunchFolder.cancelled_cells_file, LaunchFolder.pilot_over_file]
    assert [one.name for one in (*names, LaunchFolder.campaign_over_file)] == [
        "cancelled", "cancelled.json", "ended", "ended.json",
    ]  # fmt: skip
