"""A file server that is away for a moment costs no checkpoint and no attempt."""

import errno
import os

import pytest

from orchestration.machine import files
from orchestration.machine.damage import DamageWarning
from orchestration.running.run_cell import launcher, run_cell
from orchestration.runs import attempt as attempts
from orchestration.runs import folder_states, patience, run_folder
from orchestration.runs.jobs import JobState
from orchestration.runs.run_folder import RunFolder
from orchestration.runs.states import CellState
from rankmatch import checkpoint
from rankmatch.trainer import FitResult

RESULT = {"step": 2, "num_steps": 2, "epoch": 1, "num_epochs": 1, "best_miou": 0.5, "last_miou": 0.5}
DONE = FitResult(finished=True, step=6, num_steps=6, epoch=2, num_epochs=2, best_miou=0.5, best_epoch=2, last_miou=0.4)


@pytest.fixture
def waits(monkeypatch):
    found = []
    monkeypatch.setattr(patience.clock, "sleep", found.append)
    return found


def failing(act, number, times, *, is_before=True):
    """Have a function answer with an error some times, before or after it has done its work."""
    left = [times]

    def wrapped(*args, **kwargs):
        if is_before and left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        value = act(*args, **kwargs)
        if left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return value

    return wrapped


def save(attempt, step, **named):
    return checkpoint.save(attempt.path, step, {}, 5, best=checkpoint.Best(1, step, 0.5), weights={}, **named)


def test_checkpoint_that_cannot_be_read_for_a_moment_is_no_damaged_one(make_cell, monkeypatch, waits):
    cell_dir, begun = make_cell(), []
    folder = RunFolder(cell_dir)
    save(folder.claim(launcher()), 100)
    monkeypatch.setattr(checkpoint, "sha256_of", failing(checkpoint.sha256_of, errno.ESTALE, 2))

    def train(config, attempt, resume_from, should_stop):
        begun.append(resume_from)
        return FitResult(step=100)

    assert run_cell(cell_dir, train=train, owner=launcher()) is JobState.STOPPED
    assert begun == [cell_dir / "attempts" / "2" / "checkpoints" / "step_100"]
    assert len(waits) == 2


def unreadable(monkeypatch, number, times, name="result.json"):
    """Have the files of a name answer with an error some times."""
    read, left = files.read_bytes, [times]

    def wrapped(path):
        if path.endswith(name) and left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number), path)
        return read(path)

    monkeypatch.setattr(files, "read_bytes", wrapped)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_cell_whose_file_server_is_away_is_not_damaged(number, make_cell, monkeypatch, waits, recwarn):
    folder = RunFolder(make_cell())
    folder.claim({"commit": "abc"}).publish(RESULT)
    unreadable(monkeypatch, number, 2)
    state = folder.state()
    assert state.status is CellState.UNREADABLE
    assert state.damage == f"{folder.path / 'result.json'} cannot be read for now: {os.strerror(number)}"
    with pytest.raises(OSError, match=os.strerror(number)):
        folder.look()
    assert folder.state().status == folder.look().status is CellState.DONE and not recwarn.list


def test_cell_that_nobody_may_read_is_damaged(make_cell, monkeypatch):
    folder = RunFolder(make_cell())
    folder.claim({"commit": "abc"}).publish(RESULT)
    unreadable(monkeypatch, errno.EACCES, 1)
    with pytest.warns(DamageWarning, match="cannot be read: Permission denied; nothing is done with the cell until"):
        assert folder.state().status is CellState.DAMAGED


def test_cells_that_cannot_be_read_for_a_moment_are_looked_at_again_together(make_cell, monkeypatch, waits):
    found = {seed: RunFolder(make_cell(seed=seed)) for seed in range(3)}
    for folder in found.values():
        folder.claim({"commit": "abc"}).publish(RESULT)
    with monkeypatch.context() as patch:
        unreadable(patch, errno.EIO, 5)
        assert {state.status for state in folder_states.states(found).values()} == {"done"} and waits == [1.0, 2.0]
    waits.clear()
    unreadable(monkeypatch, errno.EIO, 10**6, name=str(found[1].path / "result.json"))
    states = folder_states.states(found)  # one stays so: it keeps nobody from the others
    assert [state.status for state in states.values()] == ["done", "unreadable", "done"]
    assert sum(waits) == 15.0


def test_checkpoint_that_stays_unreadable_fails_the_attempt_and_is_kept(make_cell, monkeypatch, waits):
    cell_dir = make_cell()
    folder = RunFolder(cell_dir)
    kept = save(folder.claim(launcher()), 100)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sha256_of", failing(checkpoint.sha256_of, errno.EIO, 99))
        assert run_cell(cell_dir, train=None, owner=launcher()) is JobState.FAILED
    assert folder.state().failure_class == "file system"
    assert checkpoint.is_intact(kept) and folder.newest_checkpoint() == kept


def test_highest_step_counts_whichever_attempt_has_it(make_cell):
    folder = RunFolder(make_cell())
    first, second = folder.claim({}), folder.claim({})
    save(first, 100)
    save(second, 90)  # it was killed while it took over the older one
    assert folder.newest_checkpoint() == first.path / "checkpoints" / "step_100"


def test_checkpoint_behind_the_begin_of_a_later_attempt_is_not_resumed_from_nor_removed(make_cell):
    folder = RunFolder(make_cell())
    first, second = folder.claim({}), folder.claim({})
    kept = save(first, 100)
    second.event("started", step=0)
    save(second, 10)
    heir = folder.claim({})
    assert folder.adopt_checkpoint(heir, 5) == heir.path / "checkpoints" / "step_10"
    assert checkpoint.is_intact(kept) and (first.path / "best.pt").is_file()
    assert [path.name for path in checkpoint.newest_first(heir.path)] == ["step_10"]
    assert not (second.path / "checkpoints").exists()


def test_evaluated_checkpoint_whose_epoch_a_later_attempt_evaluates_again_does_not_count(make_cell):
    folder = RunFolder(make_cell())
    zombie, second = folder.claim({}), folder.claim({})
    before = save(second, 10, is_evaluated=False)
    second.event("started", step=10, evaluates=True)
    save(zombie, 10)
    assert folder.newest_checkpoint() == before


@pytest.mark.parametrize("times", [1, 3])
def test_claim_whose_folder_cannot_be_synced_at_once_stays_one_attempt(times, make_cell, monkeypatch, waits):
    cell_dir = make_cell()
    monkeypatch.setattr(files, "sync_folder", failing(files.sync_folder, errno.EIO, 1))
    monkeypatch.setattr(run_folder, "sync_folder", failing(run_folder.sync_folder, errno.EIO, times))
    assert run_cell(cell_dir, train=lambda *_: DONE, owner=launcher()) is JobState.DONE
    assert [attempt.number for attempt in RunFolder(cell_dir).attempts()] == [1]


def test_result_whose_folder_cannot_be_synced_at_once_is_published(make_cell, monkeypatch, waits):
    cell_dir = make_cell()

    def train(config, attempt, resume_from, should_stop):
        save(attempt, 6)
        monkeypatch.setattr(files, "sync_folder", failing(files.sync_folder, errno.EIO, 2))
        return DONE

    assert run_cell(cell_dir, train=train, owner=launcher()) is JobState.DONE
    assert attempts.Attempt(cell_dir / "attempts" / "1").events()[-1]["event"] == "started"
    assert [str(path.relative_to(cell_dir)) for path in cell_dir.rglob("*.pt")] == ["attempts/1/best.pt"]
