"""A campaign of pilots: which of its heads count as a try of a cell, and when no more are submitted."""

import re
import time

import pytest
from campaign_life import RESULT, Life

from orchestration.launching import overview
from orchestration.on_slurm import submissions
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.failures import FailureClass
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.run_folder import folders


def head_ends(life: Life, state: str, told: str = "") -> Submission:
    """Have the newest head, which had started, end, and its controller look an hour later."""
    launch_dir, pilot = submissions.read(life.grid_dir)[-1]
    launch = LaunchFolder(launch_dir)
    launch.job(pilot.job_id, 0).path.mkdir(parents=True, exist_ok=True)
    launch.job(pilot.job_id, 0).node_file.write_text("{}")
    if told:
        launch.stop_file.write_text(told)
    life.slurm.queued, life.slurm.accounted[pilot.job_id] = {}, (state, "n1")
    assert life.controller() == 0
    if submissions.read(life.grid_dir)[-1][1] == pilot and not life.campaign.over(life.grid_dir).exists():
        an_hour_passes(life)
        assert life.controller() == 0
    life.slurm.queued = life.jobs("RUNNING")
    return pilot


def an_hour_passes(life: Life) -> None:
    for events in life.grid_dir.glob("cells/*/attempts/*/events.jsonl"):
        events.write_text(re.sub(r'"time": [\d.]+', f'"time": {time.time() - 3601}', events.read_text()))


def one_is_trained(life: Life, pilot: Submission, cell: str) -> None:
    slurm = {"job": f"{pilot.nodes_id}_0", "name": pilot.nodes_name, "restart": 0}
    owner = {"commit": "abc", "campaign": life.campaign.name, "host": "n2", "pid": 1, "process_started": 1}
    life.cell(cell).claim({**owner, "slurm": slurm}).publish(RESULT)


def kinds(life: Life) -> dict[str, list[FailureClass]]:
    return {folder.name: [one.end().kind for one in folder.attempts()] for folder in folders(life.grid_dir).values()}


@pytest.mark.parametrize(
    ("state", "told", "why"),
    [
        ("TIMEOUT", "", "Slurm says TIMEOUT, exit code 1:0: it printed nothing"),
        ("COMPLETED", "time limit\nSIGUSR2 came; Slurm says RUNNING", "time limit, SIGUSR2 came; Slurm says RUNNING"),
        ("COMPLETED", "node failure\nno job lends a node to the pilot any more", "no job lends a node to the pilot"),
        ("NODE_FAIL", "", "Slurm says NODE_FAIL"),
        ("CANCELLED", "preempted\nSIGTERM came; Slurm says RUNNING", "preempted, SIGTERM came"),
    ],
)
def test_cells_of_pilots_that_began_none_are_given_up_after_five_and_notice_and_status_say_how_their_heads_ended(
    life, state, told, why
):
    life.launch(num_nodes=2)
    for _ in range(5):
        assert not life.campaign.over(life.grid_dir).exists()
        pilot = head_ends(life, state, told)
    assert life.campaign.over(life.grid_dir).exists()
    assert [*kinds(life).values()] == [[FailureClass.NEVER_BEGAN] * 5] * 4
    (given_up,) = [line for line in life.said() if "is not tried again" in line]
    head = f"job {pilot.job_id}, the head of a pilot, ended before any of its cells began"
    assert "never began, 5 times; " in given_up and head in given_up and why in given_up
    rows = overview.of_grid(life.grid_dir).rows
    assert all(head in row.note and why in row.note for row in rows)


def test_cells_that_no_pilot_came_to_are_in_the_next_one_however_many_there_were(life):
    life.launch(num_nodes=2)
    for cell in ("rankmatch-4-s0", "supervised-4-s0", "rankmatch-4-s1"):
        _, pilot = submissions.read(life.grid_dir)[-1]
        one_is_trained(life, pilot, cell)
        head_ends(life, "TIMEOUT")
    _, last = submissions.read(life.grid_dir)[-1]
    life.slurm.queued = {}
    assert last.cells == [life.cell("supervised-4-s1").name] and not life.cell("supervised-4-s1").attempts()
    rows = {row.cell.slug: row for row in overview.of_grid(life.grid_dir).rows}
    assert rows["supervised-4-s1"].note == (
        f"job {last.job_id} of the pilot's head is gone and did not come to it; accounting does not know it"
    )
    assert not any("not tried again" in line or "given up" in line for line in life.said())


def test_head_that_somebody_cancelled_while_it_waited_for_nodes_has_no_follower(life):
    life.launch(num_nodes=2)
    head_ends(life, "CANCELLED")
    assert life.campaign.over(life.grid_dir).exists()
    assert [*kinds(life).values()] == [[FailureClass.CANCELLED]] * 4
    assert sum("is not tried again: cancelled" in line for line in life.said()) == 1


def test_node_of_a_head_that_waited_for_nodes_is_not_avoided(life):
    life.launch(num_nodes=2)
    head_ends(life, "TIMEOUT")
    assert "exclude" not in "".join(life.slurm.scripts[2:])
