import datetime
import errno
import json
import math
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import rankmatch
from orchestration.machine import files
from orchestration.running.run_cell import (
    FencedError,
    StopCheck,
    launcher,
    launcher_is_gone,
    record_loss,
    record_never_began,
    run_cell,
)
from orchestration.runs import patience
from orchestration.runs.failures import Failure, FailureClass, LostError
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState
from rankmatch.trainer import FitResult

DONE = FitResult(finished=True, step=6, num_steps=6, epoch=2, num_epochs=2, best_miou=0.5, best_epoch=2, last_miou=0.4)


def finishes(config, attempt, resume_from, should_stop) -> FitResult:
    return DONE


def events(cell_dir: Path, number: int = 1) -> list[dict]:
    lines = (cell_dir / "attempts" / str(number) / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def ended_process() -> dict:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return {**launcher(), "pid": ended.pid, "process_started": 1}


def test_finished_cell_has_a_result_with_its_provenance(make_cell):
    cell_dir = make_cell()
    state = run_cell(cell_dir, train=finishes, owner={**launcher(), "commit": "abc"})
    result = RunFolder(cell_dir).result()
    assert state is JobState.DONE
    assert (result["best_miou"], result["step"], result["attempt"]) == (0.5, 6, 1)
    assert result["provenance"]["commit"] == "abc"
    assert result["provenance"]["numerics"] == rankmatch.NUMERICS
    assert RunFolder(cell_dir).state().status is CellState.DONE


def test_attempt_names_its_node_as_slurm_does_beside_its_host(make_cell, monkeypatch):
    cell_dir = make_cell()
    monkeypatch.setenv("SLURMD_NODENAME", "gpu-17")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-17.cluster.example")
    run_cell(cell_dir, train=finishes, owner=launcher())
    started = events(cell_dir)[0]
    assert (started["node"], started["host"]) == ("gpu-17", "gpu-17.cluster.example")


def test_published_cell_is_not_trained_again(make_cell):
    cell_dir = make_cell()
    for _ in range(2):
        assert run_cell(cell_dir, train=finishes, owner=launcher()) is JobState.DONE
    assert len(RunFolder(cell_dir).attempts()) == 1


def test_failure_is_written_down_and_does_not_escape(make_cell):
    def fails(config, attempt, resume_from, should_stop):
        raise MemoryError("too big")

    cell_dir = make_cell()
    assert run_cell(cell_dir, train=fails, owner=launcher()) is JobState.FAILED
    failed = events(cell_dir)[-1]
    assert (failed["event"], failed["kind"], failed["error"]) == ("failed", "out of host memory", "MemoryError")
    assert failed["traceback"].splitlines()[-1] == "MemoryError: too big"
    assert RunFolder(cell_dir).state().failure_class == FailureClass.HOST_MEMORY


@pytest.fixture
def file_server(monkeypatch):
    """A clock that only waiting moves, and a file server that answers with errors until a time."""
    clock = SimpleNamespace(now=0.0, until=0.0, number=errno.ESTALE)
    monkeypatch.setattr(patience.clock, "sleep", lambda wait_s: setattr(clock, "now", clock.now + wait_s))
    append = files.append_row

    def append_if_there(path, content):
        if clock.now < clock.until:
            raise OSError(clock.number, os.strerror(clock.number), str(path))
        append(path, content)

    monkeypatch.setattr(files, "append_row", append_if_there)
    return clock


def test_failure_is_written_down_when_the_file_server_is_back(make_cell, file_server):
    def is_cut_off(config, attempt, resume_from, should_stop):
        file_server.until = 60.0
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/shared/1.png")

    cell_dir = make_cell()
    assert run_cell(cell_dir, train=is_cut_off, owner=launcher()) is JobState.FAILED
    assert events(cell_dir)[-1]["kind"] == "file system"
    assert 60 <= file_server.now < 120


@pytest.mark.parametrize(("number", "waited"), [(errno.ESTALE, True), (errno.ENOSPC, False)])
def test_where_a_failure_cannot_be_written_that_is_said_and_the_next_cell_goes_on(
    number, waited, make_cell, file_server, capsys
):
    def is_cut_off(config, attempt, resume_from, should_stop):
        file_server.until, file_server.number = math.inf, number
        raise ValueError("boom")

    assert run_cell(make_cell(), train=is_cut_off, owner=launcher()) is JobState.FAILED
    assert (file_server.now > 200) is waited
    said = capsys.readouterr().err
    assert "ValueError: boom" in said and f"cannot be written: [Errno {number}]" in said


def test_damaged_configuration_is_a_failure_of_its_cell(make_cell):
    cell_dir = make_cell()
    (cell_dir / "config.yaml").write_text("numerics: {seed: -1}")
    assert run_cell(cell_dir, train=finishes, owner=launcher()) is JobState.FAILED


def test_configuration_that_is_not_that_of_the_signature_trains_nothing(make_cell):
    cell_dir = make_cell()
    path = cell_dir / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    assert run_cell(cell_dir, train=finishes, owner=launcher()) is JobState.FAILED
    assert "it is not what was written, by the config_sha256 in axes.json" in events(cell_dir)[-1]["message"]
    axes = json.loads((cell_dir / "axes.json").read_text())
    del axes["config_sha256"]  # as earlier versions wrote it
    (cell_dir / "axes.json").write_text(json.dumps(axes) + "\n")
    assert run_cell(cell_dir, train=finishes, owner=launcher()) is JobState.FAILED
    message = events(cell_dir, 2)[-1]["message"]
    assert message == f"{path} is damaged: its settings have another signature; launch the grid again"


def test_stopped_cell_goes_on_from_the_newest_checkpoint(make_cell):
    import torch

    from rankmatch import checkpoint

    seen = []

    def stops(config, attempt, resume_from, should_stop):
        seen.append(resume_from)
        if resume_from is not None:
            return DONE
        while not should_stop():
            time.sleep(0.05)
        checkpoint.save(attempt.path, 3, {"weights": torch.ones(1)}, 2)
        return FitResult(step=3)

    cell_dir = make_cell()
    told = iter([False, True])
    states = [
        run_cell(cell_dir, train=stops, owner=launcher(), should_stop=asked) for asked in (lambda: next(told), None)
    ]
    assert states == [JobState.STOPPED, JobState.DONE]
    assert seen == [None, cell_dir / "attempts" / "2" / "checkpoints" / "step_3"]
    assert [event["event"] for event in events(cell_dir)] == ["started", "stopped"]
    assert events(cell_dir, 2)[0]["step"] == 3


def test_duration_is_summed_over_attempts(make_cell, monkeypatch):
    cell_dir = make_cell()
    killed = RunFolder(cell_dir).claim(launcher())
    killed.event("started", step=0)
    (killed.path / "epochs.jsonl").write_text('{"step": 2, "epoch": 1, "duration_s": 5.0, "evaluation_s": 1.0}\n')
    stopped = RunFolder(cell_dir).claim(launcher())
    stopped.event("stopped", step=2, duration_s=10.0)
    run_cell(cell_dir, train=finishes, owner=launcher())
    assert RunFolder(cell_dir).result()["duration_s"] == pytest.approx(16.0, abs=0.9)


def test_attempt_ends_without_a_word_when_a_newer_one_begins(make_cell):
    cell_dir = make_cell()

    def overtaken(config, attempt, resume_from, should_stop):
        RunFolder(cell_dir).claim(launcher())
        StopCheck(attempt, launcher(), None)()
        raise AssertionError("it went on")

    assert run_cell(cell_dir, train=overtaken, owner=launcher()) is JobState.SUPERSEDED
    assert [event["event"] for event in events(cell_dir)] == ["started"]


def test_orphan_ends_without_a_word(make_cell):
    cell_dir = make_cell()
    assert run_cell(cell_dir, train=finishes, owner=ended_process()) is JobState.SUPERSEDED
    assert [event["event"] for event in events(cell_dir)] == ["started"]
    assert RunFolder(cell_dir).state().status is CellState.INTERRUPTED


def test_reused_process_id_is_another_launcher():
    assert not launcher_is_gone(launcher())
    assert launcher_is_gone({**launcher(), "process_started": 1})
    assert not launcher_is_gone({**launcher(), "process_started": 1, "host": "elsewhere"})


def test_stop_is_asked_once_in_its_interval_and_stays(make_cell):
    attempt = RunFolder(make_cell()).claim(launcher())
    asked = []
    patient = StopCheck(attempt, launcher(), lambda: bool(asked.append(1)), interval_s=1000)
    assert [patient() for _ in range(3)] == [False] * 3
    assert len(asked) == 1
    answers = iter([False, True, False])
    eager = StopCheck(attempt, launcher(), lambda: next(answers), interval_s=0)
    assert [eager() for _ in range(4)] == [False, True, True, True]


def test_stop_check_travels_to_another_process(make_cell, tmp_path):
    attempt = RunFolder(make_cell()).claim(launcher())
    check = StopCheck(attempt, launcher(), (tmp_path / "cancelled").exists, interval_s=0)
    copy = pickle.loads(pickle.dumps(check))
    assert not copy()
    (tmp_path / "cancelled").touch()
    assert copy()
    RunFolder(attempt.path.parents[1]).claim(launcher())
    with pytest.raises(FencedError, match="newer"):
        pickle.loads(pickle.dumps(check))()


def test_loss_of_a_process_is_written_once(make_cell):
    cell_dir = make_cell()
    RunFolder(cell_dir).claim(launcher())
    for _ in range(2):
        record_loss(cell_dir, Failure.of(LostError("killed")))
    assert [event["kind"] for event in events(cell_dir)] == ["lost"]


@pytest.mark.parametrize("off_s", [-2 * 86400, 0, 2 * 86400])
@pytest.mark.parametrize("kind", [FailureClass.NODE_FAILURE, FailureClass.CANCELLED])
def test_loss_that_others_record_is_dated_by_the_last_write_whatever_the_clock_of_the_node(kind, off_s, make_cell):
    cell_dir, now = make_cell(), time.time()
    started = datetime.datetime.fromtimestamp(now - 300 + off_s, datetime.UTC).isoformat()
    attempt = RunFolder(cell_dir).claim({**launcher(), "host": "elsewhere", "started": started})
    attempt.event("started", step=0)
    os.utime(attempt.owner_file, (now - 300, now - 300))
    os.utime(attempt.events_file, (now - 60, now - 60))
    record_loss(cell_dir, Failure(kind, "LostError", "the node elsewhere is gone", ""))
    assert attempt.events()[-1]["ended"] == attempt.end().time == pytest.approx(now - 60, abs=1)
    assert attempt.busy_s() == pytest.approx(240, abs=1)


def test_owner_names_launcher_and_training_process(make_cell):
    cell_dir = make_cell()
    run_cell(cell_dir, train=finishes, owner={**launcher(), "launch": "7"})
    owner = RunFolder(cell_dir).attempts()[0].owner()
    assert (owner["pid"], owner["training_pid"], owner["launch"]) == (os.getpid(), os.getpid(), "7")


def test_result_names_what_each_attempt_whose_steps_count_was_made_with(make_cell):
    cell_dir = make_cell()
    for first_step, commit, device in ((0, "old", "GPU A"), (2, "vain", "GPU B"), (2, "", "GPU C")):
        attempt = RunFolder(cell_dir).claim(
            {**launcher(), "provenance": {"commit": commit, "packages": {"torch": "2"}}}
        )
        attempt.event("started", step=first_step, numerics=2, host="n1")
        attempt.event("environment", device=device, torch="2")
    run_cell(cell_dir, train=finishes_from(4), owner={**launcher(), "commit": "new"})
    rows = RunFolder(cell_dir).result()["provenance"]["attempts"]
    told = [(row["attempt"], row["first_step"], row.get("commit"), row.get("device"), row["numerics"]) for row in rows]
    assert told == [(1, 0, "old", "GPU A", 2), (3, 2, None, "GPU C", 2), (4, 4, "new", None, rankmatch.NUMERICS)]
    assert RunFolder(cell_dir).state().commits == ["old", "new"]


def finishes_from(step):
    """Have an attempt find a checkpoint in its folder, as if the one before it had left that."""

    def train(config, attempt, resume_from, should_stop) -> FitResult:
        lines = (attempt.path / "events.jsonl").read_text().replace('"step": 0', f'"step": {step}')
        (attempt.path / "events.jsonl").write_text(lines)
        return DONE

    return train


def test_weights_that_an_overtaken_attempt_left_behind_go_with_the_result(make_cell):
    from rankmatch import checkpoint

    cell_dir = make_cell()
    zombie = RunFolder(cell_dir).claim(launcher())

    def overtakes(config, attempt, resume_from, should_stop) -> FitResult:
        checkpoint.save(zombie.path, 3, {}, 2, best=checkpoint.Best(1, 3, 0.5), weights={})
        checkpoint.save(attempt.path, 6, {}, 2, best=checkpoint.Best(2, 6, 0.5), weights={})
        return DONE

    assert run_cell(cell_dir, train=overtakes, owner=launcher()) is JobState.DONE
    assert [str(path.relative_to(cell_dir)) for path in cell_dir.rglob("*.pt")] == ["attempts/2/best.pt"]


def test_gpu_time_counts_the_gpus_of_each_attempt(make_cell):
    cell_dir = make_cell()
    earlier = RunFolder(cell_dir).claim(launcher())
    earlier.event("environment", num_gpus=4, device="GPU")
    earlier.event("stopped", step=2, duration_s=10.0)

    def on_two(config, attempt, resume_from, should_stop) -> FitResult:
        attempt.event("environment", num_gpus=2, device="other GPU")
        (attempt.path / "best.pt").write_bytes(b"weights")
        return DONE

    run_cell(cell_dir, train=on_two, owner=launcher())
    result = RunFolder(cell_dir).result()
    last_s = result["duration_s"] - 10.0
    assert result["gpu_duration_s"] == pytest.approx(4 * 10.0 + 2 * last_s)
    assert result["provenance"]["device"] == "other GPU"
    assert (result["model"]["path"], result["model"]["bytes"]) == ("attempts/2/best.pt", 7)


@pytest.mark.parametrize("is_linked", [True, False])
def test_job_that_comes_after_its_cell_was_dropped_makes_no_folder_of_it(make_cell, tmp_path, is_linked, capfd):
    cell_dir = make_cell()
    cell_dir.rename(tmp_path / "in the trash")
    if is_linked:
        cell_dir.symlink_to(tmp_path / "store" / cell_dir.name)
    assert run_cell(cell_dir, train=finishes, owner=launcher()) is JobState.FAILED
    record_never_began(cell_dir, launcher(), Failure(FailureClass.NEVER_BEGAN, "LostError", "it never began", ""))
    assert not cell_dir.exists() and not (tmp_path / "store").exists()
    assert capfd.readouterr().err.count("the cell was dropped, or its disk is not there") == 2
