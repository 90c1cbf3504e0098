"""Which job has which cell, by the records of launches alone: without a Slurm."""

import json
import os
from pathlib import Path

import pytest

from orchestration.machine.damage import DamageWarning
from orchestration.on_slurm import commands, submissions
from orchestration.on_slurm.commands import Job, QueuedJob, SlurmError
from orchestration.on_slurm.submissions import Submission
from orchestration.runs.folders import LaunchFolder
from orchestration.runs.jobs import cancelled_cells


@pytest.fixture
def grid_dir(tmp_path: Path) -> Path:
    """A grid of two launches: one with an array and a single job, a later one with a pilot."""
    array = Submission("rm-1", ["a", "b"], "17", user=5, larger={"b": "2 x memory"})
    single = Submission("rm-2", ["c"], "18", user=6, larger={"c": "2 x time"})
    pilot = Submission("rm-3", ["b", "d"], "30", "rm-3-nodes", "31", user=5)
    for launch, records in (("20260101T000000", [array, single]), ("20260102T000000", [pilot])):
        for one in records:
            one.write(launch_dir(tmp_path, launch))
    return tmp_path / "grid"


def launch_dir(folder: Path, name: str) -> Path:
    return folder / "grid" / "launches" / name


OLD, NEW = "20260101T000000", "20260102T000000"


def test_newest_job_of_a_cell_is_that_of_the_newest_launch_and_a_pilots_cells_share_one(grid_dir: Path) -> None:
    assert submissions.newest_jobs(grid_dir) == {
        "a": Job("17_0", "rm-1"),
        "b": Job("30", "rm-3"),
        "c": Job("18", "rm-2"),
        "d": Job("30", "rm-3"),
    }
    assert submissions.newest_launches(grid_dir) == {
        cell: grid_dir / "launches" / launch for cell, launch in (("a", OLD), ("c", OLD), ("b", NEW), ("d", NEW))
    }


def test_submission_without_a_number_has_no_jobs_and_none_that_lend_it_nodes() -> None:
    unknown = Submission("rm-9", ["a", "b"])
    assert (unknown.job, unknown.nodes, unknown.jobs(), unknown.is_pilot) == (None, None, {}, False)
    pilot = Submission("rm-3", ["b"], "30", "rm-3-nodes", "31")
    assert (pilot.job, pilot.nodes, pilot.is_pilot) == (Job("30", "rm-3"), Job("31", "rm-3-nodes"), True)


def test_cells_that_ask_for_more_are_those_whose_newest_job_does(grid_dir: Path) -> None:
    assert submissions.larger_cells(grid_dir) == {"c": "2 x time"}


def test_nodes_of_a_pilot_are_found_by_its_head(grid_dir: Path) -> None:
    assert submissions.nodes_of(grid_dir, [Job("30", "rm-3"), Job("17", "rm-1")]) == ["rm-3-nodes"]
    assert submissions.nodes_of(grid_dir, [Job("17", "rm-1")]) == []


@pytest.mark.parametrize(
    ("cell", "number", "name", "expected"),
    [
        ("b", "17_1", "", "rm-1"),
        ("b", "30", "", "rm-3"),
        ("b", "31_4", "", "rm-3-nodes"),
        ("c", "17_1", "", ""),  # has no cell of that name
        ("b", "99", "", ""),
        ("b", "99", "said", "said"),
    ],
)
def test_name_of_an_attempts_job_is_the_one_it_holds_or_that_of_the_submission_with_its_number(
    cell: str, number: str, name: str, expected: str, grid_dir: Path
) -> None:
    assert submissions.job_of(grid_dir, cell, number, name) == Job(number, expected)


def test_queue_is_asked_of_all_who_submitted(grid_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(commands, "queue", lambda users: asked.append(users) or {})
    assert submissions.queue(grid_dir) == {}
    assert asked == [{5, 6}]


def test_submission_of_an_earlier_version_is_its_files_owners_and_roots_is_roots(
    grid_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = grid_dir / "launches" / OLD
    Submission("rm-0", ["a"], user=0).write(folder)
    path = folder / "submissions" / "rm-2.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "user"}))
    owner = os.stat_result((0o600, 0, 0, 1, 7, 7, 0, 0, 0, 0))
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: owner if self.suffix == ".json" else stat(self, **how))
    users = {one.name: one.user for _, one in submissions.read(grid_dir)}
    assert users == {"rm-0": 0, "rm-1": 5, "rm-2": 7, "rm-3": 5}


def test_record_that_cannot_be_read_is_named_and_hides_no_other(grid_dir: Path) -> None:
    (grid_dir / "launches" / OLD / "submissions" / "rm-1.json").write_text("{")
    with pytest.warns(DamageWarning, match=r"rm-1\.json is damaged.*its cells look as if they had no job; see squeue"):
        assert [one.name for _, one in submissions.read(grid_dir)] == ["rm-2", "rm-3"]


def test_jobs_without_a_number_are_looked_up_by_name_and_the_newest_of_a_name_counts(
    grid_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = grid_dir / "launches" / NEW, []
    for one in (Submission("rm-4", ["e"]), Submission("rm-5", ["e"]), Submission("rm-6", ["f"], nodes_name="rm-6n")):
        one.write(folder)
    names = {"rm-4": ["40", "41"], "rm-6": ["60"]}
    monkeypatch.setattr(commands, "jobs_by_name", lambda name: [Job(each, name) for each in names.get(name, [])])
    monkeypatch.setattr(commands, "queue", dict)
    found = submissions.find(grid_dir)
    assert [(place, one.name, one.job_id) for place, one in found] == [(folder, "rm-4", "41")]
    assert _stored(folder, found[0][1]) == ""  # a launch that is at work writes it, with the tasks
    names["rm-6n"] = ["61", "62"]
    found = submissions.settle(
        grid_dir, lambda place, one: told.append((place, one.job_id, one.nodes_id, _stored(place, one)))
    )
    assert [(place, one.name) for place, one in found] == [(folder, "rm-4"), (folder, "rm-6")]
    # its tasks first: nobody looks again once the number is written
    assert told == [(folder, "41", "", ""), (folder, "60", "62", "")]
    assert {one.name: one.job_id for _, one in submissions.read(grid_dir)} == {
        "rm-1": "17", "rm-2": "18", "rm-3": "30", "rm-4": "41", "rm-6": "60",
    }  # fmt: skip


def test_withdrawn_submission_is_none_and_what_waits_of_it_alone_is_cancelled(
    grid_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cancelled = grid_dir / "launches" / NEW, []
    Submission("rm-7", ["a"], nodes_name="rm-7-nodes").write(folder)
    tasks = [LaunchFolder(folder).waiting_task(name, 0) for name in ("rm-7", "rm-7-nodes", "rm-3")]
    tasks[0].parent.mkdir()
    for task in tasks:
        task.touch()
    waits = [Job("70_1", "rm-7"), Job("71_2", "rm-7-nodes"), Job("17_0", "rm-1"), Job("9", "other")]
    queued = {job: QueuedJob(job, "PENDING", "", "") for job in waits}
    runs = Job("70_0", "rm-7")  # it ends by itself; in a copy of the folder it may be the original's
    monkeypatch.setattr(commands, "jobs_by_name", lambda name: [])
    monkeypatch.setattr(commands, "queue", lambda: queued | {runs: QueuedJob(runs, "RUNNING", "n1", "")})
    monkeypatch.setattr(commands, "cancel", cancelled.append)
    for _ in range(2):
        assert submissions.settle(grid_dir, lambda *_: None) == []
    assert cancelled == [[Job("70_1", "rm-7"), Job("71_2", "rm-7-nodes")]] * 2
    known = [submissions.is_withdrawn(folder, name) for name in ("rm-7", "rm-7-nodes", "rm-3", "rm-1")]
    assert known == [True, True, False, False]
    assert "rm-7" not in [one.name for _, one in submissions.read(grid_dir)]
    assert [task.exists() for task in tasks] == [False, False, True]


def test_open_submission_of_another_user_keeps_nobody_from_a_step(grid_dir: Path, monkeypatch, capfd) -> None:
    folder = grid_dir / "launches" / NEW
    Submission("rm-7", ["a"], user=0).write(folder)
    monkeypatch.setattr(commands, "jobs_by_name", lambda name: [])
    monkeypatch.setattr(Submission, "withdraw", _closed)
    assert submissions.settle(grid_dir, lambda *_: None) == []
    assert f"a job of launch {NEW} may be there, or come; user 0 settles it by `resume`" in capfd.readouterr().err


def test_head_without_nodes_that_another_user_has_keeps_nobody_from_a_step(grid_dir: Path, monkeypatch, capfd) -> None:
    folder = grid_dir / "launches" / NEW
    Submission("rm-7", ["a"], "70", "rm-7-nodes", user=os.getuid() + 1).write(folder)
    Submission("rm-8", ["b"], "80", "rm-8-nodes", user=os.getuid()).write(folder)
    cancelled: list[list[Job]] = []
    monkeypatch.setattr(commands, "jobs_by_name", lambda name: [])
    monkeypatch.setattr(commands, "queue", dict)

    def cancel(jobs: list[Job]) -> None:
        if jobs == [Job("70", "rm-7")]:
            raise SlurmError("scancel: error: Kill job error on job id 70: Access/permission denied")
        cancelled.append(jobs)

    monkeypatch.setattr(commands, "cancel", cancel)
    assert submissions.settle(grid_dir, lambda *_: None) == []
    assert [Job("80", "rm-8")] in cancelled and submissions.is_withdrawn(folder, "rm-8")
    assert submissions.is_withdrawn(folder, "rm-7")  # its head finds that when it looks for its task
    assert f"job 70 is user {os.getuid() + 1}'s, who may have to end it: scancel: error" in capfd.readouterr().err


def test_own_head_that_cannot_be_cancelled_is_not_given_up(grid_dir: Path, monkeypatch) -> None:
    folder = grid_dir / "launches" / NEW
    Submission("rm-7", ["a"], "70", "rm-7-nodes", user=os.getuid()).write(folder)
    monkeypatch.setattr(commands, "jobs_by_name", lambda name: [])

    def cancel(jobs: list[Job]) -> None:
        raise SlurmError("slurmctld does not answer")

    monkeypatch.setattr(commands, "cancel", cancel)
    with pytest.raises(SlurmError, match="does not answer"):
        submissions.settle(grid_dir, lambda *_: None)
    assert not submissions.is_withdrawn(folder, "rm-7")


def _closed(*_: object) -> None:
    raise PermissionError


def test_record_stays_readable_for_whom_it_was(grid_dir: Path) -> None:
    path = grid_dir / "launches" / NEW / "submissions" / "rm-3.json"
    path.chmod(0o664)
    before = os.umask(0o077)
    try:
        Submission("rm-3", ["b"], "30").write(path.parents[1])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o664


def test_job_is_followed_by_what_was_submitted_for_its_cell_later(grid_dir: Path) -> None:
    assert submissions.newer_job(grid_dir, "b", "rm-1") == Job("30", "rm-3")
    assert submissions.newer_job(grid_dir, "a", "rm-1") is None
    assert submissions.newer_job(grid_dir, "b", "rm-3") is None
    assert submissions.newer_job(grid_dir, "b", "") is None  # a job that does not know its name
    Submission("rm-8", ["b"]).write(grid_dir / "launches" / NEW)  # not answered
    assert submissions.newer_job(grid_dir, "b", "rm-3") is None
    assert submissions.jobs_of(grid_dir, ["b", "c"]) == {Job("17_1", "rm-1"), Job("18", "rm-2")}


def _stored(place: Path, one: Submission) -> str:
    return str(json.loads((place / "submissions" / f"{one.name}.json").read_text())["job_id"])


def test_cancelled_cells_are_noted_where_they_were_submitted_and_where_they_may_yet_be(grid_dir: Path) -> None:
    going_on = launch_dir(grid_dir.parent, "20260101T120000")
    going_on.mkdir()
    launch_dir(grid_dir.parent, "20260103T000000").mkdir()
    submissions.note_cancelled(grid_dir, ["d", "b"], [going_on])
    noted = {path.name: cancelled_cells(path) for path in (grid_dir / "launches").iterdir()}
    assert noted == dict.fromkeys([OLD, "20260101T120000", NEW, "20260103T000000"], ["b", "d"])
    submissions.note_cancelled(grid_dir, ["a"])
    noted = {path.name: cancelled_cells(path) for path in (grid_dir / "launches").iterdir()}
    assert (noted[OLD], noted[NEW], noted["20260103T000000"]) == (["a", "b", "d"], ["b", "d"], ["a", "b", "d"])


def test_launch_that_submitted_nothing_leaves_no_folder_and_one_that_may_have_stays(grid_dir: Path) -> None:
    folder = launch_dir(grid_dir.parent, "20260103T000000")
    one = Submission("rm-6", ["a"])
    one.write(folder)
    submissions.remove_unused(folder)
    assert folder.is_dir()
    one.remove(folder)
    submissions.remove_unused(folder)
    assert not folder.exists()
