"""Launches here that add seeds round by round, with trainings that return given numbers: what retries, what goes on."""

import io
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from orchestration.launching import control, overview, steps, waiting
from orchestration.runs.run_folder import folders
from rankmatch import trainer

SEEDS = "seed=[0,1,2,3,4]"
UNDECIDED = [0.03, 0.01, -0.02, 0.01, 0.0]
DECIDED = [0.2, 0.21, 0.205, 0.2, 0.2]


@dataclass
class Rounds:
    """The small grid with one split and five seeds."""

    launch: object
    gains: list[float] = field(default_factory=lambda: UNDECIDED)
    failing: set[str] = field(default_factory=set)

    def __call__(self, **options):
        first = {"first_seeds": 3} if options.get("adaptive") else {}
        return self.launch("split=4", SEEDS, **first, **options)

    def fit(self, config, run_dir, report, **_):
        method, seed = config.numerics.method.name, config.numerics.seed
        if f"{method}-{seed}" in self.failing:
            raise ValueError("broken on purpose")
        number = 0.5 + seed / 100 + (self.gains[seed] if method == "rankmatch" else 0.0)
        return trainer.FitResult(finished=True, step=1, num_steps=1, epoch=1, num_epochs=1, best_miou=number,
                                 best_epoch=1, last_miou=number, num_present_classes=3)  # fmt: skip

    @property
    def folder(self):
        return self.launch.runs / "small"

    @property
    def done(self):
        return sorted("-".join(cell.path.name.split("-")[2::2]) for cell in folders(self.folder).values()
                      if cell.has_result())  # fmt: skip

    def told(self, command, *words):
        """Return the exit code of `retry` or `resume`, and what it printed."""
        console = Console(record=True, width=300, file=io.StringIO())
        return command(self.folder, *words, console), console.export_text()


@pytest.fixture
def rounds(fresh, monkeypatch):
    made = Rounds(fresh)
    monkeypatch.setattr(trainer, "fit", made.fit)
    return made


def with_one_failed(rounds):
    rounds.failing = {"rankmatch-1"}
    assert rounds(adaptive=True) == 1 and len(rounds.done) == 5
    rounds.failing = set()


def test_retry_of_all_that_failed_goes_on_with_the_seeds_that_are_needed_then(rounds):
    with_one_failed(rounds)
    code, said = rounds.told(control.retry, (), (), ())
    assert code == 0 and len(rounds.done) == 10
    assert "so these get another seed" in said and "no launch trains" not in said


def test_retry_of_a_named_cell_names_the_command_that_goes_on(rounds):
    with_one_failed(rounds)
    code, said = rounds.told(control.retry, ["rankmatch-4-s1"], (), ())
    assert code == 1 and len(rounds.done) == 6
    assert "2 cells are open and no launch trains them: " in said and "`rankmatch resume --grid small" in said
    assert rounds.told(control.resume)[0] == 0 and len(rounds.done) == 10


def test_grid_that_began_adaptively_goes_on_so_unless_told_otherwise(rounds):
    rounds.gains = DECIDED
    assert rounds(adaptive=True) == 0 and len(rounds.done) == 6
    assert rounds() == 0 and len(rounds.done) == 6
    assert "seeds are added adaptively: 0 cells now, at most 4 cells more" in rounds.launch.printed
    assert rounds(adaptive=False) == 0 and len(rounds.done) == 10


def test_file_that_adds_seeds_adaptively_is_overruled_by_no_adaptive(rounds):
    file = rounds.launch.file
    file.write_text(file.read_text().replace("table:", "table:\n  adaptive: 3", 1))
    for adaptive, words in ((None, "10 cells: 6 submit, 4 leave out"), (False, "10 cells: 10 submit")):
        assert rounds(adaptive=adaptive, dry_run=True) == 0
        assert words in rounds.launch.printed


def test_status_knows_of_the_launch_between_two_rounds_and_not_after_it(rounds, monkeypatch):
    seen, prepare = [], steps.prepare

    def looked_at(target, *words, **more):
        if target.grid_dir.joinpath("index.jsonl").exists():
            seen.append(overview.of_grid(target.grid_dir))
        return prepare(target, *words, **more)

    monkeypatch.setattr(steps, "prepare", looked_at)
    rounds.failing = {"rankmatch-4"}
    assert rounds(adaptive=True) == 1
    assert [one.is_open for one in seen] == [True, True]
    assert not any("no launch is at work" in line for one in seen for line in one.lines)
    after = overview.of_grid(rounds.folder)
    assert not after.is_open and not waiting.is_at_work(rounds.folder)


@pytest.mark.parametrize("dry_run", [True, False])
def test_leaving_out_what_exceeds_a_budget_is_refused_where_rounds_follow(rounds, dry_run):
    with pytest.raises(ValueError, match="--within-budget must be left out where seeds are added adaptively"):
        rounds(adaptive=True, within_budget=True, budget_gpu_hours=1.0, dry_run=dry_run)
    assert not rounds.launch.runs.exists()
