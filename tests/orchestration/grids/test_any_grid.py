"""Any grid file is refused by one line or read as its cells, and the copy that a launch keeps is read as the same."""

import itertools
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.grids import grid, grid_spec

COMMON = {"dataset": "synthetic", "backbone": "mobilenet_v2", "backbone.pretrained": False}
AXES = {
    "method": ["supervised", "fixmatch", "unimatch", "rankmatch"],
    "split": [2, 4, 8],
    "seed": [0, 1, 2, 7],
    "trainer.learning_rate": [0.001, "1e-3", 0.01, -1],
    "method.num_agents": [4, 8, 0],
    "trainer.epochs": [1, 2, "two"],
}
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small grid file: its axes may have values twice, that are equal, or that are not allowed."""
    keys = draw(st.lists(st.sampled_from([*AXES]), min_size=1, max_size=3, unique=True))
    axes = {key: draw(st.lists(st.sampled_from(AXES[key]), min_size=1, max_size=2)) for key in keys}
    tree: dict[str, Any] = {"set": dict(COMMON), "axes": axes}
    if draw(st.booleans()):
        key = draw(st.sampled_from(keys))
        tree["exclude"] = [{key: draw(st.sampled_from(AXES[key]))}]
    if draw(st.booleans()):
        tree["baseline"] = {draw(st.sampled_from(keys)): draw(st.sampled_from(AXES[keys[0]]))}
    return tree


@QUICK
@given(grids())
def test_grid_is_its_combinations_each_once_and_its_copy_has_the_same_or_one_line_says_why_not(
    tmp_path: Path, tree: dict[str, Any]
) -> None:
    path, copy = tmp_path / "any.yaml", tmp_path / "copy.yaml"
    path.write_text(grid_spec.to_yaml(tree), encoding="utf-8")
    try:
        read = grid.load(str(path))
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) > 20
        return
    signatures = [cell.signature for cell in read.cells]
    assert len(set(signatures)) == len(signatures) and signatures
    whole = len([*itertools.product(*tree["axes"].values())])
    # Cells that differ in what their method does not read are one; an excluded value takes all of its cells.
    assert len(signatures) <= whole
    if "exclude" not in tree and "method.num_agents" not in tree["axes"]:
        assert len(signatures) == whole
    copy.write_text(read.text, encoding="utf-8")
    again = grid.load(str(copy))
    assert [cell.signature for cell in again.cells] == signatures
    assert [cell.axes for cell in again.cells] == [cell.axes for cell in read.cells]
    assert again.text.partition("\n")[2] == read.text.partition("\n")[2]
