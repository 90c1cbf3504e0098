"""Settings that decide nothing for a cell: it is trained once, and what is there is found again."""

import json
from pathlib import Path

import pytest
from launcher import Launcher
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids import alike, grid
from orchestration.grids.cells import Cell, compose, from_yaml
from orchestration.grids.identity import identity, signature
from orchestration.runs.run_folder import folders
from rankmatch import unused

SIGNATURES = json.loads((Path(__file__).parents[1] / "shipped_signatures.json").read_text())


@pytest.mark.parametrize("name", [name for name in grid.available() if name != "paper"])  # which consists of others
def test_cells_of_a_shipped_grid_keep_their_signatures(name: str) -> None:
    assert [cell.signature for cell in grid.load(name).cells] == SIGNATURES[name].split()


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({"method": "supervised"}, {"method.num_agents": 16}),
        ({"method": "unimatch"}, {"method.weight_rank": 0.5}),
        ({"method": "fixmatch"}, {"method.weight_fp": 0.1}),
        ({"method": "supervised", "method.supervised_steps": "authors"}, {"trainer.unlabeled_batch_size": 6}),
        ({"method": "supervised"}, {"augment.cutmix_partner": "other_image"}),
        ({"method": "rankmatch"}, {"method.supervised_steps": "authors"}),
        ({}, {"method.ohem_threshold": 0.5}),
        ({}, {"evaluation.held_out_from": "labeled"}),
        ({"dataset": "camvid"}, {"dataset.scenes.size": 64}),
        ({"dataset": "synthetic"}, {"dataset.image_bits": 12}),
        ({"method.consistency": "kl"}, {"method.epsilon": 0}),
        ({"method.consistency": "l2"}, {"method.top_k": 3}),
        ({"method.consistency": "ce"}, {"method.rank_divide_by_orders": False}),
        ({"method.selection": "all"}, {"method.num_agents": 16}),
        ({"method.weight_rank": 0}, {"method.consistency": "kl"}),
        ({"augment.jitter_probability": 0}, {"augment.hue": 0.1}),
        ({"augment.blur_probability": 0}, {"augment.max_sigma": 1}),
        ({"augment.cutmix_probability": 0}, {"augment.cutmix_partner": "other_image"}),
        ({"augment.crop_size": 321}, {"backbone.unreached_taps": "zero"}),
    ],
)
def test_setting_that_is_not_read_is_no_part_of_the_identity(
    base: dict[str, object], change: dict[str, object]
) -> None:
    plain, other = compose(base).numerics, compose(base | change).numerics
    assert identity(plain) == identity(other) and signature(plain) != signature(other)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({"method": "rankmatch"}, {"method.num_agents": 16}),
        ({"method": "unimatch"}, {"augment.cutmix_partner": "other_image"}),
        ({"method": "supervised"}, {"method.supervised_steps": "authors"}),
        ({"method": "supervised"}, {"trainer.unlabeled_batch_size": 6}),
        ({"method.ohem": True}, {"method.ohem_threshold": 0.5}),
        ({"evaluation.held_out": 0.2}, {"evaluation.held_out_from": "labeled"}),
        ({"dataset": "synthetic"}, {"dataset.scenes.size": 64}),
        ({"dataset": "camvid"}, {"dataset.image_bits": 12}),
        ({"method.consistency": "rank"}, {"method.epsilon": 0}),
        ({"method.consistency": "kl"}, {"method.num_agents": 16}),
        ({"augment.jitter_probability": 0}, {"augment.gray_probability": 0.5}),
        ({"augment.crop_size": 257}, {"backbone.unreached_taps": "zero"}),
    ],
)
def test_setting_that_is_read_is_part_of_the_identity(base: dict[str, object], change: dict[str, object]) -> None:
    assert identity(compose(base).numerics) != identity(compose(base | change).numerics)


def test_axis_of_one_method_does_not_train_the_others_twice_and_stands_beside_each_value(fresh: Launcher) -> None:
    assert fresh("method.num_agents=[4,6]", "seed=0") == 0
    assert fresh.attempts() == {
        "supervised-4-s0-num_agents_4": 1,
        "rankmatch-4-s0-num_agents_4": 1,
        "rankmatch-4-s0-num_agents_6": 1,
    }
    assert "method.num_agents has no effect for supervised: one run stands for all of its values" in fresh.printed
    assert fresh.printed.count("vs supervised") == 2
    rows = [line.split()[2] for line in fresh.printed.splitlines() if line.startswith("supervised  ")]
    assert len(rows) == 2 and len(set(rows)) == 1


def test_cell_that_was_trained_with_another_unread_value_is_kept_under_its_name(fresh: Launcher) -> None:
    assert fresh("seed=0") == 0
    before = set(folders(fresh.runs / "small"))
    assert fresh("seed=0", "method.num_agents=6") == 0
    assert fresh.attempts() == {"supervised-4-s0": 1, "rankmatch-4-s0": 1}
    assert "2 cells: 1 submit, 1 keep" in fresh.printed
    stored = grid.load(str(fresh.runs / "small" / "grid.yaml"))
    (supervised, rankmatch) = stored.cells
    assert supervised.signature in before and rankmatch.signature not in before
    assert fresh(dry_run=True) == 0 and "4 cells: 2 submit, 2 keep" in fresh.printed


def test_interrupted_run_with_another_unread_value_is_resumed_as_it_was_begun(fresh: Launcher, monkeypatch) -> None:
    from rankmatch import trainer

    monkeypatch.setattr(trainer, "make_optimizer", lambda *_: (_ for _ in ()).throw(ConnectionError("on purpose")))
    assert fresh("seed=0", "method=supervised") == 1
    monkeypatch.undo()
    assert fresh("seed=0", "method=supervised", "method.num_agents=6") == 0
    (folder,) = folders(fresh.runs / "small").values()
    assert folder.has_result() and len(folder.attempts()) == 2
    assert folder.path.name.startswith(Cell(from_yaml(folder.config()), {}).signature)


def test_note_says_where_only_some_cells_of_a_method_ignore_an_axis() -> None:
    cells = [
        Cell(compose({"method.consistency": kind, "method.epsilon": float(value)}), {"kind": kind, "epsilon": value})
        for kind in ("kl", "rank")
        for value in ("1e-10", "1e-3")
    ]
    (note,) = alike.notes(alike.once(cells))
    assert note == "epsilon has no effect for some cells of rankmatch: one run stands for all of its values"
    (note,) = alike.notes(alike.once(cells[:2]))
    assert note == "epsilon has no effect for rankmatch: one run stands for all of its values"


def test_folder_of_an_earlier_version_that_trained_equal_cells_twice_stays_readable(
    fresh: Launcher, monkeypatch
) -> None:
    words = ("seed=0", "method=rankmatch", "method.consistency=kl", "method.epsilon=[1e-10,1e-3]")
    with monkeypatch.context() as earlier:
        earlier.setattr(unused, "_unused_by_rank_term", lambda _: ())
        assert fresh(*words) == 0
    before = {name: folder.result() for name, folder in folders(fresh.runs / "small").items()}
    assert len(before) == 2
    assert fresh(*words) == 0
    assert "1 of 1 cell is done" in fresh.printed and set(fresh.attempts().values()) == {1}
    assert {name: folder.result() for name, folder in folders(fresh.runs / "small").items()} == before
    listed = CliRunner().invoke(app, ["results", "--runs", str(fresh.runs), "--format", "json"])
    assert listed.exit_code == 0 and all(name in listed.stdout for name in before)
    stored = grid.load(str(fresh.runs / "small" / "grid.yaml"))
    assert len(stored.cells) == 1 and stored.cells[0].signature in before
