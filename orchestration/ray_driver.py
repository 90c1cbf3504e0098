"""The process between a launcher and Ray: starts a private Ray and has Tune run one trial for each cell."""

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from orchestration.failures import Failure, LostError
from orchestration.ray_cluster import private_ray, temp_dir
from orchestration.run_cell import record_loss, run_cell
from orchestration.schedulers import CellJob, JobState, StateLog
from orchestration.schedulers.ray_tune import ORDER, STOP_FILE

_DRIVERS = "drivers"
"""A resource of our own for trials that wait for their workers: they take no CPU from them."""


def main() -> None:
    """Carry out the order in the folder named first, as long as the launcher named second lives."""
    launch_dir, launcher_pid = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(launcher_pid,), daemon=True).start()
    order = json.loads((launch_dir / ORDER).read_text())
    jobs = [CellJob(**{**job, "cell_dir": Path(job["cell_dir"])}) for job in order["jobs"]]
    with private_ray(resources={_DRIVERS: len(jobs)}) as folder:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        machine = Machine(int(resources["CPU"]), int(resources.get("GPU", 0)))
        shares = [share(job, machine, **order["options"]) for job in jobs]
        num_at_once = max_at_once(shares, machine, order["options"]["max_concurrent"])
        _tune(shares, num_at_once, launch_dir, order["owner"], folder)


def _end_with(launcher_pid: int) -> None:
    """End this process and Ray's daemons, all of one group, once the launcher is gone; Ray's workers end with those."""
    while os.getppid() == launcher_pid:
        time.sleep(0.5)
    shutil.rmtree(temp_dir(), ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has."""

    num_cpus: int
    num_gpus: int


@dataclass(frozen=True, slots=True)
class Share:
    """A job and what each of its workers gets."""

    job: CellJob
    num_cpus: float
    num_gpus: float

    def fits(self, machine: Machine) -> int:
        """Count how many such jobs the machine holds at once."""
        cpus, gpus = self.num_cpus * self.job.num_workers, self.num_gpus * self.job.num_workers
        slack = 1e-3  # a third of a CPU, three times
        return int(min(machine.num_cpus / cpus, machine.num_gpus / gpus if gpus else machine.num_cpus / cpus) + slack)


def share(job: CellJob, machine: Machine, *, max_concurrent: int | None, num_gpus_per_worker: float) -> Share:
    """Divide the machine: what the job asks for, or less where the machine or the wanted number of cells is small.

    CPUs can be shared, so that no job waits for ever for more than there are; GPUs cannot.

    Raises:
        ValueError: More GPUs than there are.
    """
    workers = job.num_workers
    num_gpus = num_gpus_per_worker if job.device == "cuda" or (job.device == "auto" and machine.num_gpus) else 0.0
    if num_gpus * workers > machine.num_gpus:
        raise ValueError(
            f"trainer.num_workers={workers} of {job.name} needs more GPUs than the {machine.num_gpus} here"
        )
    num_cpus = min(float(job.num_cpus_per_worker), machine.num_cpus / (workers * (max_concurrent or 1)))
    return Share(job, math.floor(num_cpus * 10_000) / 10_000, num_gpus)  # Ray counts in ten thousandths


def max_at_once(shares: Sequence[Share], machine: Machine, max_concurrent: int | None) -> int:
    """Count how many cells may run at once, the largest ones too: then no cell ever waits for half of its workers."""
    return min([entry.fits(machine) for entry in shares] + ([max_concurrent] if max_concurrent else []))


def _tune(shares: Sequence[Share], num_at_once: int, launch_dir: Path, owner: dict[str, Any], storage: Path) -> None:
    """Run one trial for each job, in their order; a trial's process goes on with the next cell unless one failed."""
    space = {"share": tune.grid_search(list(shares)), "launch_dir": launch_dir, "owner": owner}
    tune.Tuner(
        tune.with_resources(_train_cell, _resources),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=num_at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name="cells", storage_path=str(storage / "tune"), verbose=0, callbacks=[_LossRecorder(launch_dir)]
        ),
    ).fit()


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """Give one worker's share to a trial that trains in its own process, none to one that starts workers."""
    entry: Share = config["share"]
    if entry.job.num_workers > 1:
        return tune.PlacementGroupFactory([{_DRIVERS: 1}])
    return tune.PlacementGroupFactory([{"CPU": entry.num_cpus, "GPU": entry.num_gpus}])


def _train_cell(config: dict[str, Any]) -> None:
    """Be a trial: train one cell and note how it ended."""
    job: CellJob = config["share"].job
    log, stop_file = StateLog(config["launch_dir"]), config["launch_dir"] / STOP_FILE
    if stop_file.exists():
        log.write(job.name, JobState.STOPPED)
        return
    log.write(job.name, JobState.RUNNING)
    from orchestration.ray_train import Grant, train_with_ray  # torch: here, and not in the process that drives

    grant = Grant(config["share"].num_cpus, config["share"].num_gpus)
    train = partial(train_with_ray, grant=grant)
    state = run_cell(job.cell_dir, train=train, owner=job.owner(config["owner"]), should_stop=stop_file.exists)
    log.write(job.name, state)
    if state is JobState.FAILED:
        raise RuntimeError(f"{job.name} failed")  # Tune then ends this process: a broken GPU context dies with it


class _LossRecorder(tune.Callback):
    """Writes down that a trial's process died, since it no longer can."""

    def __init__(self, launch_dir: Path) -> None:
        self._log = StateLog(launch_dir)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """Note the loss unless the trial noted how it ended."""
        job: CellJob = trial.config["share"].job
        if self._log.read().get(job.name, JobState.PENDING).has_ended:
            return
        error = trial.get_pickled_error() or LostError("the process that trained is gone")
        record_loss(job.cell_dir, Failure.of(error))
        self._log.write(job.name, JobState.FAILED)
