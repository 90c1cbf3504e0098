"""Data workers on machines with little shared memory, with data that do not come, and at the end of a run."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from orchestration.runs.failures import Failure, FailureClass
from rankmatch.config import (
    AugmentConfig,
    DatasetConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
    SceneConfig,
    TrainConfig,
)
from rankmatch.data import workers
from rankmatch.data.catalog import Sample, SceneDataset, open_dataset
from rankmatch.data.loaders import Batch, TrainLoader, val_loader
from rankmatch.data.splits import read_splits
from rankmatch.data.workers import DataWorkerError
from rankmatch.execution import ExecutionConfig, TrainerExecution
from rankmatch.trainer import fit

ROOT = Path(__file__).parents[3]


def config(num_data_workers: int = 1, wait_min: float = 1.0) -> TrainConfig:
    numerics = NumericsConfig(
        split="4",
        dataset=DatasetConfig(scenes=SceneConfig(num_train=12, num_val=3, size=48)),
        method=MethodConfig(name="unimatch"),
        augment=AugmentConfig(crop_size=65),
        trainer=OptimisationConfig(labeled_batch_size=4, unlabeled_batch_size=4),
    )
    trainer = TrainerExecution(num_data_workers=num_data_workers, data_wait_min=wait_min, device="cpu")
    return TrainConfig(numerics=numerics, execution=ExecutionConfig(trainer=trainer))


def loader(config: TrainConfig) -> TrainLoader:
    return TrainLoader(config, read_splits(config), open_dataset(config))


def numbers(batch: Batch) -> list[object]:
    parts = [getattr(batch, part.name) for part in fields(Batch)]
    return [part.tolist() if isinstance(part, Tensor) else part for part in parts]


def same(first: TrainConfig, second: TrainConfig) -> bool:
    pairs = zip(loader(first).epoch(0), loader(second).epoch(0), strict=True)
    views = [val_loader(read_splits(one), open_dataset(one), trainer=one.execution.trainer) for one in (first, second)]
    return all(numbers(one) == numbers(other) for one, other in pairs) and all(
        torch.equal(image, other) and torch.equal(label, other_label)
        for (image, label), (other, other_label) in zip(*views, strict=True)
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every moment whether workers live and somebody wants to stop, and wait no longer for their end."""
    monkeypatch.setattr(workers, "POLL_S", 0.1)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every image take an hour, as on a file system that does not answer."""
    monkeypatch.setattr(SceneDataset, "image", lambda *_: time.sleep(3600))


IN_LITTLE_ROOM = """
import sys, pathlib
sys.path[:0] = [{root!r}, {here!r}]
from test_workers import config, loader, same
full = pathlib.Path("/dev/shm/full")
full.write_bytes(bytes({left}))
try:
    loader(config(2)).epoch(0)
except RuntimeError as error:
    print(error)
full.unlink()
assert same(config(2), config(0))
"""


def test_batches_need_no_shared_memory_and_where_their_locks_have_no_room_that_is_said():
    """A real /dev/shm of 128 KB that is full, then empty where a batch takes 200 KB.

    Not the other way round: a worker that has not quite ended still holds pages.
    """
    room, script = 128 * 1024, IN_LITTLE_ROOM.format(root=str(ROOT), here=str(Path(__file__).parent), left=128 * 1024)
    command = f'mount -t tmpfs -o size={room} tmpfs /dev/shm && exec "$0" -c "$1"'
    isolated = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*isolated, "mount -t tmpfs tmpfs /dev/shm"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system of his own")
    done = subprocess.run([*isolated, command, sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "out of shared memory: data workers cannot be started (No space left on device), as their locks lie in "
        "/dev/shm, which has 0.0 of 0.1 MB free; trainer.num_data_workers=0 does without workers\n"
    )


@pytest.mark.parametrize("missing", [AttributeError, PermissionError(), OSError(errno.ENOSYS, "not implemented")])
def test_without_files_of_memory_batches_go_through_files_without_a_name(
    missing: Exception, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> int:
        raise missing

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert same(config(1), config(0))


def test_what_a_worker_cannot_send_is_raised_and_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        next(loader(config()).epoch(0))


@pytest.mark.usefixtures("quick", "stuck")
def test_batch_that_does_not_come_is_not_waited_for_for_ever():
    began = time.monotonic()
    with pytest.raises(
        DataWorkerError, match=r"no batch has come for 0.005 minutes \(trainer.data_wait_min\) from the"
    ) as said:
        next(loader(config(wait_min=0.005)).epoch(0))
    assert Failure.of(said.value).kind is FailureClass.DATA_WORKER
    with pytest.raises(DataWorkerError, match="no batch has come"):
        run = config(wait_min=0.005)
        list(val_loader(read_splits(run), open_dataset(run), trainer=run.execution.trainer))
    assert time.monotonic() - began < 20


@pytest.mark.usefixtures("quick")
def test_batch_that_is_late_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    draw = SceneDataset.image
    monkeypatch.setattr(SceneDataset, "image", lambda *arguments: (time.sleep(0.05), draw(*arguments))[1])
    late = [numbers(batch) for batch in loader(config()).epoch(0)]  # each takes four looks or so
    monkeypatch.undo()
    assert late == [numbers(batch) for batch in loader(config(0)).epoch(0)]


@pytest.mark.usefixtures("quick", "stuck")
def test_run_that_waits_for_data_stops_with_a_checkpoint_when_it_is_told_to(tiny_config, tmp_path: Path):
    run = tiny_config("fixmatch")
    run.numerics.dataset, run.numerics.split = config().numerics.dataset, "4"
    run.execution.trainer.num_data_workers = 1
    began = time.monotonic()
    result = fit(run, tmp_path, lambda step, row: None, should_stop=lambda: time.monotonic() > began + 1)
    assert (result.finished, result.step) == (False, 0)
    assert (tmp_path / "checkpoints/step_0").is_dir()
    assert time.monotonic() - began < 20


@pytest.mark.usefixtures("quick")
def test_evaluation_that_waits_for_data_stops_and_is_done_again(tiny_config, tmp_path: Path, monkeypatch):
    run, draw = tiny_config("fixmatch", epochs=1), SceneDataset.image
    run.numerics.dataset, run.numerics.split = config().numerics.dataset, "4"
    run.execution.trainer.num_data_workers = 1
    whole = fit(run, tmp_path / "whole", lambda step, row: None)

    def image(dataset: SceneDataset, sample: Sample) -> Image.Image:
        time.sleep(3600 if sample.image.startswith("scene:val") else 0)
        return draw(dataset, sample)

    monkeypatch.setattr(SceneDataset, "image", image)
    began = time.monotonic()
    stopped = fit(run, tmp_path / "run", lambda step, row: None, should_stop=lambda: time.monotonic() > began + 4)
    assert (stopped.finished, stopped.step, stopped.epoch) == (False, whole.num_steps, 0)
    monkeypatch.setattr(SceneDataset, "image", draw)
    assert fit(run, tmp_path / "run", lambda step, row: None) == whole


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("in_a_thread", [False, True])
def test_worker_that_is_killed_is_named(in_a_thread: bool):
    """Under Ray the training is no main thread, where torch hears of a child's end by a signal."""
    said: list[str] = []

    def run() -> None:
        batches = loader(config()).epoch(0)
        next(batches)
        try:
            os.kill(batches.worker_pids[0], signal.SIGKILL)  # on a busy machine its end is heard before this returns
            list(batches)
            list(batches)
        except RuntimeError as error:
            said.append(str(error))
        heard = None if in_a_thread else signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        del batches
        gc.collect()  # the other workers end now, at which torch's handler would name the killed one again
        if heard is not None:
            signal.signal(signal.SIGCHLD, heard)

    if in_a_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(30)
    else:
        run()
    assert "DataLoader worker (pid" in said[0]


STUCK = """
import sys, time
sys.path[:0] = [{root!r}, {here!r}]
import torch.utils.data
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
from test_workers import SceneDataset, config, loader
SceneDataset.image = lambda *_: time.sleep(3600)
batches = loader(config(2)).epoch(0)
print(*batches.worker_pids, flush=True)
time.sleep(0.5)
sys.exit(3)
"""


def test_process_ends_though_its_workers_are_stuck_and_deaf_to_sigterm():
    script = STUCK.format(root=str(ROOT), here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert not any(lives(Path("/proc") / pid) for pid in done.stdout.split())


def lives(process: Path) -> bool:
    return process.exists() and process.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
