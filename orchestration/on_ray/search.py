"""A search under Ray Tune: Optuna's next points become cells, and ASHA's verdicts end those that fall behind.

Tune and Optuna remember nothing between launches: each launch feeds them from the run folders.
"""

import math
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from orchestration.grids import index
from orchestration.grids.cells import Cell
from orchestration.grids.described import describe
from orchestration.grids.index import IndexedCell
from orchestration.on_ray import verdicts
from orchestration.on_ray.cluster import nodes
from orchestration.on_ray.due import Due
from orchestration.on_ray.protocol import beside
from orchestration.on_ray.shares import Share, shunned
from orchestration.on_ray.verdicts import Verdict
from orchestration.planning.costs import num_steps
from orchestration.runs.failures import Decision, FailureClass
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.patience import patiently
from orchestration.runs.retries import failed_hosts
from orchestration.runs.run_folder import RunFolder, folders, run_folder
from orchestration.search import study
from orchestration.search.spaces import Search, cells_of, point_of
from orchestration.tables.search_table import DONE, OUTPERFORMED, SETTLED, Point

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

METRIC, TIME = "miou", "epoch"
MAX_DRAWS = 100
"""So often a point is drawn again that is known already; then the spaces hold no more."""
FOLLOW_S = 0.1


@dataclass(slots=True)
class _Known:
    cell: Cell
    folder: RunFolder
    name: str
    """What Optuna's searcher calls it."""
    due: bool = False
    """Whether this launch has to train it."""
    told: int = 0
    """Epochs that Optuna knows of."""

    @property
    def point(self) -> Point:
        """Return what its run folder says."""
        found = point_of(self.cell, self.folder)
        return replace(found, status="waiting") if self.due else found

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will come of it."""
        return self.point.status in SETTLED


class Points(Searcher):
    """Gives Tune the points: first those to resume, then new ones, each with a run folder of its own."""

    def __init__(
        self, search: Search, launch_dir: Path, template: Share, due: Sequence[str], owner: dict[str, Any]
    ) -> None:
        """Read from the run folders what is known; `due` are the cells that this launch has to resume."""
        super().__init__(metric=METRIC, mode="max")
        self.launch_dir, self.owner = launch_dir, owner
        self._search, self._template, self._grid_dir = search, template, LaunchFolder(launch_dir).grid.path
        found = folders(self._grid_dir)
        self._known = []
        for place, cell in enumerate(cells_of(search, self._grid_dir)):
            folder = found[cell.signature]
            self._known.append(_Known(cell, folder, str(place), folder.path.name in due))
        self._due = Due(place for place, known in enumerate(self._known) if known.due)
        self._running: dict[str, int] = {}
        self._is_exhausted = False
        self._sampler = study.CountedSampler(search.settings.seed)
        self._optuna = OptunaSearch(
            study.distributions(search.spaces),
            metric=METRIC,
            mode="max",
            sampler=self._sampler,
            study_name=study.NAME,
            storage=study.storage_of(search, [(search.values(known.cell), known.point) for known in self._known]),
        )
        for known in self._known:
            if not known.is_settled:
                self._optuna.suggest(known.name)  # takes the one that waits in the study

    @property
    def settled(self) -> list[Point]:
        """The known points that are not trained further, in the order of their draws."""
        return [known.point for known in self._known if known.is_settled]

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401 (a configuration, a mark or None)
        """Return the next point; None: wait, as a running one may come back, or the time of one is still to come."""
        if patiently(LaunchFolder(self.launch_dir).stop_file.exists):
            return Searcher.FINISHED
        if not self._due.is_ready() and (len(self._known) >= self._search.settings.num_samples or not self._draw()):
            return None if self._running or self._due else Searcher.FINISHED
        place = self._running[trial_id] = self._due.take()
        return patiently(partial(self._config, place))

    def _config(self, place: int) -> dict[str, Any]:
        share = replace(self._template, job=replace(self._template.job, cell_dir=self._known[place].folder.path))
        return {
            "share": share,
            "launch_dir": self.launch_dir,
            "owner": self.owner,
            "shunned": shunned(share, nodes(), failed_hosts(self._known[place].folder, self.owner["campaign"])),
            "num_attempts": len(self._known[place].folder.attempts()),
            "is_judged": True,
        }

    def watch(self, has_room: Callable[[], bool]) -> None:
        """Have waiting points wait until there is room."""
        self._due.has_room = has_room

    @property
    def num_running(self) -> int:
        """How many points have a trial."""
        return len(self._running)

    def _draw(self) -> bool:
        """Draw a new point and make its run folder; false if the spaces hold no more."""
        if self._is_exhausted:
            return False
        number, signatures = len(self._known), {known.cell.signature for known in self._known}
        for attempt in range(MAX_DRAWS):
            self._sampler.begin(number, attempt)
            name = str(number) if not attempt else f"{number}.{attempt}"
            cell = self._search.cell(self._optuna.suggest(name) or {})
            if cell.signature not in signatures:
                self._add(cell, name)
                return True
            self._optuna.on_trial_complete(name, error=True)
        self._is_exhausted = True
        return False

    def _add(self, cell: Cell, name: str) -> None:
        folder = run_folder(self._grid_dir, cell.folder_name)
        patiently(lambda: describe(folder, cell))
        self._known.append(_Known(cell, folder, name, due=True))
        patiently(lambda: index.write(self._grid_dir, [self._indexed(known.cell) for known in self._known]))
        self._due.push(len(self._known) - 1)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch to Optuna."""
        place = self._running[trial_id]
        if result[TIME] > self._known[place].told:
            self._known[place].told = result[TIME]
            self._optuna.on_trial_result(self._known[place].name, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report to Optuna how a point ended; the judge decides about one that failed."""
        if error:
            return
        known = self._known[self._running.pop(trial_id)]
        known.due = False
        status = patiently(lambda: known.point.status)
        if status == DONE:
            self._optuna.on_trial_complete(known.name, result)
        elif status == OUTPERFORMED:
            self._optuna.on_trial_complete(known.name, None)  # which Optuna calls pruned

    def settle(self, trial_id: str, decision: Decision) -> None:
        """Give up a point that failed, or retry it if the decision says so."""
        place = self._running.pop(trial_id)
        if decision.again:
            self._due.push(place, decision.wait_min)
        else:
            self._known[place].due = False
            self._optuna.on_trial_complete(self._known[place].name, error=True)

    def _indexed(self, cell: Cell) -> IndexedCell:
        config = cell.config
        num_gpus = config.execution.trainer.num_workers if self._template.num_gpus else 0
        return IndexedCell(cell.signature, cell.slug, config.numerics.method.name, num_steps(config), None, num_gpus)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the run folders hold where a search resumes."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Halving(FIFOScheduler):
    """Asks ASHA after each epoch, and has its verdict written: a training that it ends leaves a checkpoint."""

    def __init__(self, search: Search, launch_dir: Path, settled: Sequence[Point]) -> None:
        """Report to ASHA the points that are already known."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._launch_dir, self._epochs = launch_dir, search.epochs
        self._asha = ASHAScheduler(
            time_attr=TIME,
            metric=METRIC,
            mode="max",
            max_t=search.epochs,
            grace_period=search.settings.grace_epochs,
            reduction_factor=search.settings.reduction_factor,
        )
        for point in settled:
            self._tell(point)

    def _tell(self, point: Point) -> None:
        trial, nobody = _named(point.cell), cast("TuneController", None)  # which ASHA does not use
        self._asha.on_trial_add(nobody, trial)
        for epoch, miou in enumerate(point.mious, 1):
            self._asha.on_trial_result(nobody, trial, _result(epoch, miou))
        self._asha.on_trial_remove(nobody, trial)

    def on_trial_add(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Add the point to ASHA under its cell's name, so that a retried point stays the same one."""
        self._asha.on_trial_add(tune_controller, _named(_name_of(trial)))

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> str:
        """Have ASHA decide, and tell the training; Tune itself never ends it, as that would leave no checkpoint."""
        action = self._asha.on_trial_result(tune_controller, _named(_name_of(trial)), result)
        stop = action == TrialScheduler.STOP and result[TIME] < self._epochs
        verdict = Verdict(result[TIME], stop)
        patiently(lambda: verdicts.write(self._launch_dir, _name_of(trial), verdict), also=[FailureClass.DISK_FULL])
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> None:
        """Have ASHA forget which bracket the point is in; what it reached stays known."""
        self._asha.on_trial_remove(tune_controller, _named(_name_of(trial)))

    def on_trial_remove(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Have ASHA forget the point's bracket, as when it completes."""
        self._asha.on_trial_remove(tune_controller, _named(_name_of(trial)))


def _name_of(trial: Trial) -> str:
    return str(trial.config["share"].job.name)


def _named(name: str) -> Any:  # noqa: ANN401 (of a trial ASHA reads the id alone)
    return SimpleNamespace(trial_id=name)


def _result(epoch: int, miou: float | None) -> dict[str, Any]:
    return {TIME: epoch, METRIC: math.nan if miou is None else miou}


def reporting_epochs(folder: RunFolder) -> AbstractContextManager[None]:
    """Report every epoch of a run folder to Tune, those of earlier attempts first, while this process trains there."""
    return beside(partial(_follow, folder))


def _follow(folder: RunFolder, ended: threading.Event) -> None:
    told, is_last = 0, False
    try:
        while not is_last:
            is_last = ended.wait(FOLLOW_S)
            for row in patiently(folder.epochs):
                if row["epoch"] > told:
                    told = row["epoch"]
                    tune.report(_result(told, row["miou"]))
    # whatever ends this thread, the training would wait forever for a verdict: so it counts as lost and is retried
    except BaseException:
        traceback.print_exc()
        os._exit(1)
