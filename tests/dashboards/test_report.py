import re

import finished_grids
import pytest
from PIL import Image
from typer.testing import CliRunner

from dashboards import report
from dashboards.gathered import gather
from orchestration.commands.main import app
from orchestration.runs.run_folder import RunFolder


@pytest.fixture
def made(tmp_path):
    loaded = finished_grids.written(tmp_path)
    return loaded, tmp_path / "made"


def page_of(loaded, grid_dir):
    return report.write(loaded, grid_dir).read_text()


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_page_of_a_grid_where_nothing_is_trained(made):
    page = text_of(page_of(*made))
    assert "0 of 12 cells are done." in page and "12 missing" in page
    assert (
        "No cell is done yet." in page
        and "No run has had a second epoch yet." in page
        and "No cell has failed." in page
    )


def test_page_needs_nothing_but_itself(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir)
    page = page_of(loaded, grid_dir)
    assert not re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", page)
    assert "<script" not in page
    assert sorted(path.name for path in grid_dir.iterdir()) == ["cells", "grid.yaml", "launches", "report.html"]
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)
    assert page == report.render(gather(loaded, grid_dir))


def test_every_number_of_the_table_leads_to_its_runs_and_these_to_their_folders(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir)
    page = page_of(loaded, grid_dir)
    records = gather(loaded, grid_dir).runs.to_pylist()
    of_entry = [row["best_miou"] for row in records if (row["method"], row["split"]) == ("rankmatch", "8")]
    mean = 100 * sum(of_entry) / 2
    (link,) = set(re.findall(rf'<a href="#(runs-2-1)"><b>{mean:.1f} ± [0-9.]+</b></a>', page))
    group = page.partition(f'<tbody id="{link}">')[2].partition("</tbody>")[0]
    for cell in loaded.cells:
        if (cell.axes["method"], cell.axes["split"]) == ("rankmatch", "8"):
            assert f'<a href="cells/{cell.folder_name}/">{cell.signature}</a>' in group
            words = f"--runs {grid_dir.parent} method=rankmatch split=8 seed={cell.axes['seed']}"
            assert f"rankmatch launch --grid made {words}</code>" in group
            planned = CliRunner().invoke(app, ["plan", "--grid", "made", *words.split()], catch_exceptions=False)
            assert "1 cell: 1 keep" in planned.output
    assert group.count("c0ffeec0ffee") == 2


def test_failures_have_class_count_and_the_end_of_the_log_and_retries_are_listed(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir, loaded.cells[2:])
    for number in (0, 1):
        finished_grids.fail(loaded, grid_dir, number, "no <b>memory</b>", "first\n<script>alert(1)</script>\n'last'")
    page = page_of(loaded, grid_dir)
    assert "out of memory: 2 cells" in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page and "no &lt;b&gt;memory&lt;/b&gt;" in page
    assert text_of(page).count("1: node failure on node1") == 2


def test_damaged_folder_is_named_and_the_others_are_shown(made):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir)
    (grid_dir / "cells" / loaded.cells[0].folder_name / "result.json").write_text("{")
    with (grid_dir / "cells" / loaded.cells[1].folder_name / "attempts/1/epochs.jsonl").open("a") as file:
        file.write("no row\n")
    with pytest.warns(UserWarning):
        page = text_of(page_of(loaded, grid_dir))
    assert "11 of 12 cells are done." in page and "1 damaged" in page
    shown = page.partition("What cannot be read")[2].partition("State of every cell")[0]
    assert loaded.cells[0].signature in shown and "result.json" in shown
    assert f"{loaded.cells[1].signature} (method=supervised split=4 seed=1): lines of its epochs are no rows" in shown


def test_names_with_marks_of_html_and_of_other_scripts_are_shown_as_they_are(tmp_path):
    name = '<i>"8" & $x^{$ 日本</i>'
    loaded = finished_grids.written(tmp_path, more=f"  names: {{split: {{4: '{name}'}}}}")
    finished_grids.finish(loaded, tmp_path / "made")
    page = page_of(loaded, tmp_path / "made")
    assert "<i>" not in page
    assert '<th scope="col">&lt;i&gt;&#34;8&#34; &amp; $x^{$ 日本&lt;/i&gt;</th>' in page
    assert page.count("日本") > 20


def test_one_cell_that_runs_is_shown(tmp_path):
    loaded = finished_grids.written(tmp_path, splits="[4]", seeds="[0]")
    cell = loaded.cells[0]
    folder = RunFolder(tmp_path / "made" / "cells" / cell.folder_name)
    folder.create("a: 1\n", cell.axes)
    folder.claim({}).event("started", step=0)
    assert "1 running" in text_of(page_of(loaded, tmp_path / "made"))


def test_too_large_a_page_draws_less_and_lists_as_much(made, monkeypatch):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir)
    whole = page_of(loaded, grid_dir)
    monkeypatch.setattr(report, "MAX_BYTES", 60_000)
    page = page_of(loaded, grid_dir)
    assert len(page) < 60_000 < len(whole)
    assert whole.partition('id="runs"')[2] == page.partition('id="runs"')[2]
    assert "nothing is drawn to keep the page small" in page


def test_commands_write_page_and_figures(made, tmp_path):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir)
    called = CliRunner().invoke(app, ["report", "made", "--runs", str(tmp_path)], catch_exceptions=False)
    assert called.output == f"{grid_dir / 'report.html'}\n"
    assert (grid_dir / "report.html").is_file()
    for figure in ("labels", "curves", "classes", "states", "calibration", "confusion"):
        words = ["figure", figure, "--grid", "made", "-o", f"{tmp_path}/{figure}.svg", "--runs", str(tmp_path)]
        CliRunner().invoke(app, words, catch_exceptions=False)
        assert "<desc" in (tmp_path / f"{figure}.svg").read_text()


@pytest.mark.parametrize("figure", ["pictures", "ranks"])
def test_what_runs_have_drawn_is_put_into_one_picture(made, tmp_path, figure):
    loaded, grid_dir = made
    words = ["figure", figure, "--grid", "made", "--runs", str(tmp_path), "-o"]
    with pytest.raises(ValueError, match=f"a finished run of grid made must have left {figure}; none has"):
        CliRunner().invoke(app, [*words, str(tmp_path / "a.png")], catch_exceptions=False)
    finished_grids.finish(loaded, grid_dir)
    with pytest.raises(ValueError, match=f"--output must end with .png for {figure}; got 'a.svg'"):
        CliRunner().invoke(app, [*words, "a.svg"], catch_exceptions=False)
    for name in ("a.png", "b.png"):
        CliRunner().invoke(app, [*words, str(tmp_path / name)], catch_exceptions=False)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 300 and picture.height > 200


def test_unknown_figure_metric_and_folder_are_refused(made, tmp_path):
    loaded, grid_dir = made
    finished_grids.finish(loaded, grid_dir, loaded.cells[:1])
    given = ["--grid", "made", "--runs", str(tmp_path), "-o", "a.pdf"]
    for words, said in (
        (
            ["figure", "bars", *given],
            "the figure must be one of labels, curves, classes, states, calibration, confusion, pictures, ranks; "
            "got 'bars'",
        ),
        (["figure", "curves", "--metric", "speed", *given], "--metric must be one of miou, loss, loss_x; got 'speed'"),
        (["report", "demo", "--runs", str(tmp_path)], "--runs must hold the folder of grid demo"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            CliRunner().invoke(app, words, catch_exceptions=False)
