"""The page of a grid in a real Chromium: what a reader sees, what a screen reader hears, what the page asks for."""

import warnings

import finished_grids
import pytest
from web_pages import PANELS_THAT_OVERLAP, WIDER_THAN_THE_WINDOW, violations

from dashboards import report
from dashboards.gathered import gather

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid with finished, failed, damaged and missing cells, and its page."""
    runs = tmp_path_factory.mktemp("browser")
    loaded = finished_grids.written(runs, more="  names: {split: {4: '<b>\"4\" & 日本</b>'}}")
    grid_dir = runs / "made"
    finished_grids.finish(loaded, grid_dir, loaded.cells[:9])
    finished_grids.fail(
        loaded, grid_dir, 9, "no <b>memory</b>", "<script>document.title = 'run'</script>\n" + "x" * 300
    )
    (grid_dir / "cells" / loaded.cells[0].folder_name / "result.json").write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the damaged file, once in a process
        report.write(loaded, grid_dir)
        yield loaded, grid_dir, {row["signature"]: row for row in gather(loaded, grid_dir).runs.to_pylist()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_page_is_accessible_keeps_within_the_window_and_asks_for_nothing(browser, grid, width, scheme, tmp_path):
    _, grid_dir, _ = grid
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce"
    )
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{grid_dir}/report.html")
    page.screenshot(path=tmp_path / f"report-{width}-{scheme}.png", full_page=True)
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.title() == "made: report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDER_THAN_THE_WINDOW) == []
    assert page.evaluate(PANELS_THAT_OVERLAP) == []
    assert violations(page) == []
    context.close()


def test_numbers_in_the_page_are_those_of_the_arrow_table_and_lead_to_the_run(browser, grid):
    loaded, grid_dir, runs = grid
    page = browser.new_page()
    page.goto(f"file://{grid_dir}/report.html")
    for signature, run in runs.items():
        shown = page.locator(f"#r-{signature} > td").all_inner_texts()
        best = "—" if run["best_miou"] is None else f"{100 * run['best_miou']:.2f}"
        assert shown[:3] == [run["method"], run["split"], run["seed"]]
        assert shown[3].split()[-1] == run["status"]
        assert shown[4] == best
    mean = sum(run["best_miou"] for run in runs.values() if (run["method"], run["split"]) == ("unimatch", "8")) / 2
    entry = page.locator("section[aria-labelledby=tables] table").first.get_by_text(f"{100 * mean:.1f} ±").first
    entry.click()
    (group,) = page.locator("tbody:target").all()
    links = group.locator("tr[id] a").all()
    assert [link.inner_text() for link in links] == [
        cell.signature for cell in loaded.cells if (cell.axes["method"], cell.axes["split"]) == ("unimatch", "8")
    ]
    assert (grid_dir / links[0].get_attribute("href") / "result.json").is_file()
    page.close()


def test_page_is_operated_by_keys(browser, grid):
    _, grid_dir, _ = grid
    page = browser.new_page()
    page.goto(f"file://{grid_dir}/report.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None
    page.close()


def test_page_is_printed_on_a4_pages(browser, grid, tmp_path):
    _, grid_dir, _ = grid
    page = browser.new_page()
    page.goto(f"file://{grid_dir}/report.html")
    content = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert b"/MediaBox [0 0 594" in content or b"/MediaBox [0 0 595" in content
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 less the margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


def test_page_of_two_thousand_cells_is_at_most_six_megabytes_and_lists_each(browser, tmp_path):
    loaded = finished_grids.written(tmp_path, splits=str(list(range(4, 24))), seeds=str(list(range(34))))
    text = report.render(finished_grids.imagined(loaded, tmp_path / "made", epochs=40))
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    assert len(loaded.cells) == 2040
    assert len(text.encode()) <= report.MAX_BYTES
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/report.html")
    assert set(page.evaluate("[...document.querySelectorAll('tr[id]')].map(row => row.id)")) == {
        f"r-{cell.signature}" for cell in loaded.cells
    }
    page.close()
