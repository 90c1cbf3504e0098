"""A campaign on a Slurm that is not there: a launch, how its jobs end, and its controllers one after the other."""

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from orchestration_fakes import FakeSlurm
from rich.console import Console
from typed_words import Options
from typed_words import launch as launch_on_slurm

from orchestration.launching import controller, launch, steps
from orchestration.launching.controller import Controller
from orchestration.machine import snapshot
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.campaign_file import Campaign
from orchestration.on_slurm.commands import SlurmError
from orchestration.on_slurm.controller_script import MAX_FAILURES
from orchestration.runs import folder_states
from orchestration.runs.attempt import Attempt
from orchestration.runs.run_folder import RunFolder, folders

SMALL = Path(__file__).parent / "orchestration/small.yaml"


class Life:
    """A grid on a Slurm of four cells, and its controllers, which begin in the order in which they were submitted."""

    def __init__(self, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        self.slurm, self.runs, self.told = slurm, tmp_path / "runs", tmp_path / "told"
        self.console = Console(width=200, record=True)
        self.settings = ("cluster.notify_command=[sh, -c, 'echo $0 >> " + str(self.told) + "']",)
        self.monkeypatch = monkeypatch

    def launch(self, **options) -> None:
        overrides = options.pop("overrides", ("trainer.device=cpu",))
        settings = (*self.settings, *options.pop("cluster_settings", ()))
        launch_on_slurm(Options(grid=str(SMALL), overrides=overrides, runs=self.runs, cluster="slurm",
                                cluster_settings=settings, **options), self.console)  # fmt: skip
        self.slurm.queued |= self.jobs("RUNNING")

    @property
    def grid_dir(self) -> Path:
        return self.runs / "small"

    @property
    def campaign(self) -> Campaign:
        return Campaign.read(min((self.grid_dir / "launches").iterdir()))

    @property
    def folder(self) -> Path:
        return self.campaign.controllers(self.grid_dir)

    def jobs(self, state: str) -> dict[str, tuple[str, str]]:
        newest = max((self.grid_dir / "launches").iterdir())
        mine = [one for folder, one in submissions.read(self.grid_dir) if folder == newest]
        return {job.number: (state, "n1") for one in mine for job in one.jobs().values()}

    def controller(self, dies: bool = False) -> int | None:
        """Run the next one that waits as its shell and its Python do, or have it die before its first line."""
        number = min(self.slurm.controllers, key=int)
        del self.slurm.controllers[number]
        if dies:
            return None
        self.monkeypatch.setenv("SLURM_JOB_ID", number)
        failures = int(self.folder.failures_file.read_text())
        self.folder.failures_file.write_text(f"{failures + 1}\n")
        if failures < MAX_FAILURES:
            self._follow(number)
        code = Controller(self.grid_dir, self.campaign.name).run()
        if code and failures < MAX_FAILURES and not self.slurm.controllers:
            self._follow(number)
            self.slurm.controllers = self.slurm.controllers or {number: {"name": self.campaign.controllers_name}}
        return code

    def _follow(self, number: str) -> None:
        for _ in range(4):
            with suppress(SlurmError):
                while len(self.slurm.controllers) < 2:
                    last = max(self.slurm.controllers, default=number, key=int)
                    commands.submit_script(self.folder.path / "controller.sh", begin_s=600, after=last)

    def cell(self, name: str) -> RunFolder:
        (found,) = (folder for folder in folders(self.grid_dir).values() if name in folder.path.name)
        return found

    def ends(self, cell: RunFolder, kind: str | None, state: str = "FAILED", campaign: str = "") -> None:
        """Have the newest job of a cell end, with an attempt of it or, without a class, before there is one."""
        job = submissions.newest_jobs(self.grid_dir)[cell.path.name]
        self.slurm.queued.pop(job.number, None)
        self.slurm.accounted[job.number] = (state, "n1")
        if kind:
            owner = {"commit": "abc", "campaign": campaign or self.campaign.name, "host": "n1", "pid": 1,
                     "process_started": 1, "slurm": {"job": job.number, "name": job.name, "restart": 0}}  # fmt: skip
            cell.claim(owner).event(
                "stopped" if kind == "preempted" else "failed", kind=kind, message="it ended", step=0
            )

    def owner_of(self, cell: RunFolder) -> dict[str, Any]:
        """Return what the newest job of a cell gives its attempts as their owner."""
        job, found = submissions.newest_jobs(self.grid_dir)[cell.path.name], submissions.newest_launches(self.grid_dir)
        task = pickle.loads((found[cell.path.name] / "jobs" / f"{job.number}_submitted.pkl").read_bytes()).function
        slurm = {"job": job.number, "name": job.name, "restart": 0, "node": "n1"}
        return {**task.owner, "host": "n1", "pid": 1, "process_started": 1, "slurm": slurm}

    def runs_out_of(self, cell: RunFolder, kind: str, step: int = 0) -> Attempt:
        """Have the newest job of a cell train it, as its own task says, until something runs out."""
        job = submissions.newest_jobs(self.grid_dir)[cell.path.name]
        attempt = cell.claim(self.owner_of(cell))
        attempt.event("started", step=0)
        self.slurm.queued.pop(job.number, None)
        self.slurm.accounted[job.number] = ("FAILED", "n1")
        attempt.event("stopped" if kind == "time limit" else "failed", kind=kind, message="it ended", step=step)
        return attempt

    def done(self, *cells: RunFolder) -> None:
        for cell in cells or folders(self.grid_dir).values():
            if cell.result() is None:
                self.slurm.queued.pop(submissions.newest_jobs(self.grid_dir)[cell.path.name].number, None)
                attempt = cell.claim({"commit": "abc", "host": "n1", "pid": 1, "process_started": 1})
                attempt.publish(RESULT)

    def said(self) -> list[str]:
        return self.told.read_text().splitlines() if self.told.exists() else []


RESULT = {"step": 2, "num_steps": 2, "epoch": 1, "num_epochs": 1, "best_miou": 0.5, "best_epoch": 1, "last_miou": 0.5,
          "best_class_iou": [0.5], "last_class_iou": [0.5], "num_present_classes": 1, "duration_s": 1.0,
          "gpu_duration_s": 0.0, "model": None}  # fmt: skip


@pytest.fixture
def life(slurm, tmp_path, monkeypatch) -> Life:
    monkeypatch.setattr(snapshot, "take", lambda grid_dir, **_: snapshot.Snapshot(grid_dir / "code", "abc", ""))
    monkeypatch.setattr(steps, "begin_mirror", lambda *_: (None, {}))  # MLflow takes seconds, and stops nothing here
    monkeypatch.setattr(launch, "mirror_of", lambda *_, **__: _oh())
    monkeypatch.setattr(controller.clock, "sleep", lambda _: None)
    monkeypatch.setattr(folder_states, "WAITS_S", ())
    monkeypatch.setattr(Controller, "_left_s", lambda _: 0.2)
    return Life(slurm, tmp_path, monkeypatch)


def _oh() -> None:
    raise ZeroDivisionError("oh")
