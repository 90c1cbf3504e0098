"""What Tune asks of a search, without a Ray: points as cells, what Optuna and ASHA are told."""

import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from own_grid import OwnGrid
from ray.tune.search import Searcher

from orchestration.on_ray import verdicts
from orchestration.on_ray.search import Halving, Points
from orchestration.on_ray.shares import Node, Share
from orchestration.on_ray.verdicts import Verdict
from orchestration.running.run_cell import launcher
from orchestration.runs.failures import Decision, FailureClass
from orchestration.runs.jobs import CellJob
from orchestration.runs.run_folder import RunFolder, folders
from orchestration.search import spaces
from orchestration.tables.search_table import Point

FILE = Path(__file__).parents[1] / "search.yaml"


@pytest.fixture(autouse=True)
def _two_nodes(monkeypatch) -> None:
    monkeypatch.setattr(
        "orchestration.on_ray.search.nodes", lambda: (Node(2.0, 0, "n0", "id0"), Node(2.0, 0, "n1", "id1"))
    )


@pytest.fixture
def launch_dir(tmp_path: Path) -> Path:
    path = tmp_path / "search" / "launches" / "1"
    path.mkdir(parents=True)
    return path


def points(launch_dir: Path, *overrides: str, due=()) -> Points:
    template = Share(CellJob(launch_dir.parents[1] / "cells" / "search", device="cpu"), 1.0, 0.0)
    return Points(spaces.load(str(FILE), overrides), launch_dir, template, due, {"campaign": "1"})


def end(config: dict, kind: FailureClass, *mious: float) -> None:
    """Leave what a training leaves."""
    attempt = RunFolder(config["share"].job.cell_dir).claim(launcher())
    attempt.event("started", step=0)
    for epoch, miou in enumerate(mious, 1):
        attempt.recorder()(4 * epoch - 1, {"epoch": epoch, "miou": miou})
    attempt.event("stopped", step=4 * len(mious), kind=kind)


def name(config: dict) -> str:
    return str(config["share"].job.name)


def test_each_point_gets_a_run_folder_of_its_own_and_the_search_ends_with_them(launch_dir):
    asked = points(launch_dir)
    configs = [asked.suggest(f"t{number}") for number in range(4)]
    assert asked.suggest("t4") is None  # one that runs may come back
    grid_dir = launch_dir.parents[1]
    assert {folder.path.name for folder in folders(grid_dir).values()} == set(map(name, configs))
    assert [cell.folder_name for cell in spaces.index.read(grid_dir)] == list(map(name, configs))
    for number, config in enumerate(configs):
        end(config, FailureClass.OUTPERFORMED, 0.1)
        asked.on_trial_result(f"t{number}", {"epoch": 1, "miou": 0.1, "training_iteration": 1})
        asked.on_trial_complete(f"t{number}", {"miou": 0.1})
    assert asked.suggest("t5") == Searcher.FINISHED


def test_search_that_goes_on_hands_out_open_points_first_and_draws_the_same_ones_after(launch_dir):
    whole = points(launch_dir)
    configs = [whole.suggest(f"t{number}") for number in range(3)]
    end(configs[0], FailureClass.OUTPERFORMED, 0.2)
    end(configs[1], FailureClass.CANCELLED, 0.3, 0.4)
    again = launch_dir.with_name("2")
    again.mkdir()
    asked = points(again, due=[name(configs[1]), name(configs[2])])
    assert [one.cell for one in asked.settled] == [name(configs[0])]
    assert [name(asked.suggest(f"u{number}")) for number in range(2)] == [name(configs[1]), name(configs[2])]
    assert name(asked.suggest("u2")) == name(whole.suggest("t3"))
    assert asked.suggest("u3") is None


def test_point_that_is_known_is_drawn_anew_until_the_spaces_hold_no_more(launch_dir):
    asked = points(launch_dir, "trainer.learning_rate=[0.01,0.02]", "search.num_samples=20")
    configs = []
    while isinstance(config := asked.suggest(f"t{len(configs)}"), dict):
        configs.append(config)
        end(config, FailureClass.OUTPERFORMED, 0.1)
        asked.on_trial_complete(f"t{len(configs) - 1}")
    assert config == Searcher.FINISHED
    assert len(set(map(name, configs))) == len(configs) == 4


def test_point_that_failed_is_handed_out_again_where_the_judge_says_so(launch_dir):
    asked = points(launch_dir, "search.num_samples=1")
    first = asked.suggest("t0")
    asked.on_trial_complete("t0", error=True)
    attempt = RunFolder(first["share"].job.cell_dir).claim({**launcher(), "campaign": "1"})
    attempt.event("started", step=0, host="n1")
    attempt.event("failed", kind=FailureClass.LOST)
    asked.settle("t0", Decision(again=True))
    again = asked.suggest("t1")
    assert (name(again), first["shunned"], again["shunned"]) == (name(first), (), ("id1",))
    asked.settle("t1", Decision(again=False))
    assert asked.suggest("t2") == Searcher.FINISHED


def test_point_that_waits_for_its_time_keeps_the_search_open(launch_dir, monkeypatch):
    asked = points(launch_dir, "search.num_samples=1")
    first = asked.suggest("t0")
    asked.settle("t0", Decision(again=True, wait_min=2))
    assert asked.suggest("t1") is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 121)
    assert name(asked.suggest("t2")) == name(first)


def test_search_that_is_told_to_stop_draws_no_more(launch_dir):
    asked = points(launch_dir)
    (launch_dir / "cancelled").touch()
    assert asked.suggest("t0") == Searcher.FINISHED
    assert folders(launch_dir.parents[1]) == {}


def trial(cell: str) -> SimpleNamespace:
    return SimpleNamespace(config={"share": Share(CellJob(Path(cell)), 1.0, 0.0)}, trial_id="any")


def judge(halving: Halving, launch_dir: Path, cell: str, *mious: float) -> list[bool]:
    """Report epochs until one is stopped; return the verdicts."""
    halving.on_trial_add(None, trial(cell))
    found = []
    for epoch, miou in enumerate(mious, 1):
        assert halving.on_trial_result(None, trial(cell), {"epoch": epoch, "miou": miou}) == "CONTINUE"
        assert verdicts.read(launch_dir, cell).epoch == epoch
        found.append(verdicts.read(launch_dir, cell).stop)
    halving.on_trial_complete(None, trial(cell), {"epoch": len(mious), "miou": mious[-1]})
    return found


def test_point_behind_the_others_of_its_rung_is_stopped_and_the_last_epoch_needs_no_stop(launch_dir):
    halving = Halving(spaces.load(str(FILE)), launch_dir, [])
    assert judge(halving, launch_dir, "a", 0.5, 0.6, 0.7, 0.8) == [False] * 4
    assert judge(halving, launch_dir, "b", 0.4) == [True]
    assert judge(halving, launch_dir, "c", 0.6, 0.5) == [False, True]
    assert judge(halving, launch_dir, "d", 0.9, 0.9, 0.1, 0.1) == [False] * 4


def test_search_that_goes_on_judges_by_the_points_of_before(launch_dir):
    known = [Point("a", {}, "done", (0.5, 0.6, 0.7, 0.8)), Point("b", {}, "outperformed", (0.4,))]
    halving = Halving(spaces.load(str(FILE)), launch_dir, known)
    assert judge(halving, launch_dir, "c", 0.45, 0.55) == [False, True]
    assert judge(halving, launch_dir, "c", 0.45)[:1] == [False]  # tried again: decided already
    assert Verdict(1) == verdicts.read(launch_dir, "c")


class Killed(Exception):
    pass


def play(launch_dir: Path, *, epochs_to_live: float = float("inf")) -> None:
    """Search one point at a time, with figures in place of trainings; be killed after so many epochs."""
    launch_dir.mkdir(parents=True)
    known = spaces.load(str(FILE), MANY)
    open_ones = [
        folder.path.name
        for folder in folders(launch_dir.parents[1]).values()
        if not folder.result() and not is_stopped(folder)
    ]
    asked = points(launch_dir, *MANY, due=open_ones)
    halving = Halving(known, launch_dir, asked.settled)
    while isinstance(config := asked.suggest("t"), dict):
        folder = RunFolder(config["share"].job.cell_dir)
        halving.on_trial_add(None, trial(name(config)))
        attempt, first = folder.claim(launcher()), len(folder.epochs())
        attempt.event("started", step=4 * first)
        rate, top_k = (float(text) for text in folder.axes().values())
        for epoch in range(1, known.epochs + 1):
            row = {"epoch": epoch, "miou": round(0.1 * epoch - abs(math.log10(rate) + 2) / 10 + top_k / 50, 6)}
            if epoch > first:
                attempt.recorder()(4 * epoch - 1, row)
                epochs_to_live -= 1
                if epochs_to_live < 0:
                    raise Killed
            asked.on_trial_result("t", {**row, "training_iteration": epoch})
            halving.on_trial_result(None, trial(name(config)), row)
            if epoch >= first and verdicts.read(launch_dir, name(config)).stop:
                attempt.event("stopped", step=4 * epoch, kind=FailureClass.OUTPERFORMED)
                break
        else:
            attempt.publish({"step": 16, "num_steps": 16, "epoch": 4, "last_miou": row["miou"], "best_miou": 1.0})
        asked.on_trial_complete("t", row)
        halving.on_trial_complete(None, trial(name(config)), row)


OWN = """
set:
  dataset: scan.yaml
  backbone: mobilenet_v2
  backbone.pretrained: false
  backbone.width: 0.25
  method: rankmatch
  method.num_agents: 4
search:
  spaces: {method.top_k: [2, 4]}
  num_samples: 1
  held_out: 0.25
"""


def test_search_whose_points_are_settled_prints_its_table_where_the_data_are_gone(own: OwnGrid) -> None:
    (file := own.folder / "found.yaml").write_text(OWN)
    (launch_dir := own.runs / "found" / "launches" / "1").mkdir(parents=True)
    template = Share(CellJob(own.runs / "found" / "cells" / "search", device="cpu"), 1.0, 0.0)
    config = Points(spaces.load(str(file)), launch_dir, template, (), {"campaign": "1"}).suggest("t0")
    attempt = RunFolder(config["share"].job.cell_dir).claim(launcher())
    attempt.recorder()(1, {"epoch": 1, "miou": 0.5})
    attempt.publish({"step": 2, "num_steps": 2, "epoch": 1, "last_miou": 0.5, "best_miou": 0.5})
    (own.folder / "images").rename(own.folder / "elsewhere")
    said = own("tune", file)
    assert "nothing is to be trained, so what is not there was not looked at: data_root must be" in said
    assert "1 of 1" in said and "report.md" in said
    assert own("tune", file, "search.num_samples=2", code=2).startswith("error: data_root must be the folder of scan;")


def is_stopped(folder: RunFolder) -> bool:
    return folder.state().failure_class == FailureClass.OUTPERFORMED


def outcome(grid_dir: Path) -> list[tuple[str, int, bool]]:
    """Return the points in the order of their draws, with their epochs and whether they were stopped."""
    found = folders(grid_dir)
    every = [found[cell.signature] for cell in spaces.index.read(grid_dir)]
    return [(folder.path.name, len(folder.epochs()), is_stopped(folder)) for folder in every]


MANY = ("search.num_samples=18",)
"""More than the ten that Optuna draws by chance."""


def test_search_that_is_killed_again_and_again_finds_what_an_undisturbed_one_finds(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    play(whole / "launches" / "1")
    number = 0
    for number, life in enumerate((0, 3, 1, 9, 7, 5, 11)):
        with pytest.raises(Killed):
            play(killed / "launches" / str(number), epochs_to_live=life)
    play(killed / "launches" / str(number + 1))
    assert outcome(killed) == outcome(whole)
    assert len(outcome(whole)) == 18 and 5 < sum(stopped for _, _, stopped in outcome(whole)) < 18
