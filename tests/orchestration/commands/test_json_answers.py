import json
import sys
from datetime import UTC, datetime, timedelta

import jsonschema
import pytest
from json_schemas import all_schemas, text_of
from launcher import SMALL

from orchestration.commands import main as cli
from orchestration.commands.schema import FOLDER
from orchestration.grids import index
from orchestration.launching import launch_order
from orchestration.planning import costs, disk_space
from orchestration.running import inline
from orchestration.runs.jobs import SchedulerError
from orchestration.runs.run_folder import RunFolder


@pytest.fixture
def answer(capsys, monkeypatch):
    """Call a command as a program does; return its exit code, what stdout holds, and what stderr says."""

    def ask(*words):
        monkeypatch.setattr(sys, "argv", ["rankmatch", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return ask


def fits(document, name):
    schema = json.loads((FOLDER / f"{name}.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    kind(schema).validate(document)


def test_schemas_that_ship_are_those_of_the_code(answer):
    written = {path.stem: path.read_text() for path in FOLDER.glob("*.json")}
    assert written == {name: text_of(schema) for name, schema in all_schemas().items()}, (
        "python tests/json_schemas.py writes them again; a field may be added, but goes only with a higher SCHEMA"
    )
    for name, text in written.items():
        assert answer("schema", name) == (0, text, "")
    assert answer("schema", "table")[::2] == (2, "error: NAME must be one of plan, results, status; got 'table'\n")


def test_status_is_one_document(launched, answer):
    code, out, err = answer("status", "--grid", "small", "--runs", launched.runs, "--json")
    found = json.loads(out)
    fits(found, "status")
    assert (code, err) == (0, "")
    assert (found["schema"], found["grid"], found["folder"]) == (1, "small", str(launched.runs / "small"))
    assert found["counts"] == {"done": 4} and not found["is_open"] and found["expected_end"] is None
    first = found["cells"][0]
    assert (first["state"], first["num_attempts"], first["failure_class"]) == ("done", 1, None)
    assert first["step"] == first["num_steps"] > 0 and 0 <= first["best_miou"] <= 1
    assert abs(found["time"] - datetime.now(UTC).timestamp()) < 60


def test_status_of_a_failed_cell_has_its_class(again, answer):
    [path] = (again.runs / "small" / "cells").glob("*-rankmatch-4-s0")
    (path / "result.json").unlink()
    RunFolder(path).claim({}).event("failed", kind="loss is not finite", message="it is nan")
    found = json.loads(answer("status", "--grid", "small", "--runs", again.runs, "--json")[1])
    fits(found, "status")
    [failed] = [cell for cell in found["cells"] if cell["state"] == "failed"]
    assert (failed["failure_class"], failed["note"]) == ("loss is not finite", "loss is not finite: it is nan")


def test_plan_names_the_room_that_the_disk_lacks(tmp_path, answer, monkeypatch):
    monkeypatch.setattr(disk_space, "free_bytes", lambda runs: 1000)
    code, out, _ = answer("plan", "--grid", SMALL, "--runs", tmp_path, "--json")
    assert (code, [line for line in json.loads(out)["missing"] if "has 0.000001 GB left" in line] != []) == (0, True)


@pytest.mark.parametrize("command", [("plan",), ("launch", "--dry-run")])
def test_plan_is_one_document(command, launched, answer):
    code, out, err = answer(*command, "--grid", launched.file, "--runs", launched.runs, "seed=[0,1,2]", "--json")
    found = json.loads(out)
    fits(found, "plan")
    assert (code, err) == (0, "")
    assert (found["schema"], found["command"], found["counts"]) == (1, "plan", {"submit": 2, "keep": 4})
    due, kept = found["cells"][0], found["cells"][-1]
    assert (due["action"], due["axes"]["seed"], due["reason"]) == ("submit", "2", "new")
    assert due["estimate_s"] > 0 and (kept["action"], kept["estimate_s"]) == ("keep", 0)
    assert found["makespan_s"] <= found["total_s"] and found["gpu_hours"] is None


def test_refused_plan_is_a_document_too_with_the_reason_on_stderr(tmp_path, answer):
    words = ["--grid", "pascal_classic", "--cluster", "slurm", "--runs", tmp_path, "--budget-gpu-hours", "10"]
    code, out, err = answer("plan", *words, "--json")
    found = json.loads(out)
    fits(found, "plan")
    assert code == 2 and err.startswith("error: --budget-gpu-hours must be at least ")
    assert found["gpu_hours"] > 10 and "data_root" in " ".join(found["missing"])


def test_unknown_grid_is_an_error_on_stderr_and_no_document(tmp_path, answer):
    code, out, err = answer("status", "--grid", "nowhere", "--runs", tmp_path, "--json")
    assert (code, out) == (2, "") and err.startswith("error: --grid must be one that was launched into")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "--grid", "small", "--watch", "--json"), "--watch must be left out with --json"),
        (("launch", "--json"), "--dry-run must be given with --json"),
        (("plan", "--simulate", "--json"), "--simulate must be left out with --json"),
        (("plan", "--simulate", "--until", "2099-01-01 00:00"), "--simulate must be left out with --until"),
        (("plan", "--until", "soon"), "--until must be a date and a time to come"),
        (("results", "--energy", "--epochs", "--format", "json"), "--energy must be left out with --epochs"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, message, answer):
    code, out, err = answer(*words)
    assert (code, out) == (2, "") and message in err


def test_results_are_a_document_a_line(again, answer, tmp_path):
    words = ("results", "--runs", again.runs, "--format", "json")
    code, out, err = answer(*words)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err, len(rows)) == (0, "", 4)
    for row in rows:
        fits(row, "results")
        assert (row["schema"], row["status"]) == (1, "done") and "energy_kwh" not in row
    assert answer(*words, "-o", tmp_path / "rows.json")[0] == 0
    assert (tmp_path / "rows.json").read_text() == out
    epochs = [json.loads(line) for line in answer(*words, "--epochs")[1].splitlines()]
    assert {row["schema"] for row in epochs} == {1} and len(epochs) == 4


def test_energy_is_a_column_on_demand_where_power_was_logged(again, answer):
    [folder] = (again.runs / "small" / "cells").glob("*-supervised-4-s0")
    path = folder / "result.json"
    path.write_text(path.read_text().replace('"num_gpus": 0', '"num_gpus": 1'))
    power = '{"time": %d, "cpu_percent": 1.0, "gpu_power_w": 360000}\n'
    (folder / "attempts" / "1" / "system-0.jsonl").write_text(power % 1000 + power % 1010)
    out = answer("results", "--runs", again.runs, "--format", "json", "--energy")[1]
    rows = [json.loads(line) for line in out.splitlines()]
    for row in rows:
        fits(row, "results")
    assert {row["run"]: row["energy_kwh"] for row in rows if row["energy_kwh"]} == {f"small/cells/{folder.name}": 1.0}
    code, out, _ = answer("results", "--runs", again.runs, "--energy")
    assert code == 0 and "kWh" in out
    code, out, _ = answer("table", "--grid", "small", "--runs", again.runs, "--energy")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0 and "row kWh logged by" in lines
    assert "supervised 1 1 of 2 cells" in lines and "in all 1 1 of 4 cells" in lines
    assert answer("table", "--grid", "small", "--runs", again.runs, "--energy", "--format", "csv")[0] == 2


def test_energy_of_a_cell_that_stands_in_several_rows_is_in_each_and_once_in_all(again, answer, tmp_path):
    grid = tmp_path / "agents.yaml"
    head, _, _ = SMALL.read_text().partition("axes:")
    head = head.replace("  method.num_agents: 4\n", "  method: supervised\n  split: '4'\n")
    grid.write_text(f"{head}axes:\n  method.num_agents: [4, 8]\n  seed: [0, 1]\ntable:\n  rows: [method.num_agents]\n")
    assert answer("launch", "--grid", grid, "--runs", again.runs, "--cluster", "inline")[0] == 0
    for folder in (again.runs / "small" / "cells").glob("*-supervised-4-s*"):
        path = folder / "result.json"
        path.write_text(path.read_text().replace('"num_gpus": 0', '"num_gpus": 1'))
        row = '{{"time": {}, "cpu_percent": 1.0, "gpu_power_w": 360000}}\n'
        (folder / "attempts" / "1" / "system-0.jsonl").write_text(row.format(1000) + row.format(1010))
    code, out, _ = answer("table", "--grid", "agents", "--runs", again.runs, "--energy")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0 and {"4 2 2 of 2 cells", "8 2 2 of 2 cells", "in all 2 2 of 2 cells"} <= {*lines}, out


def test_cells_that_would_end_after_a_time_are_left_out_and_status_says_so(again, answer, monkeypatch):
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 3600.0)
    moment = datetime.now(UTC) + timedelta(minutes=10)
    by_then = ("--until", moment.strftime("%Y-%m-%d %H:%M:%SZ"))
    words = ("--grid", again.file, "--runs", again.runs, "seed=[0,1,2]", *by_then)
    found = json.loads(answer("plan", *words, "--json")[1])
    fits(found, "plan")
    assert found["counts"] == {"leave out": 2, "keep": 4} and found["makespan_s"] == 0
    assert found["until"]["time"] == pytest.approx(moment.timestamp(), abs=1)
    assert [(entry["num_done"], entry["num_cells"]) for entry in found["until"]["entries"]] == [(2, 3), (2, 3)]
    assert found["cells"][0]["end_s"] is None and "would end about" in found["cells"][0]["reason"]
    code, out, _ = answer("launch", *words, "--cluster", "inline")
    assert code == 1 and "4 of 6 cells are done, 2 are left out" in out
    assert "complete by then: 0 of 2 entries of the table" in out and "method=rankmatch split=4 (2 of 3 cells)" in out
    assert len(again.attempts()) == 4
    seen = json.loads(answer("status", "--grid", "small", "--runs", again.runs, "--json")[1])
    assert seen["counts"] == {"done": 4, "not submitted": 2}
    assert [cell["note"].partition(" would")[0] for cell in seen["cells"] if cell["state"] != "done"] == [
        "left out:"
    ] * 2
    retry = f"`rankmatch retry --grid small --runs {again.runs}`"
    assert seen["notes"] == [f"2 cells were left out by --until; {retry} trains them all the same"]
    newest = max((again.runs / "small" / "launches").iterdir())
    assert launch_order.newest_until(again.runs / "small") == json.loads((newest / "launch.json").read_text())["until"]


def test_retry_of_one_cell_leaves_the_others_to_the_time_of_the_launch(again, answer, monkeypatch):
    monkeypatch.setattr(costs, "seconds_per_step", lambda *_: 3600.0)
    moment = (datetime.now(UTC) + timedelta(minutes=10)).replace(microsecond=0)
    grid_dir, of_grid = again.runs / "small", ("--grid", "small", "--runs", again.runs)
    by_then = ("--until", moment.strftime("%Y-%m-%d %H:%M:%SZ"))
    answer("launch", "--grid", again.file, "--runs", again.runs, "seed=[0,1,2]", *by_then, "--cluster", "inline")
    first, second = [cell.folder_name for cell in index.read(grid_dir) if cell.left_out]
    answer("retry", first, *of_grid)
    seen = json.loads(answer("status", *of_grid, "--json")[1])
    assert seen["counts"] == {"done": 5, "not submitted": 1}
    retry = f"`rankmatch retry --grid small --runs {again.runs}`"
    assert seen["notes"] == [f"1 cell was left out by --until; {retry} trains it all the same"]
    assert launch_order.newest_until(grid_dir) == moment.timestamp()
    assert "5 of 6 cells are done, 1 are left out" in answer("resume", *of_grid)[1]
    assert len(again.attempts()) == 5
    with monkeypatch.context() as refusing:
        refusing.setattr(inline.InlineScheduler, "submit", refuse)
        answer("retry", *of_grid)  # asks for whatever is left, so nothing is left that the time still holds for
    assert launch_order.newest_until(grid_dir) is None
    assert not [cell for cell in index.read(grid_dir) if cell.left_out]
    assert answer("resume", *of_grid)[0] == 0 and RunFolder(grid_dir / "cells" / second).has_result()


def refuse(*_):
    raise SchedulerError("it takes no jobs today")
