import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.runs.failures import (
    POLICY,
    AttemptEnd,
    CancelledError,
    Decision,
    Failure,
    FailureClass,
    Fault,
    LostError,
    TrainingError,
    decide,
    failed_lately,
    is_tried_again,
)
from orchestration.runs.requests import Larger, Request

NonFiniteLossError = type("NonFiniteLossError", (ArithmeticError,), {})
TorchOutOfMemory = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})
RayOutOfMemory = type("OutOfMemoryError", (Exception,), {"__module__": "ray.exceptions"})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CancelledError(), FailureClass.CANCELLED),
        (LostError("worker 3"), FailureClass.LOST),
        (NonFiniteLossError("the loss is nan at step 3 of 10"), FailureClass.NON_FINITE_LOSS),
        (TorchOutOfMemory("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass.GPU_MEMORY),
        (RuntimeError("CUDA error: out of memory"), FailureClass.GPU_MEMORY),
        (RayOutOfMemory("Task was killed due to the node running low on memory"), FailureClass.HOST_MEMORY),
        (MemoryError(), FailureClass.HOST_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), FailureClass.HOST_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), FailureClass.DISK_FULL),
        (RuntimeError("write failed: No space left on device"), FailureClass.DISK_FULL),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 592128 vs 592024"),
            FailureClass.DISK_FULL,
        ),
        (
            RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Connection reset by peer"),
            FailureClass.LOST,
        ),
        (RuntimeError("NCCL error in: NCCLUtils.cpp:77, ncclRemoteError: a remote process exited"), FailureClass.LOST),
        (OSError(errno.EACCES, "Permission denied"), FailureClass.FILE_SYSTEM),
        (ValueError("width must be at least 1; got 0"), FailureClass.CODE),
        (ZeroDivisionError(), FailureClass.CODE),
    ],
)
def test_exception_is_classified(error: Exception, kind: FailureClass):
    assert Failure.of(error).kind is kind


def raised_in(path: str, error: str) -> Exception:
    code = compile(f"raise {error}", path, "exec")
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (the test's own)
        exec(code)
    return caught.value


def test_value_error_is_bad_data_only_where_data_are_read():
    bad = raised_in("/somewhere/rankmatch/data/catalog.py", "ValueError('label value 77')")
    other = raised_in("/somewhere/rankmatch/trainer.py", "ValueError('resume')")
    assert Failure.of(bad).kind is FailureClass.BAD_DATA
    assert Failure.of(other).kind is FailureClass.CODE


def test_data_workers_error_is_bad_data_by_its_text():
    text = 'Caught ValueError in DataLoader worker process 0.\nFile "/x/rankmatch/data/loaders.py", line 3\nboom'
    assert Failure.of(ValueError(text)).kind is FailureClass.BAD_DATA


def test_failure_of_another_process_keeps_its_class():
    failure = Failure.of(MemoryError("big"))
    assert Failure.of(TrainingError(Failure.from_json(json.loads(json.dumps(failure.to_json()))))) == failure


def test_traceback_keeps_the_last_lines():
    error = raised_in(str(Path("/x.py")), "ValueError('\\n'.join(map(str, range(100))))")
    assert Failure.of(error, num_lines=3).traceback == "97\n98\n99"


def test_launch_leaves_alone_what_would_end_the_same_way():
    assert {kind for kind in FailureClass if not is_tried_again(kind)} == {
        FailureClass.NON_FINITE_LOSS,
        FailureClass.GPU_MEMORY,
        FailureClass.HOST_MEMORY,
        FailureClass.OUTPERFORMED,
    }
    assert is_tried_again(None)


def test_every_class_has_its_treatment():
    assert set(POLICY) == set(FailureClass)


def ends(*kinds, progress=5):
    return [AttemptEnd(kind, step * progress, (step + 1) * progress, f"n{step}") for step, kind in enumerate(kinds)]


OFTEN = [FailureClass.PREEMPTED] * 40


@pytest.mark.parametrize(
    ("history", "again", "why"),
    [
        ([], True, ""),
        (ends(*OFTEN), True, ""),
        (ends(*[FailureClass.REQUEUED] * 40), True, ""),
        (ends(*[FailureClass.TIME_LIMIT] * 3, progress=0), False, "no progress in 3 attempts, last: time limit"),
        (ends(*[FailureClass.TIME_LIMIT] * 2, progress=0), True, ""),
        (ends(FailureClass.LOST, FailureClass.PREEMPTED, FailureClass.LOST), True, ""),
        (ends(*[FailureClass.LOST] * 3), True, ""),
        (ends(*[FailureClass.LOST] * 3, progress=0), False, "no progress in 3 attempts, last: lost"),
        (ends(*[FailureClass.LOST] * 11), False, "lost, 11 times"),
        (ends(*OFTEN, *[FailureClass.GPU_FAULT] * 2), True, ""),
        (ends(*[FailureClass.GPU_FAULT] * 3, progress=0), False, "no progress in 3 attempts, last: GPU fault"),
        (ends(FailureClass.PREEMPTED, FailureClass.GPU_MEMORY), False, "out of GPU memory"),
        (ends(FailureClass.CODE), False, "code error"),
        (ends(FailureClass.CANCELLED), False, "cancelled"),
        (ends(*[FailureClass.FILE_SYSTEM] * 6, progress=0), True, ""),
        (ends(*[FailureClass.FILE_SYSTEM] * 7, progress=0), False, "file system, 7 times"),
        (ends(*[FailureClass.FILE_SYSTEM] * 40), True, ""),
        (ends(*[FailureClass.MISSING_FILE] * 2, progress=0), True, ""),
        (ends(*[FailureClass.MISSING_FILE] * 3, progress=0), False, "missing file, 3 times"),
        (ends(*[FailureClass.NEVER_BEGAN] * 4, progress=0), True, ""),
        (ends(*[FailureClass.NEVER_BEGAN] * 5, progress=0), False, "never began, 5 times"),
        (ends(*[FailureClass.FILE_SYSTEM] * 5, FailureClass.PREEMPTED, progress=0), True, ""),
    ],
)
def test_policy_tries_again_while_a_cell_gets_on(history, again, why):
    decision = decide(history)
    assert (decision.again, decision.why) == (again, why)


def test_cell_that_crashes_on_three_nodes_at_the_same_step_is_given_up_however_far_it_came_before():
    crashes = [AttemptEnd(FailureClass.LOST, 1000, 1000, node) for node in ("n1", "n2", "n3")]
    history = [*ends(*OFTEN), AttemptEnd(FailureClass.LOST, 200, 1000, "n0")]
    assert [decide([*history, *crashes[:number]]).again for number in range(4)] == [True, True, True, False]
    assert decide([*history, *crashes]).why == "no progress in 3 attempts, last: lost"


def short_of(kind: FailureClass, asked: Request | None, num: int, *, has_epoch: bool = False) -> Decision:
    """Decide about a cell that ran out of something so often; each job asked for what the one before was told to."""
    ends: list[AttemptEnd] = []
    for _ in range(num):
        ends.append(AttemptEnd(kind, 0, 0, asked=asked, has_epoch=has_epoch))
        if asked and (more := decide(ends).larger):
            asked = replace(
                asked,
                mem_gb_per_worker=more.mem_gb_per_worker or asked.mem_gb_per_worker,
                time_min=more.time_min or asked.time_min,
            )
    return decide(ends)


ASKED = Request(1, 16.0, 60, more_workers=2, most_mem_gb_per_worker=100.0, most_time_min=None)


@pytest.mark.parametrize(
    ("kind", "num", "larger"),
    [
        (FailureClass.HOST_MEMORY, 1, Larger(mem_gb_per_worker=24.0)),
        (FailureClass.HOST_MEMORY, 2, Larger(mem_gb_per_worker=36.0)),
        (FailureClass.GPU_MEMORY, 1, Larger(workers=2)),
        (FailureClass.TIME_LIMIT, 1, Larger(time_min=120)),
        (FailureClass.TIME_LIMIT, 7, Larger(time_min=60 * 2**7)),
    ],
)
def test_cell_that_ran_out_of_something_asks_for_more_of_it(kind, num, larger):
    assert short_of(kind, ASKED, num) == Decision(again=True, larger=larger)


@pytest.mark.parametrize(
    ("kind", "asked", "num", "why"),
    [
        (FailureClass.HOST_MEMORY, ASKED, 3, "out of host memory, 3 times, last with 36 GB for each worker"),
        (FailureClass.GPU_MEMORY, ASKED, 2, "out of GPU memory, 2 times, last with 1 GPU"),
        (FailureClass.GPU_MEMORY, replace(ASKED, more_workers=0), 1,
         "out of GPU memory with 1 GPU, and its site gives no more"),
        (FailureClass.HOST_MEMORY, None, 1, "out of host memory"),
        (FailureClass.TIME_LIMIT, ASKED, 8, "no progress in 3 attempts, last: time limit"),
        (FailureClass.TIME_LIMIT, replace(ASKED, most_time_min=60), 3, "no progress in 3 attempts, last: time limit"),
    ],
)  # fmt: skip
def test_cell_that_can_have_no_more_is_given_up_with_what_helps(kind, asked, num, why):
    decision = short_of(kind, asked, num)
    assert (decision.again, decision.why) == (False, why)
    assert "`rankmatch retry" in decision.advice and decision.told == f"{why}; {decision.advice}"


def test_time_limit_is_left_as_it_is_where_epochs_end_within_it():
    assert short_of(FailureClass.TIME_LIMIT, ASKED, 1, has_epoch=True) == Decision(again=True)


def test_what_goes_by_by_itself_is_waited_for_longer_each_time():
    history = ends(*[FailureClass.FILE_SYSTEM] * 6, progress=0)
    assert [decide(history[:number]).wait_min for number in range(1, 7)] == [2, 4, 8, 16, 32, 60]
    assert decide([*history, AttemptEnd(FailureClass.PREEMPTED, 0, 0)]).wait_min == 0
    assert decide([*history, AttemptEnd(FailureClass.FILE_SYSTEM, 0, 5)]).wait_min == 2  # it got on


def test_cell_that_never_began_waits_minutes_and_keeps_away_from_that_node():
    history = [replace(end, time=10.0) for end in ends(*[FailureClass.NEVER_BEGAN] * 4, progress=0)]
    assert [decide(history[:number]).wait_min for number in range(1, 5)] == [1, 2, 4, 8]
    assert [end.node for end in failed_lately(history, 20.0)] == ["n0", "n1", "n2", "n3"]


def test_node_is_kept_away_from_for_a_day_where_a_cell_failed_and_not_where_it_was_taken():
    history = [
        replace(end, time=number * 3600.0)
        for number, end in enumerate(ends(FailureClass.NODE_FAILURE, FailureClass.PREEMPTED, FailureClass.LOST))
    ]
    assert [end.node for end in failed_lately(history, 2 * 3600.0)] == ["n0", "n2"]
    assert [end.node for end in failed_lately(history, 24 * 3600.0 - 1)] == ["n0", "n2"]
    assert [end.node for end in failed_lately(history, 24 * 3600.0)] == ["n2"]
    outage = [replace(history[0], fault=Fault.SITE), replace(history[2], fault=Fault.NODE)]
    assert [end.node for end in failed_lately(outage, 2 * 3600.0)] == ["n2"]
