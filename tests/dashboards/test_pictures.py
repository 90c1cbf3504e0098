import json
import re

import finished_grids
import pytest

from dashboards import pictures, report
from dashboards.gathered import gather


@pytest.fixture
def made(tmp_path):
    loaded = finished_grids.written(tmp_path)
    finished_grids.finish(loaded, tmp_path / "made")
    return loaded, tmp_path / "made"


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def folder_of(grid_dir, cell):
    return grid_dir / "cells" / cell.folder_name / "attempts" / "1" / "pictures"


def test_methods_stand_beside_each_other_for_the_same_images_of_a_split(made):
    loaded, grid_dir = made
    first, second = pictures.columns(gather(loaded, grid_dir), 8)
    assert [(column.title, column.where) for column in (first, second)] == [
        ("split=4", "seed=0"),
        ("split=8", "seed=0"),
    ]
    assert [example.name for example in first.examples] == ["0.png", "1.png"]
    for example in first.examples:
        assert [(one.label, one.right) for one in example.said] == [
            ("supervised", "75.0"), ("unimatch", "75.0"), ("rankmatch", "75.0")
        ]  # fmt: skip
    seeds = {cell.signature: cell.axes["seed"] for cell in loaded.cells}
    assert {seeds[one.signature] for one in first.examples[0].said} == {"0"}
    assert first.classes == [("class 0", "#000000"), ("class 2", "#008000"), ("ignored", "#e0e0c0")]
    (ranked,) = first.ranked
    assert (ranked.label, ranked.num_agents, ranked.top) == ("rankmatch", 16, [["1", "0.750", "3", "0.125"]])


def test_page_shows_each_picture_with_a_text_in_its_place_and_leads_to_the_run(made):
    page = report.render(gather(*made))
    shown = page.partition('id="samples"')[2].partition('id="costs"')[0]
    texts = re.findall(r'<img src="data:image/(?:png|jpeg);base64,[^"]+" alt="([^"]+)">', shown)
    assert len(texts) == shown.count("<img") == 2 * (2 * (2 + 3 * 2) + 2 + 2)
    assert "prediction of unimatch for 1.png" in texts
    assert "where rankmatch differs from the label of 0.png: 75.0 % of the labeled pixels are right" in texts
    assert "What the rank term of rankmatch sees in 0.png" in text_of(shown)
    assert set(re.findall(r'href="#(r-[0-9a-f]+)"', shown)) <= set(re.findall(r'id="(r-[0-9a-f]+)"', page))


def test_run_whose_pictures_are_gone_or_lie_elsewhere_is_left_out_and_the_others_are_shown(made):
    loaded, grid_dir = made
    (folder_of(grid_dir, loaded.cells[0]) / "0-label.png").unlink()
    index = folder_of(grid_dir, loaded.cells[4]) / "pictures.json"
    content = json.loads(index.read_text())
    content["images"][0]["image"] = "../../../result.json"
    index.write_text(json.dumps(content))
    first, second = pictures.columns(gather(loaded, grid_dir), 8)
    assert [one.label for one in first.examples[0].said] == ["rankmatch"]
    assert [one.label for one in second.examples[0].said] == ["supervised", "unimatch", "rankmatch"]


def test_runs_of_earlier_versions_show_the_picture_that_they_have(made):
    loaded, grid_dir = made
    for cell in loaded.cells:
        for path in folder_of(grid_dir, cell).iterdir():
            path.unlink()
    page = report.render(gather(loaded, grid_dir))
    assert page.count("<img src=") == 3 and "in a row each" not in page


def test_seed_with_the_most_runs_is_shown(tmp_path):
    loaded = finished_grids.written(tmp_path, splits="[4]")
    finished_grids.finish(loaded, tmp_path / "made", [cell for cell in loaded.cells if cell is not loaded.cells[0]])
    (column,) = pictures.columns(gather(loaded, tmp_path / "made"), 8)
    assert column.where == "seed=1" and len(column.examples[0].said) == 3
