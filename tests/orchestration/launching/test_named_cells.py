"""The name that `status` shows for a cell is one that every command takes."""

import json
from pathlib import Path

import pytest
from launcher import Launcher

from orchestration.launching import named_cells
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import folders


def shown(again: Launcher, *added: str) -> tuple[Path, list[str]]:
    """Give each cell of seed 0 a longer name in the list of cells, as a further axis does; return all names."""
    grid_dir = again.runs / "small"
    file = GridFolder(grid_dir).index_file
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["slug"] += "".join(added) if row["slug"].endswith("s0") else ""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return grid_dir, [row["slug"] for row in rows]


def test_every_shown_name_means_its_cell_also_where_its_folder_has_an_earlier_name(again: Launcher) -> None:
    grid_dir, slugs = shown(again, "-learning_rate_0.02")
    by_signature = folders(grid_dir)
    for slug in slugs:
        (cell,) = named_cells.chosen(grid_dir, [slug], only_one=True)
        assert cell.path == by_signature[cell.signature].path and slug.startswith(cell.path.name.partition("-")[2])
        assert named_cells.chosen(grid_dir, [f"{cell.signature}-{slug}"]) == [cell]
    assert len(named_cells.chosen(grid_dir, ["learning_rate"])) == 2
    assert len(named_cells.chosen(grid_dir, ["learning_rate", "s1"])) == 4


def test_whole_name_means_only_its_cell_where_others_contain_it(again: Launcher) -> None:
    grid_dir, slugs = shown(again)
    file = GridFolder(grid_dir).index_file
    longer, (first, *_) = f"{slugs[0]}-learning_rate_0.02", slugs
    file.write_text(file.read_text().replace(f'"{slugs[1]}"', f'"{longer}"'))
    (cell,) = named_cells.chosen(grid_dir, [first], only_one=True)
    assert cell.path.name.endswith(f"-{first}")
    with pytest.raises(ValueError, match=rf"{first[:-1]}' means 2: .*-{longer}"):
        named_cells.chosen(grid_dir, [first[:-1]], only_one=True)


def test_word_that_means_no_cell_is_refused_with_the_command_that_shows_names(again: Launcher) -> None:
    with pytest.raises(ValueError, match=r"as `rankmatch status --grid small --runs .*` shows them; got 'nothing'"):
        named_cells.chosen(again.runs / "small", ["s0", "nothing"])
