import math
import random
from pathlib import Path

import pytest

from orchestration.search import spaces, study
from orchestration.tables.search_table import Point

FILE = Path(__file__).parents[1] / "search.yaml"


@pytest.fixture(scope="module")
def loaded() -> spaces.Search:
    return spaces.load(str(FILE), ["search.seed=3"])


def score(values: dict) -> float:
    return 0.5 - 0.1 * abs(math.log10(values["trainer.learning_rate"]) + 2)


def draw(loaded, history, number: int, attempt: int = 0) -> dict:
    sampler = study.CountedSampler(loaded.settings.seed)
    sampler.begin(number, attempt)
    return study.open_study(loaded, history, sampler).ask(study.distributions(loaded.spaces)).params


def searched(loaded, num: int) -> list:
    history: list = []
    for number in range(num):
        values = draw(loaded, history, number)
        status = "outperformed" if number % 3 == 1 else "done"
        history.append((values, Point(f"{number}-x", {}, status, (0.1, score(values)))))
    return history


def test_next_point_is_a_function_of_seed_number_and_what_is_known(loaded):
    history = searched(loaded, 14)
    assert [values for values, _ in searched(loaded, 14)] == [values for values, _ in history]
    assert draw(loaded, history, 14) == draw(loaded, list(history), 14)
    assert draw(loaded, history, 14) != draw(loaded, history, 14, attempt=1)
    better = [(values, Point(one.cell, {}, one.status, (0.1, -one.mious[1]))) for values, one in history]
    assert draw(loaded, better, 14) != draw(loaded, history, 14)  # past ten points it learns from them
    assert draw(spaces.load(str(FILE)), [], 0) != draw(loaded, [], 0)


def test_drawn_numbers_can_be_typed_and_lie_in_their_space(loaded):
    for number in range(30):
        rate = draw(loaded, [], number)["trainer.learning_rate"]
        assert rate == float(f"{rate:.4g}") and 1e-4 <= rate <= 0.1


def test_stopped_points_are_pruned_ones_and_open_ones_are_asked_for_again(loaded):
    values = {"trainer.learning_rate": 0.01, "method.top_k": 4}
    history = [
        (values, Point("a-x", {}, "done", (0.2, 0.4))),
        (values, Point("b-x", {}, "outperformed", (0.3,))),
        (values | {"method.top_k": 2}, Point("c-x", {}, "interrupted", (0.1,))),
        (values, Point("d-x", {}, "failed")),
    ]
    made = study.open_study(loaded, history)
    assert [trial.state.name for trial in made.trials] == ["COMPLETE", "PRUNED", "WAITING", "FAIL"]
    assert [trial.value for trial in made.trials] == [0.4, 0.3, None, None]
    assert made.trials[0].intermediate_values == {1: 0.2, 2: 0.4}
    assert made.ask(study.distributions(loaded.spaces)).params == values | {"method.top_k": 2}


def test_setting_that_decides_is_found(loaded):
    draws = random.Random(0)
    history = []
    for number in range(24):
        values = draw(loaded, [], number)
        noise = draws.gauss(0, 0.002)
        history.append(
            (values, Point(f"{number}-x", {}, "outperformed", (score(values) + noise, 0.9)[: 1 + number % 2]))
        )
    found = study.importance(loaded, history)
    assert (found.epoch, found.num_points) == (1, 24)
    assert found.shares["trainer.learning_rate"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)
    assert study.importance(loaded, history) == found


def test_importance_needs_points_that_differ(loaded):
    same = [({"trainer.learning_rate": 0.01, "method.top_k": 2}, Point("a-x", {}, "done", (0.3,)))] * 3
    assert study.importance(loaded, same).shares == {}
    assert study.importance(loaded, []).num_points == 0
