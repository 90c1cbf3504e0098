"""The documentation as a reader has it: opened from the disk, with its search, and without a network."""

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("documentation")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = tmp_path_factory.mktemp("site")
    words = ["--quiet", "--fail-on-warning", "--nitpicky", "-c", ROOT / "docs/site", "-d", made / "trees"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, ROOT / "docs", made / "pages"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return made / "pages"


@pytest.fixture
def opened(browser):
    """A page, and the addresses that it asked for."""
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    yield page, asked
    page.close()


def test_search_finds_a_message_a_setting_and_a_command(site, opened):
    page, _ = opened
    for words, found in (
        ("another launch is at work", "Every message"),
        ("max_submit", "Settings"),
        ("allow dirty", "Commands"),
    ):
        page.goto(f"{(site / 'search.html').as_uri()}?q={words}")
        expect(page.locator(f"#search-results li a:text-is('{found}')")).not_to_have_count(0)


def test_pages_ask_for_nothing_that_is_not_theirs(site, opened):
    page, asked = opened
    for name in ("index", "algorithm", "library"):
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_load_state()
    assert asked and all(url.startswith((site.as_uri(), "data:")) for url in asked)


def test_formulas_are_drawn_without_a_script(site, opened):
    page, _ = opened
    page.goto((site / "algorithm.html").as_uri())
    assert page.locator("math").count() > 30
    box = page.locator("div.math math").nth(2).bounding_box()
    assert box["width"] > 100 and box["height"] > 20
