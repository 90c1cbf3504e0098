import itertools
import random

import pytest

from orchestration.on_slurm.commands import Job, QueuedJob
from orchestration.on_slurm.lanes import NEW, lanes


def queue(**arrays: tuple[int, int]) -> list[QueuedJob]:
    """Return arrays with so many elements that run and that wait."""
    return [
        QueuedJob(Job(f"{array}_{place}", "rm-g"), "RUNNING" if place < running else "PENDING", "", "")
        for array, (running, waiting) in arrays.items()
        for place in range(running + waiting)
    ]


def numbers(given) -> dict[str, int]:
    return {array.number: count for array, count in given.of.items()}


def test_array_gets_what_it_runs_and_what_is_free():
    assert numbers(lanes(queue(a=(2, 9)), 4)) == {"a": 4}
    assert numbers(lanes(queue(a=(3, 0), b=(1, 5)), 6)) == {"a": 3, "b": 3}
    assert numbers(lanes(queue(a=(1, 1), b=(1, 5)), 6)) == {"a": 1, "b": 5}


def test_new_array_waits_for_one_end_of_the_array_that_gives_up_a_lane():
    given = lanes(queue(a=(4, 9)), 4, num_new=3)
    assert numbers(given) == {"a": 3, "": 1}
    assert [job.number for job in given.ends] == ["a_0", "a_1", "a_2", "a_3"] and not given.is_full
    assert [job.number for job in given.throttled] == ["a"]


def test_array_that_runs_most_gives_up_a_lane_and_that_of_which_most_wait_gets_one():
    assert numbers(lanes(queue(a=(3, 3), z=(2, 3)), 5, num_new=2)) == {"a": 2, "z": 2, "": 1}
    assert numbers(lanes(queue(a=(2, 3), z=(3, 3)), 5, num_new=2)) == {"a": 2, "z": 2, "": 1}
    assert numbers(lanes(queue(a=(1, 2), z=(1, 9)), 4)) == {"a": 1, "z": 3}
    assert numbers(lanes(queue(a=(1, 9), z=(1, 2)), 4)) == {"a": 3, "z": 1}


def test_new_array_begins_at_once_where_the_others_do_not_run_as_many_as_they_may():
    given = lanes(queue(a=(1, 9)), 4, num_new=2)
    assert sum(given.of.values()) == 4 and given.of[NEW] == 1 and not given.ends


def test_new_array_waits_for_the_last_elements_of_one_of_which_none_waits():
    given = lanes(queue(a=(2, 0)), 2, num_new=4)
    assert (numbers(given), [job.number for job in given.ends]) == ({"a": 1, "": 1}, ["a_0", "a_1"])
    assert not given.throttled  # nothing of it begins any more
    given = lanes(queue(a=(1, 0)), 1, num_new=4)
    assert (given.of[NEW], len(given.ends), given.is_full) == (1, 1, False)


def test_there_is_no_room_beside_one_at_a_time():
    assert lanes(queue(a=(1, 3)), 1, num_new=1).is_full
    assert lanes(queue(a=(0, 3)), 1, num_new=1).is_full


@pytest.mark.parametrize("seed", range(20))
def test_never_do_more_run_than_are_allowed_whatever_begins_and_ends_first(seed):
    chance = random.Random(seed)
    most, arrays, throttle, after = chance.randint(1, 5), {"a": [0, 12]}, {"a": 0}, {}
    throttle["a"] = most
    for turn, number in itertools.product(range(40), range(3)):
        jobs = queue(**{name: tuple(counts) for name, counts in arrays.items()})
        if number == 0 and turn % 8 == 7:
            given = lanes(jobs, most, num_new=3)
            if not given.is_full:
                name = f"r{turn}"
                after[name] = {(job.array.number, arrays[job.array.number][0]) for job in given.ends}
                arrays[name], throttle[name] = [0, 3], given.of[NEW]
                throttle |= {array.number: given.of[array] for array in given.throttled}
        elif number == 1:
            given = lanes(jobs, most)
            throttle |= {array.number: given.of[array] for array in given.throttled}
        elif (busy := [name for name in arrays if arrays[name][0]]) and chance.random() < 0.7:
            ended = chance.choice(busy)
            arrays[ended][0] -= 1
            after = {name: set() if ended in dict(ends) else ends for name, ends in after.items()}
        for name in chance.sample(list(arrays), len(arrays)):
            while (
                not after.get(name) and arrays[name][1] and arrays[name][0] < throttle[name] and chance.random() < 0.9
            ):
                arrays[name][0], arrays[name][1] = arrays[name][0] + 1, arrays[name][1] - 1
        assert sum(counts[0] for counts in arrays.values()) <= most
