"""What `make test-mutants` tries, and how it counts; mutmut itself is no part of `make test`."""

import pytest
from mutation import ROOT, Outcome, sample, settings, table


@pytest.mark.parametrize("area", settings()["areas"])
def test_every_module_and_test_that_is_named_is_there(area):
    named = settings()["areas"][area]
    assert [path for path in (*named["modules"], *named["tests"]) if not (ROOT / path).exists()] == []


def test_sample_is_drawn_alike_each_time_and_for_each_area_anew():
    names = [f"m{number}" for number in range(200)]
    assert sample(names, 60, "0 a") == sample(names, 60, "0 a") != sample(names, 60, "0 b")
    assert len({*sample(names, 60, "0 a")}) == 60
    assert sample(names[:60], 60, "0 a") == names[:60]


def test_table_says_how_sure_a_sample_can_be():
    rows = [Outcome("a", 224, 5, 60, 52, 1, ["x"]), Outcome("b", 0, 0, 0, 0, 0, [])]
    assert table(rows)[2:] == [
        "| a | 224 | 5 | 60 | 52 | 1 | 87% (76% to 93%) |",
        "| b | 0 | 0 | 0 | 0 | 0 | 0% (0% to 100%) |",
        "| all | 224 | 5 | 60 | 52 | 1 | 87% (76% to 93%) |",
    ]
