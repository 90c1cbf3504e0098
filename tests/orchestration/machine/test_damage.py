"""One damaged file harms one cell: what each command says of a grid in which a file is damaged in some way."""

import json
import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids import index
from orchestration.launching import status
from orchestration.machine import files
from orchestration.machine.damage import DamageWarning
from orchestration.mirror.mlflow_store import Store
from orchestration.on_slurm import submissions
from orchestration.on_slurm.notices import Notifier
from orchestration.results import run_table
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import GridFolder
from orchestration.runs.jobs import JobState, StateLog, cancel_cells, cancelled_cells
from orchestration.runs.run_folder import RunFolder, folders

WAYS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "torn": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "other JSON": lambda whole: b"[1]\n",
    "cut at a line": lambda whole: b"".join(whole.splitlines(keepends=True)[:-2]),
}
WRONG_KIND = {"other kinds": lambda whole: re.sub(rb'": ("[^"]*"|\[[^\]]*\])', rb'": 7', whole)}
DONE, STOPPED = "supervised-4-s0", "supervised-4-s1"
"""A finished cell, and one that was stopped behind its first epoch."""


@dataclass
class Said:
    """What commands printed and warned of, in order."""

    runs: Path
    text: dict[str, str] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)

    def __call__(self, *words: object) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            done = CliRunner().invoke(app, [*map(str, words), "--runs", str(self.runs)])
        assert all(warning.category is DamageWarning for warning in caught), [str(one.message) for one in caught]
        self.warned += [str(warning.message) for warning in caught]
        assert done.exit_code == 0, (words, done.exception, done.output)
        self.text[str(words[0])] = done.output
        return str(done.output).splitlines()

    def row(self, command: str, name: str) -> str:
        """Return the line of a cell."""
        (line,) = [line for line in self.text[command].splitlines() if self.cell(name).name[:12] in line]
        return line

    def cell(self, name: str) -> Path:
        (path,) = (self.runs / "small" / "cells").glob(f"*{name}")
        return path


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with nothing in it, as making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{path}").experiment("other")
    return path


@pytest.fixture
def said(launched, empty_store: Path, tmp_path: Path) -> Said:
    """The small grid in a folder of its own: one of its four cells was stopped, and MLflow has none of them."""
    made = Said(tmp_path / "runs")
    left_out = shutil.ignore_patterns("*.pt", "mlflow.db", "artifacts", ".results")
    shutil.copytree(launched.runs, made.runs, ignore=left_out, symlinks=True)
    shutil.copy(empty_store, made.runs / "mlflow.db")
    for path in made.runs.glob("small/launches/*/mlflow.json"):
        path.write_text(path.read_text().replace(str(launched.runs), str(made.runs)))
    shutil.copy(launched.file, tmp_path / "small.yaml")
    stopped = RunFolder(made.cell(STOPPED))
    (stopped.path / "result.json").unlink()
    stopped.attempts()[0].event("stopped", step=1, kind="cancelled")
    return made


def all_commands(said: Said, tmp_path: Path) -> None:
    grid = tmp_path / "small.yaml"
    said("status", "--grid", "small")
    said("plan", "--grid", grid)
    said("table", "--grid", grid, "--format", "csv")
    said("results", "--epochs", "--format", "csv", "-o", tmp_path / "epochs.csv")
    said("results")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["result.json", "config.yaml", "axes.json", "attempts/1/owner.json"])
def test_damaged_file_of_a_finished_cell_harms_that_cell_alone(name: str, way: str, said: Said, tmp_path: Path) -> None:
    path = said.cell(DONE) / name
    path.write_bytes(WAYS[way](path.read_bytes()))
    all_commands(said, tmp_path)
    told = [message for message in said.warned if str(path) in message]
    is_lost = name == "result.json"
    assert len(told) == (0 if "owner" in name else 1)  # which nobody opens of a finished cell
    assert said.text["status"].splitlines()[5] == (
        "4 cells: 2 done, 1 interrupted, 1 damaged" if is_lost else "4 cells: 3 done, 1 interrupted"
    )
    assert "4 cells: 1 resume, 2 keep, 1 damaged" in said.text["plan"] if is_lost else "3 keep" in said.text["plan"]
    if is_lost:
        assert str(path) in said.row("status", DONE) and "restore it, or remove it to have" in said.row("status", DONE)
        assert said.row("plan", DONE).startswith("damaged") and str(path) in said.row("plan", DONE)
    assert len(said.text["table"].splitlines()) == 3
    assert said.text["results"].count("done") == (3 if "owner" in name else 2)
    assert "4 runs" in said.text["results"] and ("damaged" in said.text["results"]) == ("owner" not in name)


@pytest.mark.parametrize("way", WAYS)
def test_damaged_owner_of_a_stopped_attempt_is_named_and_the_cell_resumed(way: str, said: Said, tmp_path: Path) -> None:
    path = said.cell(STOPPED) / "attempts" / "1" / "owner.json"
    path.write_bytes(WAYS[way](path.read_bytes()))
    all_commands(said, tmp_path)
    assert said.row("status", STOPPED).split()[2] == "damaged" and str(path) in said.row("status", STOPPED)
    assert said.row("plan", STOPPED).startswith("resume") and str(path) in said.row("plan", STOPPED)
    assert [str(path) in message for message in said.warned] == [True]


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (DONE, "events.jsonl"),
        (DONE, "epochs.jsonl"),
        (DONE, "system-0.jsonl"),
        (STOPPED, "events.jsonl"),
        (STOPPED, "epochs.jsonl"),
    ],
)
def test_damaged_line_of_a_journal_is_left_out_and_named_once(cell: str, name: str, said: Said, tmp_path: Path) -> None:
    path = said.cell(cell) / "attempts" / "1" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + b"\n" + whole)
    all_commands(said, tmp_path)
    said("sync", "--grid", "small")
    assert [message.partition(": ")[2] for message in said.warned if str(path) in message] == [
        "line 1 cannot be read and is left out (1 in all)"
    ]
    assert "4 cells: 3 done, 1 interrupted" in said.text["status"]
    assert len((tmp_path / "epochs.csv").read_text().splitlines()) == 5
    assert "MLflow is up to date" in said.text["sync"]


@pytest.mark.parametrize("name", ["result.json", "config.yaml", "attempts/1/owner.json"])
def test_other_cells_are_written_to_mlflow_where_one_is_damaged(name: str, said: Said) -> None:
    path = said.cell(DONE) / name
    path.write_bytes(b"")
    said("sync", "--grid", "small")
    client = Store(f"sqlite:///{said.runs / 'mlflow.db'}")._client
    (experiment,) = [one for one in client.search_experiments() if one.name == "small"]
    runs = client.search_runs([experiment.experiment_id], "tags.`rankmatch.signature` LIKE '%'")
    assert len(runs) == (4 if "owner" in name else 3)
    assert any(str(path) in message for message in said.warned)


def test_damaged_line_of_the_index_hides_its_cell_and_says_so(said: Said) -> None:
    path = GridFolder(said.runs / "small").index_file
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'{"signature": \n', *lines[2:]]))
    said("status", "--grid", "small")
    assert "3 cells: " in said.text["status"]
    assert said.warned == [f"{path}: line 2 cannot be read and is left out (1 in all)"]


@pytest.mark.parametrize("name", ["mlflow.json", "cancelled.json", "submissions/x.json"])
@pytest.mark.parametrize("way", WAYS | WRONG_KIND)
def test_damaged_file_of_a_launch_is_named_and_passed_over(way: str, name: str, said: Said, slurm) -> None:
    launch = max((said.runs / "small" / "launches").iterdir())
    cancel_cells(launch, ["a"])
    submissions.Submission("x", [said.cell(DONE).name], "1").write(launch)
    path = launch / name
    path.write_bytes((WAYS | WRONG_KIND)[way](path.read_bytes()))
    said("status", "--grid", "small")
    if name == "mlflow.json":
        said("sync", "--grid", "small")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cancelled = cancelled_cells(launch)
    assert cancelled == ([] if name == "cancelled.json" else ["a"])
    assert [str(path) in message for message in [*said.warned, *(str(one.message) for one in caught)]] == [True]


def test_state_log_is_read_and_written_on_behind_a_torn_line(tmp_path: Path) -> None:
    log = StateLog(tmp_path)
    log.write("a", JobState.RUNNING)
    with (tmp_path / "jobs.jsonl").open("ab") as file:
        file.write(b'{"cell": "a", "sta')
    log.write("b", JobState.DONE)
    with pytest.warns(DamageWarning, match=r"jobs.jsonl: line 2 cannot be read"):
        assert log.read() == {"a": JobState.RUNNING, "b": JobState.DONE}


def test_row_behind_a_torn_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.append_row(path, {"step": 1})
    path.write_bytes(path.read_bytes() + b'{"ste')
    files.append_row(path, {"step": 2})
    with pytest.warns(DamageWarning, match=r"rows.jsonl: line 2 cannot be read and is left out \(1 in all\)"):
        assert files.read_lines(path) == [{"step": 1}, {"step": 2}]
    assert files.read_last_line(path) == {"step": 2}


def test_notices_that_cannot_be_read_are_sent_anew(tmp_path: Path) -> None:
    (tmp_path / "notices.json").write_text("")
    assert Notifier(str(tmp_path), command=("true",)).tell("cause", "text")
    assert json.loads((tmp_path / "notices.json").read_text())["cause"]["sent"]


def test_attempt_whose_first_event_is_damaged_repeats_no_row(said: Said) -> None:
    folder = RunFolder(said.cell(STOPPED))
    second = folder.claim({})
    second.event("started", step=0)
    row = json.loads((folder.path / "attempts" / "1" / "epochs.jsonl").read_text())
    with second.recorder() as report:
        report(0, {"loss": 1.0})
        report(row["step"], {name: value for name, value in row.items() if name not in ("step", "time")})
    assert len(folder.epochs()) == 1
    (second.path / "events.jsonl").write_bytes(b"\x00\n")
    with pytest.warns(DamageWarning, match=r"attempts/2/events.jsonl: line 1 cannot be read"):
        assert len(folder.epochs()) == 1


def test_launch_writes_the_description_of_a_finished_cell_anew(fresh, monkeypatch) -> None:
    fresh()
    (folder,) = [RunFolder(path) for path in (fresh.runs / "small" / "cells").glob(f"*{DONE}")]
    config, axes = folder.config(), folder.axes()
    (folder.path / "config.yaml").write_text("")
    (folder.path / "axes.json").write_text("{")
    assert fresh() == 0
    assert (folder.config(), folder.axes()) == (config, axes)
    (folder.path / "config.yaml").write_text("".join(config.splitlines(keepends=True)[:-1]))  # at the end of a line
    assert fresh() == 0
    assert (folder.config(), folder.axes()) == (config, axes)
    assert len(folder.attempts()) == 1


JOURNALS = [(STOPPED, "attempts/1/events.jsonl"), (STOPPED, "attempts/1/epochs.jsonl")]
READ_WHOLE = [(DONE, "result.json"), (DONE, "axes.json"), (STOPPED, "attempts/1/owner.json")]


def changed(value: Any) -> Iterator[Any]:
    """Return a JSON value with each of its fields in turn set to something else, or removed."""
    if isinstance(value, list):
        for place, inner in enumerate(value[:2]):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in changed(inner))
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {key: kept for key, kept in value.items() if key != name}
            yield from ({**value, name: other} for other in (None, "word", -1.5, 7, [], *changed(inner)))


def versions(path: Path) -> list[str]:
    """Return what a file might hold if one of its fields held something else."""
    text = path.read_text()
    if path.suffix == ".json":
        return [json.dumps(row) for row in changed(json.loads(text))]
    return [
        "".join(json.dumps(row) + "\n" for row in rows) for rows in changed(list(map(json.loads, text.splitlines())))
    ]


@pytest.mark.parametrize(("cell", "name"), READ_WHOLE + JOURNALS)
def test_wrong_value_of_any_field_harms_its_own_cell_alone(cell: str, name: str, said: Said) -> None:
    path, grid_dir = said.cell(cell) / name, said.runs / "small"
    found, cells = folders(grid_dir), index.read(grid_dir)
    for text in random.Random(name).sample(every := versions(path), min(len(every), 150)):
        path.write_text(text)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows = [status.judge(one, found[one.signature], status.Slurm({}, None, None)) for one in cells]
            table = run_table.load(said.runs, with_epochs=True)
        assert all(str(path) in str(warning.message) for warning in caught), text
        assert [row.standing for row in rows].count("done") >= 2 and status.totals(rows) and status.to_lines(rows), text
        assert table.runs.num_rows == 4 and table.runs["status"].to_pylist().count("done") >= 2, text
        assert all(str(path) in row.note for row in rows if row.standing == "damaged"), text


@pytest.mark.parametrize(("cell", "name"), READ_WHOLE + JOURNALS)
def test_commands_show_the_other_cells_where_a_field_is_wrong(cell: str, name: str, said: Said, tmp_path: Path) -> None:
    path = said.cell(cell) / name
    for text in random.Random(name).sample(every := versions(path), min(len(every), 8)):
        path.write_text(text)
        said("status", "--grid", "small")
        said("plan", "--grid", tmp_path / "small.yaml")
        said("table", "--grid", tmp_path / "small.yaml", "--format", "csv")
        assert "4 cells: " in said.text["status"] and "4 cells: " in said.text["plan"]
        assert all(str(path) in message for message in said.warned)


def test_result_without_a_commit_is_named_with_what_to_do(said: Said, tmp_path: Path) -> None:
    path = said.cell(DONE) / "result.json"
    path.write_text(path.read_text().replace('"commit"', '"comlit"'))
    said("status", "--grid", "small")
    said("plan", "--grid", tmp_path / "small.yaml")
    for command in ("status", "plan"):
        assert f"{path} is damaged: its provenance must be what it was made with, with its commit; got {{" in (
            said.row(command, DONE)
        )
    assert "4 cells: 1 resume, 2 keep, 1 damaged" in said.text["plan"]


def test_failure_of_a_class_that_is_not_known_here_is_one_of_the_code(said: Said, tmp_path: Path) -> None:
    folder = RunFolder(said.cell(STOPPED))
    folder.attempts()[0].event("failed", kind="most", message="of the disk")
    assert folder.state().failure_class == FailureClass.CODE
    assert folder.attempts()[0].end().kind == FailureClass.CODE
    said("status", "--grid", "small")
    said("plan", "--grid", tmp_path / "small.yaml")
    assert said.row("status", STOPPED).endswith("most: of the disk")
    assert "failed: most: of the disk" in said.row("plan", STOPPED)
