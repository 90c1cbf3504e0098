"""The dashboard in a real Chromium: what a person sees, what changes while they look, and what each page asks for."""

import re
import time
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import pytest
from live_server import mixed_grid, run_epochs, served
from playwright.sync_api import expect
from web_pages import PANELS_THAT_OVERLAP, WIDER_THAN_THE_WINDOW, violations

from dashboards import report
from orchestration.results import run_table
from orchestration.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.filterwarnings("ignore:.*is damaged"),
]
SECONDS = 10_000
"""Milliseconds within which a change must be seen; the page asks every three seconds."""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    loaded, grid_dir = mixed_grid(tmp_path_factory.mktemp("site"))
    (grid_dir.parent / "empty" / "cells").mkdir(parents=True)
    return loaded, grid_dir


@pytest.fixture(scope="module")
def site(grid):
    with served(grid[1].parent) as found:
        yield found


@pytest.fixture
def page(browser):
    """A page that must say nothing on the console and ask no other host."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    opened = context.new_page()
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    context.close()
    assert said == []
    assert {re.sub(r":\d+/.*", "", url) for url in asked} <= {"http://127.0.0.1"}


@contextmanager
def served_to(page, runs):
    """A server whose page asks for nothing more once it ends."""
    with served(runs) as site:
        yield site
        page.goto("about:blank")


def addresses(loaded) -> dict[str, str]:
    cells = {name: loaded.cells[place].signature for name, place in
             (("damaged", 0), ("done", 4), ("failed", 9), ("running", 10))}  # fmt: skip
    both = urlencode({"a": f"made/{cells['done']}", "b": f"made/{loaded.cells[5].signature}"})
    rows = urlencode({"a": "made?method=supervised", "b": "made?method=unimatch"})
    return {
        "grids": "/",
        "grid": "/g/made/",
        "empty": "/g/empty/",
        "nothing": "/g/made/?split=4&state=interrupted",
        "choose": f"/compare?a=made/{cells['done']}",
        "cells": f"/compare?{both}",
        "rows": f"/compare?{rows}",
        **{name: f"/g/made/cells/{signature}/" for name, signature in cells.items()},
    }


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_pages_are_accessible_and_keep_within_the_window(page, site, grid, width, scheme, tmp_path):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    for name, path in addresses(grid[0]).items():
        page.goto(site.address + path)
        page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(WIDER_THAN_THE_WINDOW) == [], name
        assert page.evaluate(PANELS_THAT_OVERLAP) == [], name
        assert violations(page) == [], name


def test_filters_lead_to_a_cell_whose_numbers_are_those_of_the_arrow_table(page, site, grid):
    loaded, grid_dir = grid
    page.goto(f"{site.address}/g/made/")
    page.get_by_label("method").select_option("unimatch")
    page.get_by_label("split").select_option("8")
    page.get_by_role("button", name="Show").click()
    assert "method=unimatch&split=8" in page.url
    runs = {run["signature"]: run for run in run_table.collect(grid_dir, loaded.cells).to_pylist()
            if (run["method"], run["split"]) == ("unimatch", "8")}  # fmt: skip
    shown = {row.get_attribute("id")[2:]: row.locator("td").all_inner_texts() for row in page.locator("tr[id]").all()}
    assert {name: texts[6] for name, texts in shown.items()} == {
        name: f"{100 * run['best_miou']:.2f}" for name, run in runs.items()
    }
    signature = next(iter(runs))
    page.locator(f"#c-{signature} a").first.click()
    assert page.locator("dt", has_text="mIoU, best epoch").locator("+ dd").inner_text() == shown[signature][6]
    figure = page.locator("figure", has_text="mIoU (%)").first
    figure.locator("summary").click()
    epochs = RunFolder(grid_dir / "cells" / runs[signature]["folder"]).epochs()
    assert [row.inner_text().split() for row in figure.locator("tbody tr").all()] == [
        [str(row["epoch"]), f"{100 * row['miou']:.1f}", "(1)"] for row in epochs
    ]
    page.go_back()
    assert page.get_by_label("method").input_value() == "unimatch"


def test_page_of_a_running_cell_changes_while_it_is_looked_at_and_keeps_what_is_open(page, browser, tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    cell = loaded.cells[10]
    with served_to(page, tmp_path) as site:
        page.goto(f"{site.address}/g/made/cells/{cell.signature}/")
        figure = page.locator("figure", has_text="mIoU (%)").first
        figure.locator("summary").click()
        page.get_by_role("button", name="Copy the command: End it").focus()
        assert figure.locator("tbody tr").count() == 3
        attempt = run_epochs(loaded, grid_dir, 10, 6)
        with (attempt / "log").open("a") as log:
            log.writelines(f"line {number}\n" for number in range(100))
        figure.locator("tbody tr").nth(5).wait_for(timeout=SECONDS)
        assert page.locator("dt", has_text="epoch").first.locator("+ dd").inner_text() == "6/7"
        assert figure.locator("details").get_attribute("open") is not None
        assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Copy the command: End it")
        page.get_by_text("line 99").wait_for(timeout=SECONDS)
        log = page.locator(".log")
        assert log.evaluate("log => log.scrollTop + log.clientHeight >= log.scrollHeight - 4")
        log.evaluate("log => { log.scrollTop = 0 }")
        with (attempt / "log").open("a") as file:
            file.write("the last one\n")
        page.locator(".log", has_text="the last one").wait_for(timeout=SECONDS)
        assert log.evaluate("log => log.scrollTop") == 0


def test_page_of_a_grid_counts_a_cell_that_begins_and_says_when_the_server_is_gone(page, tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    with served(tmp_path) as site:
        page.goto(f"{site.address}/g/made/")
        page.get_by_label("method").select_option("rankmatch")  # chosen, and not sent yet
        run_epochs(loaded, grid_dir, 11, 2)
        page.get_by_text("2 running").wait_for(timeout=SECONDS)
        assert page.get_by_label("method").input_value() == "rankmatch"
    page.context.route("**/*", lambda route: route.fulfill(status=204))  # the console tells of a refused connection
    page.get_by_text("The server does not answer").wait_for(timeout=SECONDS)


def test_names_with_markup_quotes_and_letters_of_any_kind_are_text(page, tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    odd = grid_dir.rename(tmp_path / "<img src=x onerror=alert(1)>\"g'& 日本")
    with served_to(page, tmp_path) as site:
        page.goto(site.address)
        page.get_by_role("link", name=odd.name, exact=True).click()
        expect(page).to_have_title(odd.name)
        expect(page.locator("h1")).to_have_text(odd.name)
        page.locator(f"#c-{loaded.cells[9].signature} a").first.click()
        assert page.locator("pre.log").inner_text() == "<script>document.title = 'run'</script>"
        assert page.locator("img").count() == 0
        expect(page).to_have_title(f"{loaded.cells[9].slug} of {odd.name}")
        page.get_by_role("link", name="Compare it").click()
        page.get_by_role("link", name="method=unimatch split=8 (2 cells)").click()
        expect(page.get_by_role("heading", name="Settings that differ")).to_have_count(1)
        assert quote(quote("日本")) in page.url


def test_command_is_copied_whole(page, site, grid):
    page.goto(f"{site.address}/g/made/")
    page.get_by_role("button", name="Copy the command: Print the table").click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == f"rankmatch table --grid made --runs {grid[1].parent}"


def test_token_opens_the_pages_in_this_browser(browser, grid):
    with served(grid[1].parent, token="secret-token", prefix="/p") as site:
        other = browser.new_page()
        other.goto(f"{site.address}/p/g/made/")
        assert violations(other) == []
        other.get_by_label("token").fill("secret-token")
        other.get_by_role("button", name="Show the grids").click()
        other.get_by_role("link", name="made", exact=True).click()
        expect(other.get_by_text("8 of 12 cells are done.")).to_have_count(1)
        assert "secret" not in other.url
        other.close()


def test_report_leads_from_its_runs_to_the_pages_of_cells(page, tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    report.write(loaded, grid_dir)
    with served_to(page, tmp_path) as site:
        page.goto(f"{site.address}/g/made/")
        page.get_by_role("link", name="Report").click()
        page.locator(f"#r-{loaded.cells[4].signature} a").first.click()
        page.wait_for_url(f"**/cells/{loaded.cells[4].folder_name}/")
        expect(page.locator("h1")).to_have_text(loaded.cells[4].slug)


def test_two_thousand_cells_are_looked_through_page_by_page(page, tmp_path):
    from benchmarks.bench_dashboard import make_grid

    make_grid(tmp_path, 2000, 2)
    with served_to(page, tmp_path) as site:
        begun = time.monotonic()
        page.goto(f"{site.address}/g/grid0/?state=done")
        assert time.monotonic() - begun < 60
        assert page.locator("tr[id]").count() == 200
        page.get_by_role("link", name="After").click()
        expect(page.get_by_text("201 to 400 of 1800")).to_have_count(1)
