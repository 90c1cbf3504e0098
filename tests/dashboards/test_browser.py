"""The page of a grid in a real Chromium: what a reader sees, what a screen reader hears, what the page asks for."""

import os
import shutil
import warnings
from pathlib import Path

import finished_grids
import pytest

from dashboards import report
from dashboards.gathered import gather

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
AXE = Path(__file__).with_name("axe-core") / "axe.min.js"
WCAG = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
WIDER_THAN_THE_WINDOW = """() => [...document.querySelectorAll('body *')].filter(part =>
    !part.closest('.wide > *, pre > *, svg, .skip, .unseen') && part.getBoundingClientRect().right > innerWidth + 1
).map(part => part.outerHTML.slice(0, 100))"""
PANELS_THAT_OVERLAP = """() => {
    const boxes = [...document.querySelectorAll('figure, h2, h3, .wide')].filter(
        part => !part.closest('figure *, details:not([open]) *'));
    const found = boxes.map(part => [part, part.getBoundingClientRect()]).filter(pair => pair[1].width);
    const pairs = found.flatMap(([a, one], i) => found.slice(i + 1).map(([b, two]) => [a, one, b, two]));
    return pairs.filter(([a, one, b, two]) => !a.contains(b) && !b.contains(a) && one.left < two.right - 1
        && two.left < one.right - 1 && one.top < two.bottom - 1 && two.top < one.bottom - 1)
        .map(([a, , b]) => a.outerHTML.slice(0, 60) + ' | ' + b.outerHTML.slice(0, 60));
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "make test-browser needs a Chromium: apt-get install chromium"
    with sync_playwright() as driver:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = driver.chromium.launch(executable_path=found, args=flags)
        yield opened
        opened.close()


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
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(WCAG)
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]] == []
    assert len(found["passes"]) > 10
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
    page.emulate_media(media="print", color_scheme="dark")
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
