"""How attempts ended, read from the files that jobs and controllers leave, and what the policy makes of it."""

import json
from pathlib import Path

from orchestration.runs.attempt import Attempt
from orchestration.runs.failures import FailureClass, decide
from orchestration.runs.retries import decision_of, decisions, failed_hosts, lately
from orchestration.runs.run_folder import RunFolder

OWNER = {"commit": "", "campaign": "l", "host": "n1.cluster", "pid": 1, "process_started": 1}


def saves(attempt: Attempt, step: int) -> None:
    folder = attempt.path / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def tries(folder: RunFolder, begin: int, *, saved: int | None = None, kind: str = "node failure", node: str = "n1"):
    """Add an attempt that began at a step, saved a checkpoint at another, and failed."""
    attempt = folder.claim({**OWNER, "slurm": {"job": "7", "restart": 0, "node": node}})
    attempt.event("started", step=begin, host=f"{node}.cluster")
    if saved is not None:
        saves(attempt, saved)
    if kind:
        attempt.event("failed", kind=kind, message="")
    return attempt


def test_node_failures_between_checkpoints_are_progress_without_a_row_of_an_epoch(make_cell):
    folder = RunFolder(make_cell())
    for begin in (0, 1000, 2000):
        tries(folder, begin)
    steps = [(end.first_step, end.last_step) for end in folder.ends("l")]
    assert steps == [(0, 1000), (1000, 2000), (2000, 2000)]
    assert decide(folder.ends("l")).again
    for _ in range(2):
        tries(folder, 2000)
    assert decision_of(folder, "l").why == "no progress in 3 attempts, last: node failure"


def test_newest_checkpoint_counts_where_no_attempt_has_followed(make_cell):
    folder = RunFolder(make_cell())
    tries(folder, 0)
    tries(folder, 0)
    attempt = tries(folder, 0, saved=300)
    saves(attempt, 200)
    (attempt.path / "checkpoints" / ".step_400.77").mkdir()  # was being written
    assert folder.ends("l")[-1].last_step == 300
    assert decide(folder.ends("l")).again


def test_rows_that_no_checkpoint_holds_are_no_progress(make_cell):
    folder = RunFolder(make_cell())
    for _ in range(3):
        attempt = tries(folder, 0)
        (attempt.path / "epochs.jsonl").write_text(json.dumps({"step": 499, "epoch": 5}) + "\n")
    assert [(end.first_step, end.last_step) for end in folder.ends("l")] == [(0, 0)] * 3
    assert not decide(folder.ends("l")).again


def test_attempt_that_never_started_is_none_of_the_progress_of_the_others(make_cell):
    folder = RunFolder(make_cell())
    tries(folder, 0)
    folder.claim(OWNER)
    tries(folder, 500, saved=700)
    ends = folder.ends("l")
    assert [(end.first_step, end.last_step) for end in ends] == [(0, 500), (500, 500), (500, 700)]
    assert ends[1].kind is FailureClass.LOST


def test_checkpoint_that_a_follower_took_over_before_it_was_killed_is_its_predecessors(make_cell):
    folder = RunFolder(make_cell())
    tries(folder, 0)
    saves(folder.claim(OWNER), 500)  # linked, and removed where it was
    assert [(end.first_step, end.last_step) for end in folder.ends("l")] == [(0, 500), (500, 500)]


def test_node_is_named_as_slurm_does_and_the_host_as_it_calls_itself(make_cell):
    folder = RunFolder(make_cell())
    tries(folder, 0, node="n3")
    (end,) = folder.ends("l")
    assert (end.node, end.host) == ("n3", "n3.cluster")
    moved = folder.claim(OWNER)
    moved.event("started", step=0, host="n5.cluster", node="n5")  # a worker of a pilot
    assert [(end.node, end.host) for end in folder.ends("l")[1:]] == [("n5", "n5.cluster")]
    elsewhere = folder.claim(OWNER)
    elsewhere.event("started", step=0)
    assert folder.ends("l")[-1].node == "n1.cluster"  # no scheduler named it


def test_cell_preempted_forty_times_while_it_gets_on_is_never_given_up(make_cell):
    folder = RunFolder(make_cell())
    for number in range(40):
        tries(folder, 10 * number, saved=10 * (number + 1), kind="preempted" if number % 3 else "requeued")
        assert decision_of(folder, "l").again


def test_cells_that_run_are_no_outage(make_cell):
    cells = {str(seed): RunFolder(make_cell(seed=seed)) for seed in range(4)}
    for seed in "123":
        tries(cells[seed], 0, kind="")
    for _ in range(3):
        tries(cells["0"], 0, kind="lost")
    assert decision_of(cells["0"], "l").why == "no progress in 3 attempts, last: lost"


def test_full_disk_that_stops_three_cells_at_once_is_waited_for_and_that_of_one_is_not(make_cell):
    cells = {str(seed): RunFolder(make_cell(seed=seed)) for seed in range(4)}
    tries(cells["0"], 0, kind="disk full", node="n0")
    assert decision_of(cells["0"], "l").why == "disk full"
    for seed in "12":
        tries(cells[seed], 0, kind="disk full", node=f"n{seed}")
    found = decisions(cells, "l")
    assert {(decision.again, decision.wait_min) for key, decision in found.items() if key != "3"} == {(True, 2)}
    assert found["3"].again and found["3"].wait_min == 0
    grid_dir = Path(cells["0"].path).parents[1]
    assert [str(outage) for outage in lately(grid_dir, "l", 60)] == ["disk full ended 3 cells on 3 nodes within 1 min"]
    assert lately(grid_dir, "another", 60) == []


def test_outage_of_the_others_excuses_the_one_cell_that_is_asked_about(make_cell):
    cells = {str(seed): RunFolder(make_cell(seed=seed)) for seed in range(3)}
    for seed in "012":
        tries(cells[seed], 0, kind="disk full", node=f"n{seed}")
    (alone,) = decisions({"asked": cells["1"]}, "l").values()
    assert alone == decision_of(cells["1"], "l")
    assert (alone.again, alone.wait_min) == (True, 2)
    assert decisions({}, "l") == {}


def test_hosts_that_a_cell_avoids_are_those_where_it_failed_within_a_day(make_cell):
    folder = RunFolder(make_cell())
    for node, kind in (("n1", "node failure"), ("n2", "preempted"), ("n3", "lost")):
        tries(folder, 0, kind=kind, node=node)
    assert failed_hosts(folder, "l") == ["n1.cluster", "n3.cluster"]
    assert failed_hosts(folder, "another") == []
