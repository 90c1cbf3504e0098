"""What a job asked for, what the next one asks for after it ran out of something, and how that is said."""

from dataclasses import asdict, replace

import pytest

from orchestration.runs.failure_class import FailureClass
from orchestration.runs.failures import AttemptEnd
from orchestration.runs.requests import Larger, Request, lacked, larger

ASKED = Request(1, 16.0, 60, more_workers=2, most_mem_gb_per_worker=100.0, most_time_min=90)
MEMORY, GPU, TIME = FailureClass.HOST_MEMORY, FailureClass.GPU_MEMORY, FailureClass.TIME_LIMIT


def end(kind: FailureClass, asked: Request | None = ASKED) -> AttemptEnd:
    return AttemptEnd(kind, 0, 0, asked=asked)


def test_what_a_job_asked_for_is_read_as_it_was_written_and_without_what_it_did_not_say():
    assert Request.of_owner(ASKED.to_owner()) == ASKED
    known = {
        name: value for name, value in asdict(ASKED).items() if name in ("workers", "mem_gb_per_worker", "time_min")
    }
    assert Request.of_owner({"asked": {**known, "of a newer version": 1}}) == Request(1, 16.0, 60)
    assert Request.of_owner({}) is None


def test_what_was_once_too_little_is_not_asked_for_again_whatever_ended_attempts_since():
    preempted = end(FailureClass.PREEMPTED)
    assert larger([preempted, end(MEMORY), preempted]) == Larger(mem_gb_per_worker=24.0)
    assert larger([end(MEMORY, None), end(GPU), end(MEMORY)]) == Larger(workers=2, mem_gb_per_worker=24.0)
    assert larger([end(MEMORY), end(MEMORY, replace(ASKED, mem_gb_per_worker=8.0))]).mem_gb_per_worker == 24.0
    assert larger([end(TIME), end(TIME, replace(ASKED, time_min=10))]).time_min == 90


def test_site_is_asked_for_no_more_than_it_has():
    assert larger([end(MEMORY, replace(ASKED, most_mem_gb_per_worker=20.0))]).mem_gb_per_worker == 20.0
    assert larger([end(TIME)]).time_min == 90
    assert larger([end(TIME, replace(ASKED, most_time_min=None))]).time_min == 120
    assert larger([end(TIME, replace(ASKED, most_time_min=200))]).time_min == 120


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (MEMORY, replace(ASKED, most_mem_gb_per_worker=16.1)),  # a hundredth more is none
        (GPU, replace(ASKED, more_workers=1)),
        (TIME, replace(ASKED, most_time_min=60)),
        (FailureClass.PREEMPTED, ASKED),
        (MEMORY, None),
    ],
)
def test_more_that_does_not_help_or_that_no_site_has_is_not_asked_for(kind, asked):
    assert not lacked(end(kind, asked))
    assert not larger([end(kind, asked)])


def test_what_is_asked_for_is_said_with_its_reason():
    assert str(Larger()) == ""
    assert str(Larger(mem_gb_per_worker=24.0)) == "asks for 24 GB for each worker, after it ran out of host memory"
    assert str(Larger(workers=2, time_min=120)) == (
        "asks for 2 GPUs, after it ran out of GPU memory (same batch, same numbers up to rounding) "
        "and at least 120 min, after no epoch ended within its time limit"
    )
