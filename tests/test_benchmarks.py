"""The benchmarks run and say what they mean; what they measure is asserted nowhere."""

import json

import pytest
from benchmarks import harness
from typer.testing import CliRunner

from orchestration.commands import bench
from orchestration.commands import main as cli

FIELDS = {"name", "ours", "reference", "ratio", "unit", "limit_share", "peak_mb", "note"}


def test_ratio_is_of_runs_taken_in_turns():
    turns = []
    taken = harness.interleaved({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 2)
    assert turns == ["a", "b"] * 3  # the first pair warms up
    assert {name: len(runs) for name, runs in taken.items()} == {"a": 2, "b": 2}


def test_row_gives_time_for_each_thing_and_reference_over_ours(monkeypatch):
    clock = [0.0]

    def takes(seconds):
        return lambda: clock.append(clock[-1] + seconds)

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[-1])
    row = harness.compare("sleep", takes(0.01), takes(0.04), 3, per=2, unit="ms")
    assert (row.ours, row.reference, row.ratio) == pytest.approx((5, 20, 4))
    assert set(json.loads(harness.to_json([row]))[0]) == FIELDS


def test_peak_memory_is_that_of_the_run_alone():
    assert harness.peak_mb("harness", "allocation", "200") == pytest.approx(200, rel=0.05)


def test_unknown_part_is_named():
    known = "step, data, loss, eval, grid, dashboard, report, cells"
    with pytest.raises(ValueError, match=f"bench must be one of {known}; got 'speed'"):
        list(harness.measure(["speed"], harness.Settings()))


def test_without_a_checkout_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TESTS", tmp_path)
    done = CliRunner().invoke(cli.app, ["bench"])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith("rankmatch bench must be run from a checkout")


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("grid", {"grid_plan", "grid_status", "logging", "logging_server_down"}),
        ("loss", {"rank_loss"}),
        ("cells", {"cell_inline"}),
    ],
)
def test_command_writes_the_rows_of_a_part(part, names, tmp_path):
    file = tmp_path / "rows.json"
    done = CliRunner().invoke(cli.app, ["bench", part, "--tiny", "--repeats", "1", "--json", str(file)])
    assert done.exception is None, done.output
    rows = json.loads(file.read_text())
    assert names <= {row["name"] for row in rows}
    assert all(set(row) == FIELDS for row in rows)
    assert all(row["ratio"] == pytest.approx(row["reference"] / row["ours"], rel=1e-6) for row in rows)
