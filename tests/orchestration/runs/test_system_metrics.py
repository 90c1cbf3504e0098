import errno
import os

import pytest
import torch
from undisturbed import wait_until

from orchestration.machine import files
from orchestration.runs import system_metrics
from orchestration.runs.folders import AttemptFolder
from orchestration.runs.system_metrics import SystemSampler, gpu

CPU = torch.device("cpu")


def test_training_process_is_looked_at_now_and_then_and_at_its_end(tmp_path):
    path = AttemptFolder(tmp_path).system_file(0)
    with SystemSampler(path, 0.2, CPU):
        wait_until(lambda: sum(range(100_000)) and path.exists() and _are_busy(files.read_lines(path)), 30)
    rows = files.read_lines(path)
    assert len(rows) >= 2
    assert list(rows[0]) == ["time", "cpu_percent", "memory_gb"]
    assert _are_busy(rows)
    assert 0.01 < rows[-1]["memory_gb"] < 100


def _are_busy(rows: list[dict[str, float]]) -> bool:
    return any(row["cpu_percent"] > 0 for row in rows)  # one alone may see less than a tick of the clock


def test_short_training_has_one_row_and_none_if_none_is_wanted(tmp_path):
    for every_s, expected in ((60.0, 1), (0.0, 0)):
        path = tmp_path / f"{every_s}.jsonl"
        with SystemSampler(path, every_s, CPU):
            pass
        assert len(files.read_lines(path)) == expected


def test_attempt_that_is_superseded_writes_none(tmp_path):
    with SystemSampler(AttemptFolder(tmp_path).system_file(0), 60.0, CPU, superseded=lambda: True):
        pass
    assert not list(tmp_path.iterdir())


def test_row_that_cannot_be_written_is_said_once_and_the_next_one_is_written(tmp_path, capsys, monkeypatch):
    path, failures = AttemptFolder(tmp_path).system_file(0), [errno.EIO, errno.EIO, errno.ENOSPC]
    append = files.append_row

    def away(*arguments):
        if failures:
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        append(*arguments)

    monkeypatch.setattr(files, "append_row", away)
    with SystemSampler(path, 0.05, CPU):
        wait_until(path.exists)
    assert files.read_lines(path)
    said = capsys.readouterr().err
    assert said.count("lacks rows") == 2
    assert said.count("Input/output error") == 1


def test_rows_go_on_where_nvml_fails(tmp_path, capsys, monkeypatch):
    def broken(device):
        raise RuntimeError("Driver/library version mismatch")

    monkeypatch.setattr(system_metrics, "gpu", broken)
    path = AttemptFolder(tmp_path).system_file(0)
    with SystemSampler(path, 60.0, CPU):
        pass
    assert [*files.read_lines(path)[0]] == ["time", "cpu_percent", "memory_gb"]
    assert "lacks what NVML says: Driver/library version mismatch" in capsys.readouterr().err


def test_gpu_of_the_process_is_read_by_its_own_number(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def answer(value):
        return lambda device: asked.append(device) or value

    for name, value in {"utilization": 87, "device_memory_used": 12_000_000_000, "power_draw": 250_000}.items():
        monkeypatch.setattr(torch.cuda, name, answer(value))
    device = torch.device("cuda", 3)
    assert gpu(device) == {"gpu_percent": 87.0, "gpu_memory_gb": 12.0, "gpu_power_w": 250.0}
    assert asked == [device] * 3
    assert gpu(CPU) == {}
