"""What the files of an attempt say of it, and what the state of a cell takes from them."""

import dataclasses
import datetime
import json
import math
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from orchestration.machine import clock, processes
from orchestration.machine.damage import DamagedFileError, DamageWarning
from orchestration.runs import checkpoints, unpredicted
from orchestration.runs.attempt import Attempt, node_of, steps_to_leave_out, trained_on
from orchestration.runs.failures import AttemptEnd, FailureClass
from orchestration.runs.requests import Request
from orchestration.runs.run_folder import AttemptTaken, FolderState, RunFolder, run_folder
from orchestration.runs.states import CellState
from rankmatch import checkpoint
from rankmatch.hashing import sha256_of

ASKED = Request(workers=2, mem_gb_per_worker=4.0, time_min=60)
OWNER = {
    "commit": "abc", "campaign": "l", "grid": "g", "host": "elsewhere", "pid": 1, "process_started": 1,
    "started": "2026-11-29T04:00:00+00:00", "provenance": {"split_sha256": "5"},
    "slurm": {"job": "7", "restart": 1, "node": "n1", "nodes": "n[1-2]"},
}  # fmt: skip
BEGUN = 1795924800.0
"""The time at which that owner claimed."""
DAY = 24 * 3600
EPOCH = {"step": 9, "epoch": 2, "num_epochs": 3, "num_steps": 15, "miou": 0.4, "best_miou": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "g" / "cells" / "0123456789ab-rankmatch-4-s0")
    made.create("numerics: {}\n", {"method": "rankmatch"})
    return made


def write(path: Path, *rows: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def replaced(path: Path, content: bytes) -> None:
    """Put another file where one is that other folders link to."""
    path.unlink()
    path.write_bytes(content)


def happens(attempt: Attempt, *events: dict[str, object]) -> None:
    """Write events with their own times; the last write is then at 500 s."""
    write(attempt.events_file, *events)
    for path in attempt.path.iterdir():
        os.utime(path, (500.0, 500.0))


def test_state_of_a_cell_says_all_that_its_newest_attempt_wrote(folder: RunFolder) -> None:
    folder.claim({**OWNER, "commit": "old", "grid": "other"})
    attempt = folder.claim({**OWNER, **ASKED.to_owner()})
    write(attempt.epochs_file, {**EPOCH, "class_iou_0": 0.001, "class_iou_1": 0.5})
    happens(attempt, {"event": "started", "time": 100.0, "step": 3, "host": "worker"})
    assert folder.state() == FolderState(
        status=CellState.INTERRUPTED,
        num_attempts=2,
        step=10,
        num_steps=15,
        epoch=2,
        num_epochs=3,
        miou=0.4,
        best_miou=0.5,
        commit="abc",
        host="worker",
        grid="g",
        job="7",
        updated=500.0,
        provenance={"split_sha256": "5"},
        unpredicted=(0,),
    )
    happens(attempt, {"event": "stopped", "time": 100.0, "step": 12})
    assert (folder.state().step, folder.state().host) == (12, "elsewhere")


def test_state_of_a_finished_cell_says_all_that_its_result_does(folder: RunFolder) -> None:
    attempt = folder.claim({**OWNER, "provenance": {"commit": "abc", "host": "worker"}})
    result = {
        "step": 15, "num_steps": 15, "epoch": 3, "num_epochs": 3, "last_miou": 0.4, "best_miou": 0.5,
        "duration_s": 12.5, "steps_left_out": [4], "last_class_iou": [0.5, 0.001, None],
    }  # fmt: skip
    attempt.publish(result)
    os.utime(folder.result_file, (700.0, 700.0))
    expected = FolderState(
        status=CellState.DONE, num_attempts=1, step=15, num_steps=15, epoch=3, num_epochs=3, miou=0.4, best_miou=0.5,
        commit="abc", host="worker", grid="g", duration_s=12.5, updated=700.0, steps_left_out=(4,), unpredicted=(1,),
        provenance={"commit": "abc", "host": "worker", "grid": "g"},
    )  # fmt: skip
    assert folder.state() == expected
    least = {key: result[key] for key in ("step", "num_steps", "epoch", "last_miou", "best_miou")}
    folder.result_file.write_text(json.dumps({**least, "attempt": 1, "provenance": {"commit": "abc"}}))
    os.utime(folder.result_file, (700.0, 700.0))
    assert folder.state() == dataclasses.replace(
        expected, num_epochs=None, host="", grid="", duration_s=0.0, steps_left_out=(), unpredicted=(),
        provenance={"commit": "abc"},
    )  # fmt: skip


def test_text_of_result_and_owner_can_be_printed_whatever_was_written(folder: RunFolder) -> None:
    """A name of bytes that are no text comes as half a character, which no file or terminal takes."""
    folder.claim({**OWNER, "commit": "half \udcff"})
    assert folder.state().commit.encode().startswith(b"half ")
    written = {"attempt": 1, "step": 1, "num_steps": 1, "epoch": 1, "last_miou": None, "best_miou": None}
    folder.result_file.write_text(json.dumps({**written, "provenance": {"commit": "half \udcff"}}))
    assert folder.state().commit.encode().startswith(b"half ")


def test_host_and_node_of_which_nothing_is_known_are_empty() -> None:
    assert trained_on({}, []) == node_of({}, [{"event": "started", "node": None}]) == ""


@pytest.mark.parametrize("event", ["failed", "stopped"])
def test_verdict_of_a_search_is_said_as_a_failure_is(folder: RunFolder, event: str) -> None:
    attempt = folder.claim(OWNER)
    attempt.event(event, kind=FailureClass.OUTPERFORMED, message="below\nthe median")
    state = folder.state()
    assert state.status is (CellState.FAILED if event == "failed" else CellState.INTERRUPTED)
    assert state.failure == f"{FailureClass.OUTPERFORMED}: below the median"
    assert state.failure_class == FailureClass.OUTPERFORMED
    attempt.event("stopped", kind=FailureClass.PREEMPTED, message="")
    assert (folder.state().failure, folder.state().failure_class) == (None, None)


def test_end_of_an_attempt_says_all_that_the_policy_asks(folder: RunFolder) -> None:
    attempt = folder.claim({**OWNER, **ASKED.to_owner()})
    write(attempt.epochs_file, EPOCH)
    happens(
        attempt,
        {"event": "started", "time": 100.0, "step": 4, "host": "worker"},
        {"event": "failed", "time": 300.0, "kind": "out of host memory", "ended": 200.0},
    )
    expected = AttemptEnd(
        kind=FailureClass.HOST_MEMORY, first_step=4, last_step=4, node="n1", nodes="n[1-2]", host="worker",
        time=200.0, noted=300.0, is_told=True, asked=ASKED, has_epoch=True,
    )  # fmt: skip
    assert attempt.end() == expected == folder.ends("l")[0]
    assert attempt.end(next_step=8) == dataclasses.replace(expected, last_step=8)
    assert folder.ends("another") == []


def test_end_of_an_attempt_that_says_nothing_is_its_last_write(folder: RunFolder) -> None:
    attempt = folder.claim({name: value for name, value in OWNER.items() if name != "slurm"})
    happens(attempt, {"event": "started", "time": 100.0, "step": 0})
    assert attempt.end() == AttemptEnd(
        kind=FailureClass.LOST, first_step=0, last_step=0, node="elsewhere", nodes="", host="elsewhere",
        time=500.0, noted=0.0, is_told=False, asked=None, has_epoch=False,
    )  # fmt: skip


def test_end_without_a_time_of_its_own_is_when_it_was_written_down(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    happens(attempt, {"event": "failed", "time": BEGUN + 300, "kind": "lost"})
    assert (attempt.ended(), attempt.end().time, attempt.end().noted) == (BEGUN + 300,) * 3
    assert (attempt.begun(), attempt.busy_s()) == (BEGUN, 300.0)


def test_time_that_attempts_took_is_summed_and_none_is_below_zero(folder: RunFolder) -> None:
    first, second = folder.claim(OWNER), folder.claim(OWNER)
    happens(first, {"event": "failed", "time": BEGUN + 300, "kind": "lost"})
    happens(second, {"event": "failed", "time": BEGUN - 60, "kind": "lost"})  # by a clock that is behind
    third = folder.claim(OWNER)
    third.owner_file.write_text("{")
    with pytest.warns(DamageWarning, match=r"3/owner\.json is damaged"):
        assert folder.busy_s() == 300.0
    assert third.begun() is None


@pytest.mark.parametrize(
    "last",
    [
        {"event": "stopped", "time": BEGUN + 3 * DAY + 36000, "kind": "preempted"},
        {"event": "failed", "time": BEGUN + 50000, "kind": "lost", "ended": BEGUN + 36000},
        {"event": "started", "time": BEGUN + 3 * DAY, "step": 0},
    ],
    ids=["its own word", "found later", "last write"],
)
def test_time_that_an_attempt_took_is_right_on_a_node_whose_clock_is_days_ahead(
    folder: RunFolder, last: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: BEGUN + 36000)
    attempt = folder.claim(OWNER | {"started": "2026-12-02T04:00:00+00:00"})
    write(attempt.events_file, last)
    os.utime(attempt.owner_file, (BEGUN, BEGUN))
    os.utime(attempt.events_file, (BEGUN + 36000, BEGUN + 36000))
    assert (attempt.begun(), attempt.busy_s()) == (BEGUN + 3 * DAY, 36000.0)
    assert attempt.ended() == attempt.end().time == BEGUN + 36000


def test_first_step_without_its_event_is_the_lowest_row(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    assert (attempt.first_step(), attempt.first_epoch_row()) == (None, None)
    with attempt.recorder() as report:
        for step in (7, 8, 9):
            report(step, {"loss": 1.0})
        report(9, {key: value for key, value in EPOCH.items() if key != "step"})
    assert (attempt.first_step(), attempt.first_epoch_row()) == (7, 9)
    attempt.event("started", step=8, evaluates=True)
    attempt.event("started", step=5)
    assert (attempt.first_step(), attempt.first_epoch_row()) == (8, 7)
    assert attempt.first_step([]) == 7


def test_environment_is_the_last_one_that_was_noted(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    assert attempt.environment() == {}
    for device in ("cpu", "cuda"):
        attempt.event("environment", device=device, num_gpus=1)
    attempt.event("stopped", step=1)
    assert attempt.environment() == {"device": "cuda", "num_gpus": 1}


def test_rows_of_machine_use_are_by_worker(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    for worker in (1, 0):
        write(attempt.system_file(worker), {"time": 1.0, "cpu": worker}, {"cpu": 5})
    with pytest.warns(DamageWarning, match="line 2 cannot be read and is left out"):
        assert [*attempt.system().items()] == [(0, [{"time": 1.0, "cpu": 0}]), (1, [{"time": 1.0, "cpu": 1}])]


def test_log_has_each_line_with_its_time_and_ends_with_the_last_ones(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    assert attempt.log_tail() == ""
    for number in range(50):
        attempt.say(f"epoch {number}")
    assert [line.partition("  ")[2] for line in attempt.log_tail(2).splitlines()] == ["epoch 48", "epoch 49"]
    assert len(attempt.log_tail().splitlines()) == 40
    attempt.log_file.unlink()
    attempt.log_file.mkdir()
    attempt.say("nowhere")  # the log only informs


def test_epoch_rows_that_are_none_are_left_out_of_rows_and_state_and_named(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    write(attempt.epochs_file, {**EPOCH, "step": 4, "epoch": 1}, EPOCH, {**EPOCH, "epoch": "3"}, {"epoch": 3})
    with pytest.warns(DamageWarning, match=r"epochs\.jsonl: lines 3, 4 cannot be read and are left out"):
        assert [row["epoch"] for row in attempt.epochs()] == [1, 2]
    assert (folder.state().epoch, folder.state().step) == (2, 10)


def test_log_says_each_epoch_and_advises_once_where_a_class_is_missed(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    with attempt.recorder(["sky", "road"]) as report:
        for epoch, iou in ((1, 0.5), (2, 0.001), (3, 0.001)):
            report(5 * epoch - 1, {**EPOCH, "step": 5 * epoch - 1, "epoch": epoch, "class_iou_1": iou})
    said = [line.partition("  ")[2] for line in attempt.log_tail().splitlines()]
    warning = "warning: it almost never predicts class 'road' where it is (IoU below 1 %)"
    assert [line[:9] for line in said[::2]] == ["epoch 1/3", "warning: ", "warning: "]
    assert said[2:] == [f"{warning}; {unpredicted.ADVICE}", said[3], warning] and said[3].startswith("epoch 3/3")


def test_step_to_leave_out_is_only_one_that_the_next_attempt_may_pass_over(folder: RunFolder) -> None:
    first, second, third = (folder.claim(OWNER) for _ in range(3))
    first.bad_step_file.write_text(json.dumps({"step": 4, "leave_out": True}))
    second.bad_step_file.write_text(json.dumps({"step": 5, "leave_out": False}))
    assert steps_to_leave_out([first, second, third]) == [4]
    third.bad_step_file.write_text(json.dumps({"step": "6", "leave_out": True}))
    with pytest.raises(DamagedFileError, match="`rankmatch drop` the cell to train it again"):
        third.step_to_leave_out()


def test_claim_that_is_repeated_finds_its_attempt_and_no_other_does(folder: RunFolder) -> None:
    first, second = folder.claim({**OWNER, "claim": "a"}), folder.claim({**OWNER, "claim": "b"})
    assert folder.claim({**OWNER, "claim": "a"}, 1).path == first.path
    assert folder.claim({**OWNER, "claim": "b"}).path == second.path
    assert folder.claim({**OWNER, "claim": "c"}).number == 3
    assert [folder.claim(OWNER).number for _ in range(2)] == [4, 5]
    with pytest.raises(AttemptTaken, match="attempts/2 is claimed already"):
        folder.claim({**OWNER, "claim": "d"}, 2)


def test_cell_is_trained_for_another_grid_only_while_that_one_runs(folder: RunFolder) -> None:
    assert not folder.is_trained_for_another("g")
    folder.claim({"grid": "g"})
    assert folder.is_trained_for_another("other")
    assert not folder.is_trained_for_another("g") and not folder.is_trained_for_another("")
    folder.claim({"grid": "g"}).event("stopped", step=1)
    assert not folder.is_trained_for_another("other")
    folder.claim({})  # of an earlier version, which named none
    assert not folder.is_trained_for_another("other")


def test_folder_of_a_name_is_below_its_grid_there_or_not(folder: RunFolder, tmp_path: Path) -> None:
    assert run_folder(tmp_path / "g", folder.path.name).path == folder.path
    assert run_folder(tmp_path / "g", "fedcba987654-x").path == tmp_path / "g" / "cells" / "fedcba987654-x"


def test_rows_after_a_step_are_those_of_later_ones(folder: RunFolder) -> None:
    with folder.claim(OWNER).recorder() as report:
        for step in range(4):
            report(step, {"loss": 1.0})
    assert [row["step"] for row in folder.steps_after(1)] == [2, 3]
    assert folder.steps_after(3) == []


def test_commits_of_a_cell_are_those_of_all_its_epochs_once_it_is_done() -> None:
    made = {"commit": "b", "attempts": [{"commit": "a"}, {"commit": "b"}]}
    assert FolderState(CellState.DONE, commit="b", provenance=made).commits == ["a", "b"]
    assert FolderState(CellState.RUNNING, commit="b").commits == ["b"]
    assert FolderState(CellState.MISSING).commits == []


def test_owner_has_what_readers_rely_on_whatever_it_was_given(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "utc", lambda: datetime.datetime(2026, 11, 29, 4, 0, 0, 9, tzinfo=datetime.UTC))
    own = folder.claim({"provenance": {"commit": "abc"}}).owner()
    assert (own["commit"], own["started"], own["pid"]) == ("abc", "2026-11-29T04:00:00+00:00", os.getpid())
    assert (own["host"], own["process_started"]) == (socket.gethostname(), processes.process_start(os.getpid()))
    others = folder.claim({"pid": 1, "commit": "def", "provenance": {"commit": "abc"}, "host": "n1"}).owner()
    assert (others["commit"], others["pid"], others["host"]) == ("def", 1, "n1")
    assert folder.claim({}).owner()["commit"] == ""


def test_attempt_takes_over_the_newest_checkpoint_alone_unless_more_are_asked_for(folder: RunFolder) -> None:
    for num_kept, steps in ((None, [30]), (2, [20, 30]), (9, [10, 20, 30])):
        made = RunFolder(folder.path.with_name(f"aaaaaaaaaaaa-{num_kept}"))
        for step in (10, 20, 30):
            checkpoint.save(made.claim(OWNER).path if step == 10 else made.attempts()[0].path, step, {}, 3)
        heir = made.claim(OWNER)
        made.adopt_checkpoint(heir) if num_kept is None else made.adopt_checkpoint(heir, num_kept)
        assert sorted(path.name for path in heir.checkpoints_dir.iterdir()) == [f"step_{step}" for step in steps]


def test_log_can_be_read_by_all_and_run_by_none(folder: RunFolder) -> None:
    attempt, before = folder.claim(OWNER), os.umask(0)
    try:
        attempt.say("begun")
    finally:
        os.umask(before)
    assert stat.S_IMODE(attempt.log_file.stat().st_mode) == 0o644


def test_finished_attempt_keeps_so_many_checkpoints(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    checkpoints.settle(attempt, 0)  # there is none
    for step in (10, 20, 30):
        checkpoint.save(attempt.path, step, {}, 3)
    for num_kept, left in ((3, 3), (2, 2), (1, 1), (0, 0)):
        checkpoints.settle(attempt, num_kept)
        assert checkpoints.num_of(attempt) == left
    assert not attempt.checkpoints_dir.exists()


def test_checkpoints_that_their_own_attempt_prunes_meanwhile_are_discarded_with_those_that_stay(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    zombie = folder.claim(OWNER)
    for step in (10, 20, 30, 40):
        checkpoint.save(zombie.path, step, {}, 4)
    newest_first = checkpoint.newest_first

    def prunes_behind(run_dir: Path) -> list[Path]:
        found = newest_first(run_dir)
        shutil.rmtree(run_dir / "checkpoints" / "step_20", ignore_errors=True)
        return found

    monkeypatch.setattr(checkpoint, "newest_first", prunes_behind)
    checkpoints.discard([zombie], up_to=zombie.checkpoints_dir / "step_30")
    assert [path.name for path in zombie.checkpoints_dir.iterdir()] == ["step_40"]
    checkpoints.discard([zombie, folder.claim(OWNER)])
    assert not zombie.checkpoints_dir.exists()


def test_weights_of_a_result_are_brought_back_from_whichever_attempt_has_them(folder: RunFolder) -> None:
    first, second = folder.claim(OWNER), folder.claim(OWNER)
    checkpoint.save(second.path, 10, {}, 1, best=checkpoint.Best(1, 10, 0.5), weights={"bias": [1.0]})
    held = next(second.checkpoints_dir.glob("*/best.pt"))
    model = {"path": "attempts/1/best.pt", "sha256": sha256_of(held), "bytes": held.stat().st_size}
    replaced(second.best_file, b"other weights")
    attempts = [first, second]
    assert checkpoints.keep_weights(folder.path, {"attempt": 1, "model": model}, attempts)
    assert sha256_of(first.best_file) == model["sha256"]
    replaced(first.best_file, b"x" * held.stat().st_size)
    assert checkpoints.keep_weights(folder.path, {"attempt": 1, "model": model}, attempts)
    assert sha256_of(first.best_file) == model["sha256"]
    first.best_file.unlink()
    held.unlink()
    assert not checkpoints.keep_weights(folder.path, {"attempt": 1, "model": model}, attempts)


def test_result_that_names_no_weights_has_them_if_no_epoch_counted_or_beside_its_attempt(folder: RunFolder) -> None:
    attempt = folder.claim(OWNER)
    assert checkpoints.keep_weights(folder.path, {"attempt": 1, "model": None}, [attempt])
    assert not checkpoints.keep_weights(folder.path, {"attempt": 1}, [attempt])
    attempt.best_file.write_bytes(b"weights")
    assert checkpoints.keep_weights(folder.path, {"attempt": 1}, [attempt])


@pytest.mark.parametrize(("is_evaluated", "counts"), [(True, False), (False, True)])
def test_checkpoint_whose_evaluation_the_next_attempt_repeats_does_not_count(
    folder: RunFolder, is_evaluated: bool, counts: bool
) -> None:
    """The second attempt began with the evaluation of the epoch at whose end it was."""
    first, second = folder.claim(OWNER), folder.claim(OWNER)
    first.event("started", step=0)
    found = checkpoint.save(first.path, 10, {}, 1, is_evaluated=is_evaluated)
    second.event("started", step=10, evaluates=True)
    assert folder.newest_checkpoint() == (found if counts else None)


def test_step_rows_end_where_a_later_attempt_began_and_epoch_rows_before_its_evaluation(folder: RunFolder) -> None:
    first, second = folder.claim(OWNER), folder.claim(OWNER)
    first.event("started", step=0)
    second.event("started", step=10, evaluates=True)
    limits = [[limit for _, limit in folder.attempts_with_limits(of_epochs=given)] for given in (False, True)]
    assert limits == [[10, math.inf], [9, math.inf]]


@pytest.mark.parametrize("off", [-3 * DAY, -3600, 0, 3600, 3 * DAY])
@pytest.mark.parametrize(
    "last",
    [
        {"event": "started", "time": BEGUN, "step": 0},
        {"event": "failed", "time": BEGUN + 50000, "kind": "lost", "ended": BEGUN + 7200},
    ],
    ids=["last write", "found later"],
)
def test_time_that_an_attempt_took_does_not_depend_on_the_clock_of_its_node(
    folder: RunFolder, last: dict[str, object], off: float
) -> None:
    attempt = folder.claim(OWNER | {"started": datetime.datetime.fromtimestamp(BEGUN + off, datetime.UTC).isoformat()})
    write(attempt.events_file, last)
    os.utime(attempt.owner_file, (BEGUN, BEGUN))
    os.utime(attempt.events_file, (BEGUN + 7200, BEGUN + 7200))
    assert attempt.busy_s() == 7200.0


@pytest.mark.parametrize("off", [-3 * DAY, -3600, 3600])
def test_time_that_an_attempt_took_is_by_its_own_word_also_where_others_have_said_more_of_its_end(
    folder: RunFolder, off: float
) -> None:
    attempt = folder.claim(OWNER | {"started": datetime.datetime.fromtimestamp(BEGUN + off, datetime.UTC).isoformat()})
    end = {"event": "failed", "time": BEGUN + off + 7200, "kind": "lost"}
    write(attempt.events_file, end, {**end, "time": BEGUN + 50000, "kind": "node failure", "ended": end["time"]})
    os.utime(attempt.owner_file, (BEGUN, BEGUN))
    assert attempt.busy_s() == 7200.0
