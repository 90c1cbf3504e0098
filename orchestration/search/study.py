"""Optuna's part in a search: draw the next point from the known ones, and compute the importance of settings.

It keeps no state: its study is rebuilt from the run folders. Draws are counted, not streamed: point n depends on the
seed, on n and on what is known by then, not on how often the search was stopped.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestration.grids.values import Value
from orchestration.search.spaces import Choices, Search, Space
from orchestration.tables.search_table import DONE, FAILED, OUTPERFORMED, Importance, Point, comparable

NAME = "search"
DIGITS = 4
"""Significant digits of a drawn number, so that it can be read and typed."""
_STATES = {DONE: TrialState.COMPLETE, OUTPERFORMED: TrialState.PRUNED, FAILED: TrialState.FAIL}


def distributions(spaces: Mapping[str, Space]) -> dict[str, BaseDistribution]:
    """Return the spaces as Optuna's distributions."""
    return {key: _distribution(space) for key, space in spaces.items()}


def _distribution(space: Space) -> BaseDistribution:
    if isinstance(space, Choices):
        return CategoricalDistribution(space.values)
    if isinstance(space.low, int):
        return IntDistribution(space.low, int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def open_study(
    search: Search,
    points: Sequence[tuple[Mapping[str, Value], Point]],
    sampler: BaseSampler | None = None,
    storage: BaseStorage | None = None,
) -> Study:
    """Build a study from points in the order of their draws; unsettled ones are queued to be drawn again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize", sampler=sampler)
    known = distributions(search.spaces)
    for values, point in points:
        if point.status not in _STATES:
            study.enqueue_trial(dict(values))
        else:
            study.add_trial(_settled(values, point, known))
    return study


def storage_of(search: Search, points: Sequence[tuple[Mapping[str, Value], Point]]) -> BaseStorage:
    """Return a storage with such a study, named `NAME`."""
    storage = InMemoryStorage()
    open_study(search, points, storage=storage)
    return storage


def _settled(values: Mapping[str, Value], point: Point, known: dict[str, BaseDistribution]) -> FrozenTrial:
    mious = {epoch: miou for epoch, miou in enumerate(point.mious, 1) if miou is not None}
    state = _STATES[point.status] if mious else TrialState.FAIL
    return create_trial(
        state=state,
        value=None if state is TrialState.FAIL else list(mious.values())[-1],
        params=dict(values),
        distributions=known,
        intermediate_values=mious,
    )


class CountedSampler(BaseSampler):
    """Optuna's TPE sampler, rebuilt for each draw with the draw's own seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.begin(0, 0)

    def begin(self, number: int, attempt: int) -> None:
        """Set the number of the next point and the attempt at drawing it; a known point is drawn again."""
        key = hashlib.blake2b(f"{self._seed} {number} {attempt}".encode(), digest_size=4).digest()
        self._sampler = TPESampler(seed=int.from_bytes(key, "little"))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `BaseSampler`."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
        drawn = self._sampler.sample_relative(study, trial, search_space)
        return {name: _rounded(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 (any value of a space)
        """See `BaseSampler`."""
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return _rounded(value, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `BaseSampler`."""
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See `BaseSampler`."""
        self._sampler.after_trial(study, trial, state, values)


def _rounded(value: Value, space: BaseDistribution) -> Value:
    if not isinstance(space, FloatDistribution):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)


def importance(search: Search, points: Sequence[tuple[Mapping[str, Value], Point]]) -> Importance:
    """Return the share of the mIoU's variance that each setting explains, by fANOVA (Hutter et al. 2014)."""
    values = {point.cell: dict(drawn) for drawn, point in points}
    pairs = comparable([point for _, point in points])
    epoch = min((len(point.mious) for point, _ in pairs), default=0)
    if len({miou for _, miou in pairs}) < 2:
        return Importance(epoch, len(pairs), {})
    study, known = open_study(search, []), distributions(search.spaces)
    for point, miou in pairs:
        study.add_trial(create_trial(value=miou, params=values[point.cell], distributions=known))
    evaluator = FanovaImportanceEvaluator(seed=search.settings.seed)
    found = get_param_importances(study, evaluator=evaluator, params=list(search.spaces))
    return Importance(epoch, len(pairs), {key: float(share) for key, share in found.items()})
