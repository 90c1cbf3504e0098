"""JSON of runs as pages and tables can take it, and logs by their ends alone."""

import tracemalloc

import pytest

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError
from orchestration.runs.run_folder import RunFolder


def test_half_characters_are_replaced_in_rows_and_in_what_is_shown_but_stay_in_paths(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"path": "/b\\udcff", "\\udcfe": ["\\ud83d\\ude00", 1]}\n')
    assert files.read_json(path) == {"path": "/b\udcff", "\udcfe": ["\U0001f600", 1]}
    assert files.read_json(path, is_shown=True) == {"path": "/b\ufffd", "\ufffd": ["\U0001f600", 1]}
    assert files.read_lines(path) == [{"path": "/b\ufffd", "\ufffd": ["\U0001f600", 1]}]
    files.append_row(path, {"message": "b\udcff"})
    assert path.read_text().splitlines()[1] == r'{"message": "b\ufffd"}'


def test_nan_and_infinity_are_null(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": NaN, "b": -Infinity, "c": 1.5}')
    assert files.read_json(path) == {"a": None, "b": None, "c": 1.5}


@pytest.mark.parametrize("is_shown", [True, False])
def test_json_nested_too_deeply_is_damage(tmp_path, is_shown):
    path = tmp_path / "a.json"
    path.write_text(r'{"a": "\udcff", "b": ' + "[" * 100_000)
    with pytest.raises(DamagedFileError, match="nested too deeply"):
        files.read_json(path, is_shown=is_shown)


def test_end_of_a_log_is_read_without_the_log(tmp_path):
    attempt = RunFolder(tmp_path / "0123456789ab-x").claim({})
    attempt.log_file.write_bytes(b"a line of sixteen\n" * 1_000_000 + b"the last\n")
    tracemalloc.start()
    tail = attempt.log_tail()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tail.splitlines() == ["a line of sixteen"] * 39 + ["the last"]
    assert peak < 1_000_000
