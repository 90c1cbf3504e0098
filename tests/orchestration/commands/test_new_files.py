import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from orchestration.commands.datasets import configuration
from orchestration.commands.main import app
from orchestration.grids import grid
from orchestration.grids.cells import from_yaml, to_yaml

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.exception
    return done.stdout


def uncommented(text: str, section: str) -> str:
    """Take the # from the example of a section and of all that belongs to it."""
    lines, inside = [], False
    for line in text.splitlines():
        inside = line.startswith(f"# {section}:") or (inside and line.startswith("#   "))
        lines.append(line.removeprefix("# ") if inside else line)
    return "\n".join(lines) + "\n"


def images(folder: Path, number: int) -> None:
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for place in range(number):
        Image.new("L", (40, 40), 9 * place).save(folder / f"images/{place}.png")
        Image.fromarray(np.tile(np.uint8([0, 255]), (40, 20))).save(folder / f"labels/{place}.png")


def test_new_grid_can_be_planned_as_it_is(folder):
    assert said("grid", "new", "mine").startswith("mine.yaml: edit it")
    loaded = grid.load("mine.yaml")
    assert len(loaded.cells) == 18 and loaded.baseline == {"method": "supervised"}
    assert loaded.axes == {
        "method": ["supervised", "unimatch", "rankmatch"], "split": ["4", "8"], "seed": ["0", "1", "2"]
    }  # fmt: skip
    assert "18 cells: 18 submit" in said("plan", "--grid", "mine.yaml")


def test_examples_of_sections_are_right_once_they_are_uncommented(folder):
    said("grid", "new", "mine")
    text = uncommented((folder / "mine.yaml").read_text(), "exclude")
    (folder / "without.yaml").write_text(text)
    assert len(grid.load("without.yaml").cells) == 18 - 4  # supervised: two of three seeds, in two splits
    (folder / "per.yaml").write_text(uncommented((folder / "mine.yaml").read_text(), "per"))
    rates = {(cell.axes["method"], cell.config.numerics.trainer.learning_rate) for cell in grid.load("per.yaml").cells}
    assert rates == {("supervised", 0.005), ("unimatch", 0.005), ("rankmatch", 0.02)}
    (folder / "priority.yaml").write_text(uncommented((folder / "mine.yaml").read_text(), "priority"))
    assert grid.load("priority.yaml").spec.priority == {"method": {"unimatch": 1}}


def test_every_key_that_a_grid_may_have_is_in_the_template_and_described():
    template = (ROOT / "experiments/templates/grid.yaml").read_text()
    (Path.cwd() / "wrong.yaml").write_text("wrong: 1\n")
    with pytest.raises(ValueError, match="a grid may have the keys") as caught:
        grid.load("wrong.yaml")
    keys = re.search(r"may have the keys ([\w, ]+);", str(caught.value))[1].split(", ")
    described = (ROOT / "docs/grids.md").read_text()
    for key in keys:
        assert re.search(rf"^(# )?{key}:", template, re.M), key
        assert f"| `{key}` |" in described, key
    from orchestration.tables import layouts

    for key in layouts.KEYS:
        assert re.search(rf"^\| .*`{key}`.* \|", described, re.M), key


def test_new_data_set_is_drawn_checked_shown_and_planned_as_its_first_lines_say(folder):
    images(folder, 80)
    said("data", "new", "cells")
    lines = re.findall(r"^#   (rankmatch .*?)   ", (folder / "cells.yaml").read_text(), re.M)
    assert [line.split()[1:3] for line in lines] == [
        ["splits", "draw"], ["data", "check"], ["data", "show"], ["grid", "new"]
    ]  # fmt: skip
    for line in lines:
        said(*line.split()[1:])
    assert (folder / "cells-20.png").is_file()
    loaded = grid.load("my_grid.yaml")
    assert loaded.axes["split"] == ["20"] and len(loaded.cells) == 9
    assert {cell.config.numerics.trainer.epochs for cell in loaded.cells} == {20}  # the data set file's number
    planned = " ".join(said("plan", "--grid", "my_grid.yaml").split())
    assert "9 cells: 9 submit" in planned and "warning: 9 cells of 40 steps: below 200 a model rarely" in planned
    assert "below 200" not in said("plan", "--grid", "my_grid.yaml", "trainer.epochs=100")


def test_sections_of_a_new_data_set_that_are_commented_out_name_fields_that_there_are(folder):
    said("data", "new", "cells")
    text = re.sub(r"^( +)# (\w+:)", r"\1\2", (folder / "cells.yaml").read_text(), flags=re.M)
    (folder / "all.yaml").write_text(text)
    config = configuration("all.yaml", [])
    assert config.numerics.dataset.colours == [[0, 0, 0], [128, 0, 0]] and config.numerics.dataset.image_bits == 12
    assert config.execution.split_root.endswith("/lists")
    assert from_yaml(to_yaml(config)) == config


def test_example_of_the_docs_is_a_data_set(folder):
    section = (ROOT / "docs/grids.md").read_text().partition("\n## Your own data set\n")[2]
    text = section.partition("```yaml\n")[2].partition("```")[0]
    (folder / "mitochondria.yaml").write_text(text)
    config = configuration("mitochondria.yaml", [])
    assert config.numerics.dataset.name == "mitochondria" and config.numerics.augment.crop_size == 241
    assert yaml.safe_load(text)["execution"]["class_names"] == config.execution.class_names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid", "new", "mine"], "mine.yaml exists and was kept"),
        (["grid", "new", "a b"], "the name of a grid file must consist of letters"),
        (["grid", "new", "other", "--dataset", "nothing"], "dataset must be one of camvid"),
        (["grid", "new", "other", "--dataset", "nothing.yaml"], "nothing.yaml"),
        (["data", "new", "synthetic"], "must not be called synthetic"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_replaced(words, message, folder):
    (folder / "mine.yaml").write_text("my own\n")
    done = CliRunner().invoke(app, words)
    assert message in str(done.exception)
    assert [path.name for path in folder.iterdir()] == ["mine.yaml"]
    assert (folder / "mine.yaml").read_text() == "my own\n"
