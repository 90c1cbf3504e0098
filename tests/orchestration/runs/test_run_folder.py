import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from orchestration.machine import files, processes
from orchestration.machine.damage import DamagedFileError
from orchestration.runs import description, recorder, run_folder
from orchestration.runs.attempt import AlreadyPublished, Attempt
from orchestration.runs.run_folder import AttemptTaken, RunFolder, folders
from orchestration.runs.states import CellState

EPOCH = {"num_epochs": 3, "num_steps": 30}
RESULT = {
    "finished": True,
    "step": 30,
    "num_steps": 30,
    "epoch": 3,
    "num_epochs": 3,
    "best_miou": 0.6,
    "best_epoch": 2,
    "last_miou": 0.5,
    "duration_s": 12.0,
    "provenance": {"torch": "2"},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "cells" / "0123456789ab-rankmatch-4-s0")
    made.create("numerics: {}\n", {"method": "rankmatch", "split": "1_16"})
    return made


def train(attempt: Attempt, first_step: int, steps: range) -> None:
    attempt.event("started", step=first_step)
    with attempt.recorder() as report:
        for step in steps:
            report(step, {"loss": step / 10})
            if step % 10 == 9:
                epoch = step // 10 + 1
                report(step, {"epoch": epoch, "miou": epoch / 10, "best_miou": epoch / 10, **EPOCH})


def claim_in_process(
    path: Path, number: int | None, start: threading.Barrier, taken: "multiprocessing.Queue[int]"
) -> None:
    start.wait()
    try:
        taken.put(RunFolder(path).claim({}, number).number)
    except AttemptTaken:
        taken.put(0)


def race(folder: RunFolder, number: int | None) -> list[int]:
    context = multiprocessing.get_context("fork")
    start, taken = context.Barrier(4), context.Queue()
    arguments = (folder.path, number, start, taken)
    processes = [context.Process(target=claim_in_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    found = sorted(taken.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    return found


def test_folder_keeps_configuration_and_axes_as_text(folder: RunFolder) -> None:
    assert folder.config() == "numerics: {}\n"
    assert json.loads((folder.path / "axes.json").read_text())["axes"] == {"method": "rankmatch", "split": "1_16"}
    assert list(folders(folder.path.parents[1])) == ["0123456789ab"]


TEXT = "numerics:\n  seed: 0\nexecution:\n  trainer: {}\n"


def test_configuration_that_lacks_lines_is_noticed_and_one_of_an_earlier_version_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(description, "_LOOKS_S", ())
    folder = RunFolder(tmp_path / "0123456789ab-x")
    folder.create(TEXT, {"seed": "0"})
    path, axes = folder.path / "config.yaml", folder.path / "axes.json"
    lines = TEXT.splitlines(keepends=True)
    for count in range(1, len(lines)):
        path.write_text("".join(lines[:count]))  # each ends with a line, and is YAML
        with pytest.raises(DamagedFileError, match=f"{path} is damaged: it is not what was written, by the config_sha"):
            folder.config()
        assert not folder.is_described()
    folder.create(TEXT, {"seed": "0"})
    assert folder.config() == TEXT
    axes.write_text(json.dumps({"schema": 1, "axes": {"seed": "0"}}))
    path.write_text(lines[0])
    assert folder.config() == lines[0] and folder.axes() == {"seed": "0"}


def test_configuration_that_a_launch_is_just_writing_anew_is_no_damaged_one(tmp_path, monkeypatch) -> None:
    folder = RunFolder(tmp_path / "0123456789ab-x")
    folder.create(TEXT, {"seed": "0"})
    changed = TEXT.replace("{}", "{num_workers: 2}")
    (folder.path / "config.yaml").write_text(changed)  # axes.json comes after it
    monkeypatch.setattr(description.clock, "sleep", lambda _: folder.create(changed, {"seed": "0"}))
    assert folder.config() == changed


def test_folder_without_an_attempt_is_missing(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.state().status == RunFolder(tmp_path / "nowhere").state().status is CellState.MISSING


@pytest.fixture(params=["links", "no links", "neither links nor locks"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file system can do; processes that are forked find the same."""
    if request.param != "links":
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    if request.param.startswith("neither"):
        monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))


def refusing(number: int) -> Callable[..., None]:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.usefixtures("file_system")
def test_one_of_four_processes_claims_an_attempt(folder: RunFolder) -> None:
    assert race(folder, 1) == [0, 0, 0, 1]
    assert [attempt.number for attempt in folder.attempts()] == [1]


@pytest.mark.usefixtures("file_system")
def test_no_two_processes_claim_the_same_attempt(folder: RunFolder) -> None:
    claimed = [number for number in race(folder, None) if number]
    assert claimed == sorted(set(claimed)) == list(range(1, len(claimed) + 1))


def test_number_of_an_earlier_attempt_is_refused(folder: RunFolder) -> None:
    first = folder.claim({})
    assert not first.superseded()
    folder.claim({}, 2)
    assert first.superseded()
    with pytest.raises(AttemptTaken):
        folder.claim({}, 1)


def test_claim_that_lost_its_process_before_the_owner_was_written_is_no_attempt(folder: RunFolder) -> None:
    (folder.path / "attempts" / "1").mkdir(parents=True)
    assert folder.attempts() == []
    assert folder.claim({}).number == 1


def test_second_result_is_refused_and_changes_nothing(folder: RunFolder) -> None:
    first, second = folder.claim({"commit": "abc"}), folder.claim({})
    first.publish(RESULT)
    before = (folder.path / "result.json").read_bytes()
    with pytest.raises(AlreadyPublished, match=r"result\.json is there already"):
        second.publish({**RESULT, "best_miou": 0.9})
    assert (folder.path / "result.json").read_bytes() == before
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "attempts",
        "axes.json",
        "config.yaml",
        "result.json",
    ]


def test_result_names_attempt_commit_and_provenance(folder: RunFolder) -> None:
    owner = {"provenance": {"commit": "abc", "split_sha256": "5", "data_fingerprint": "7"}}
    folder.claim(owner)
    folder.claim(owner).publish(RESULT)
    state = folder.state()
    assert (state.status, state.num_attempts, state.step, state.epoch) == ("done", 2, 30, 3)
    assert (state.best_miou, state.miou, state.commit) == (0.6, 0.5, "abc")
    assert state.provenance == {"commit": "abc", "split_sha256": "5", "data_fingerprint": "7", "torch": "2"}


def test_rows_that_a_later_attempt_repeats_are_dropped(folder: RunFolder) -> None:
    train(folder.claim({}), 0, range(25))
    train(folder.claim({}), 10, range(10, 30))
    assert [(row["step"], row["epoch"]) for row in folder.epochs()] == [(9, 1), (19, 2), (29, 3)]
    assert folder.steps()["step"].to_pylist() == list(range(30))
    assert folder.steps()["loss"].to_pylist() == [step / 10 for step in range(30)]


def test_epoch_row_at_the_very_step_of_the_restart_is_dropped(folder: RunFolder) -> None:
    train(folder.claim({}), 0, range(10))
    train(folder.claim({}), 9, range(9, 20))
    assert [row["step"] for row in folder.epochs()] == [9, 19]


def test_attempt_that_went_further_back_drops_rows_of_all_before_it(folder: RunFolder) -> None:
    train(folder.claim({}), 0, range(30))
    train(folder.claim({}), 20, range(20, 30))
    train(folder.claim({}), 10, range(10, 15))
    assert folder.steps()["step"].to_pylist() == list(range(15))


def test_claimed_attempt_that_has_not_started_drops_nothing(folder: RunFolder) -> None:
    train(folder.claim({}), 0, range(20))
    folder.claim({})
    assert len(folder.epochs()) == 2
    assert (folder.state().step, folder.state().miou) == (20, 0.2)


def test_torn_last_line_is_dropped(folder: RunFolder) -> None:
    attempt = folder.claim({})
    train(attempt, 0, range(20))
    with (attempt.path / "epochs.jsonl").open("ab") as file:
        file.write(b'{"step": 29, "epo')
    assert [row["epoch"] for row in folder.epochs()] == [1, 2]
    assert folder.state().epoch == 2


def test_step_rows_are_read_up_to_any_tear(folder: RunFolder) -> None:
    attempt = folder.claim({})
    train(attempt, 0, range(20))
    path = attempt.path / "steps.arrow"
    whole = path.read_bytes()
    counts = []
    for length in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:length])
        counts.append(folder.steps().num_rows)
    path.write_bytes(whole)
    assert folder.steps().num_rows == 20
    assert counts == sorted(counts)
    assert set(counts) <= {0, 10, 20}


def test_step_file_is_a_plain_arrow_stream(folder: RunFolder) -> None:
    attempt = folder.claim({})
    with attempt.recorder() as report:
        report(0, {"loss": 1.0, "mask_ratio": 0.5})
        report(1, {"loss": float("nan")})
    table = pa.ipc.open_stream((attempt.path / "steps.arrow").read_bytes()).read_all()
    assert table.schema.names == ["step", "time", "loss", "mask_ratio"]
    assert table.schema.types == [pa.int64(), *[pa.float64()] * 3]
    assert table["mask_ratio"].to_pylist() == [0.5, None]
    assert table["step"].to_pylist() == [0, 1]


def test_step_rows_wait_for_fifty_or_an_epoch(folder: RunFolder) -> None:
    report = folder.claim({}).recorder()
    for step in range(recorder.ROWS_PER_BATCH - 1):
        report(step, {"loss": 0.0})
    assert folder.steps().num_rows == 0
    report(49, {"loss": 0.0})
    assert folder.steps().num_rows == 50
    report(50, {"loss": 0.0})
    report(50, {"epoch": 1})
    assert folder.steps().num_rows == 51


def test_new_name_in_a_step_row_is_refused(folder: RunFolder) -> None:
    report = folder.claim({}).recorder()
    report(0, {"loss": 1.0})
    with pytest.raises(ValueError, match=r"must have the columns loss; got 'los'"):
        report(1, {"los": 1.0})


def test_numbers_that_json_has_not_become_null(folder: RunFolder) -> None:
    attempt = folder.claim({})
    attempt.recorder()(9, {"epoch": 1, "miou": float("nan"), "class_iou_0": None, "loss": float("inf")})
    (row,) = folder.epochs()
    assert (row["miou"], row["class_iou_0"], row["loss"]) == (None, None, None)


@pytest.mark.parametrize("name", ["epochs.jsonl", "steps.arrow"])
def test_full_disk_is_told_and_leaves_earlier_rows(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    attempt = folder.claim({})
    train(attempt, 0, range(20))
    before = (attempt.path / name).read_bytes()
    write, calls = os.write, []

    def fill_up(handle: int, content: bytes) -> int:
        calls.append(len(content))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", fill_up)
        with pytest.raises(OSError, match="No space left"):
            report = attempt.recorder()
            report(29, {"epoch": 3} if name == "epochs.jsonl" else {"loss": 1.0})
            report.close()
    assert len(calls) == 2
    assert (attempt.path / name).read_bytes() == before


def test_step_file_that_a_full_disk_left_empty_gets_its_schema_later(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = folder.claim({}).recorder()
    report(0, {"loss": 1.0})

    def fail(handle: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", fail)
        with pytest.raises(OSError, match="full"):
            report.flush()
    report.flush()
    assert folder.steps()["loss"].to_pylist() == [1.0]


def test_attempt_runs_while_its_process_lives(folder: RunFolder) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder.claim({"pid": child.pid})
    assert folder.state().status is CellState.RUNNING
    child.communicate(b"\n")
    assert folder.state().status is CellState.INTERRUPTED


def test_process_id_taken_by_another_process_is_not_the_owner(folder: RunFolder) -> None:
    start = processes.process_start(os.getpid())
    assert start is not None
    folder.claim({"pid": os.getpid(), "process_started": start - 1})
    assert folder.state().status is CellState.INTERRUPTED


def test_killed_child_that_nobody_waited_for_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.process_start(child.pid) is None
    child.wait()


def test_attempt_on_another_host_runs_until_its_lease_ends(folder: RunFolder) -> None:
    attempt = folder.claim({"host": "elsewhere", "pid": 1, "process_started": 1})
    assert folder.state().status is CellState.RUNNING
    old = folder.state().updated - run_folder.LEASE_S - 1
    for path in attempt.path.iterdir():
        os.utime(path, (old, old))
    assert folder.state().status is CellState.INTERRUPTED
    attempt.event("started", step=0)
    assert folder.state().status is CellState.RUNNING


def test_stopped_attempt_is_interrupted_and_knows_its_step(folder: RunFolder) -> None:
    attempt = folder.claim({})
    train(attempt, 0, range(13))
    attempt.event("stopped", step=13)
    state = folder.state()
    assert (state.status, state.step, state.num_steps, state.epoch, state.num_epochs) == ("interrupted", 13, 30, 1, 3)


def test_failure_is_told_by_class_and_message_until_the_next_attempt(folder: RunFolder) -> None:
    attempt = folder.claim({})
    attempt.event("started", step=0)
    attempt.event("failed", kind="disk full", error="OSError", message="No space\nleft", traceback="...")
    state = folder.state()
    assert (state.status, state.failure_class, state.failure) == ("failed", "disk full", "disk full: No space left")
    folder.claim({})
    assert (folder.state().status, folder.state().failure) == ("running", None)


def test_newest_checkpoint_is_that_of_the_newest_attempt_with_one(folder: RunFolder) -> None:
    from rankmatch import checkpoint

    first, _ = folder.claim({}), folder.claim({})
    assert folder.newest_checkpoint() is None
    checkpoint.save(first.path, 10, {}, 2)
    newest = checkpoint.save(first.path, 20, {}, 2)
    assert folder.newest_checkpoint() == newest


def test_adopted_checkpoint_stays_when_the_attempt_that_wrote_it_lives_on_and_prunes(folder: RunFolder) -> None:
    from rankmatch import checkpoint

    zombie = folder.claim({})
    checkpoint.save(zombie.path, 10, {"weights": [1.0]}, 1)
    heir = folder.claim({})
    adopted = folder.adopt_checkpoint(heir)
    assert adopted == heir.path / "checkpoints" / "step_10"
    heir.event("started", step=10)
    checkpoint.save(zombie.path, 20, {"weights": [2.0]}, 1)
    assert not (zombie.path / "checkpoints" / "step_10").exists()
    assert checkpoint.load(adopted) == {"weights": [1.0]}
    assert folder.newest_checkpoint() == adopted


def test_checkpoint_pruned_while_it_is_adopted_leaves_the_newer_one(folder: RunFolder, monkeypatch) -> None:
    from rankmatch import checkpoint

    zombie, heir = folder.claim({}), folder.claim({})
    checkpoint.save(zombie.path, 10, {}, 1)
    adopt = checkpoint.adopt

    def prunes_before(path: Path, run_dir: Path, best: Path | None = None) -> Path:
        if path.name == "step_10":
            checkpoint.save(zombie.path, 20, {}, 1)
        return adopt(path, run_dir, best)

    monkeypatch.setattr(checkpoint, "adopt", prunes_before)
    assert folder.adopt_checkpoint(heir) == heir.path / "checkpoints" / "step_20"


def test_attempt_that_took_over_the_newest_checkpoints_removes_all_earlier_ones(folder: RunFolder) -> None:
    from rankmatch import checkpoint

    first, second = folder.claim({}), folder.claim({})
    checkpoint.save(first.path, 10, {}, 2, best=checkpoint.Best(1, 10, 0.5), weights={"bias": [1.0]})
    for step in (20, 30):
        checkpoint.save(second.path, step, {}, 2, best=checkpoint.Best(2, 20, 0.6), weights={"bias": [2.0]})
    heir = folder.claim({})
    assert folder.adopt_checkpoint(heir, 2) == heir.path / "checkpoints" / "step_30"
    assert sorted(path.name for path in heir.path.glob("checkpoints/*")) == ["step_20", "step_30"]
    for attempt in (first, second):
        assert [path.name for path in attempt.path.iterdir()] == ["owner.json"]
    best = checkpoint.best_in(heir.path / "checkpoints" / "step_30")
    assert best is not None and (best.epoch, best.miou) == (2, 0.6)


def test_checkpoint_is_taken_over_where_the_file_system_has_no_hard_links(folder: RunFolder, monkeypatch) -> None:
    from rankmatch import checkpoint

    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    first, heir = folder.claim({}), folder.claim({})
    checkpoint.save(first.path, 10, {"a": 1}, 1, best=checkpoint.Best(1, 10, 0.5), weights={"bias": [1.0]})
    best = (first.path / "best.pt").read_bytes()
    adopted = folder.adopt_checkpoint(heir)
    assert adopted is not None and checkpoint.is_intact(adopted) and (adopted / "best.pt").read_bytes() == best
    checkpoint.show_best(adopted / "best.pt", heir.path)
    newest = checkpoint.save(heir.path, 20, {"a": 2}, 1, best=checkpoint.best_in(adopted))
    assert checkpoint.is_intact(newest) and (newest / "best.pt").read_bytes() == best


def test_attempt_that_was_overtaken_removes_nothing(folder: RunFolder) -> None:
    from rankmatch import checkpoint

    first, overtaken = folder.claim({}), folder.claim({})
    checkpoint.save(first.path, 10, {}, 2)
    folder.claim({})
    folder.adopt_checkpoint(overtaken)
    assert (first.path / "checkpoints" / "step_10").is_dir()


def test_checkpoint_is_found_while_another_attempt_takes_it_over(folder: RunFolder, monkeypatch) -> None:
    from rankmatch import checkpoint

    first, second = folder.claim({}), folder.claim({})
    checkpoint.save(first.path, 10, {}, 1)
    damage_of, calls = checkpoint.damage_of, []

    def moves_meanwhile(path: Path) -> str:
        calls.append(path)
        if len(calls) == 1:
            folder.adopt_checkpoint(second)
        return damage_of(path)

    monkeypatch.setattr(checkpoint, "damage_of", moves_meanwhile)
    heir = folder.claim({})
    assert folder.adopt_checkpoint(heir) == heir.path / "checkpoints" / "step_10"


def test_overtaken_attempt_writes_no_checkpoint(folder: RunFolder) -> None:
    attempt = folder.claim({})
    report = attempt.recorder()
    report.before_checkpoint()
    folder.claim({})
    with pytest.raises(recorder.FencedError, match="a newer attempt has begun"):
        report.before_checkpoint()


def test_checkpoint_of_an_earlier_version_brings_the_best_weights_beside_it(folder: RunFolder) -> None:
    from rankmatch import checkpoint

    first, second = folder.claim({}), folder.claim({})
    (first.path / "best.pt").write_bytes(b"weights")
    checkpoint.save(second.path, 10, {}, 1)
    adopted = folder.adopt_checkpoint(folder.claim({}))
    assert adopted is not None and (adopted / "best.pt").read_bytes() == b"weights"


def test_replaced_file_is_never_seen_half(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", ["a" * 100_000, "b" * 100_000]
    files.replace(path, texts[0])
    writer = threading.Thread(target=lambda: [files.replace(path, texts[i % 2]) for i in range(50)])
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(path.read_text())
    writer.join()
    assert seen <= set(texts)
    assert list(tmp_path.iterdir()) == [path]


def test_run_folder_is_read_without_this_project(launched) -> None:
    """As docs/run_folder.md says, by json and pyarrow alone, in a process that can import nothing else of ours."""
    (cell, *_) = sorted((launched.runs / "small" / "cells").iterdir())
    page = (Path(__file__).resolve().parents[3] / "docs" / "run_folder.md").read_text()
    example = page.rpartition("```python\n")[2].partition("```")[0]
    told = "import sys\nprint(json.dumps([result, rows, steps.to_pylist()]))\n"
    told += "assert not {'orchestration', 'rankmatch', 'torch', 'mlflow'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", example + told], cwd=cell, capture_output=True, text=True, check=True
    )
    result, rows, steps = json.loads(done.stdout)
    known = ("best_miou", "model", "gpu_duration_s", "provenance")
    assert result["schema"] == 1 and all(name in result for name in known)
    documented = ("commit", "dirty", "lock_sha256", "data_fingerprint", "split_sha256", "device", "driver", "torch",
                  "cuda", "precision", "world_size", "seed", "num_threads", "host", "packages")  # fmt: skip
    assert [name for name in documented if name not in result["provenance"]] == []
    assert all(name in page for name in (*known, *documented))
    assert [row["miou"] for row in rows] == [result["last_miou"]]
    assert [row["step"] for row in steps] == [0]
