"""`rankmatch report` on a grid of 2,000 finished cells: size, time and first paint; the reference is the bound."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import finished_grids

from benchmarks.harness import Row, Settings, plain, seconds
from dashboards import report

MAX_MB, PAINT_S, WRITE_S = 6.0, 2.0, 60.0
PAINTED = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"


def rows(settings: Settings) -> Iterator[Row]:
    """Write the page of a grid with pictures, counts and 40 epochs of each cell; then open it in Chromium, if any."""
    splits, seeds, epochs = (2, 2, 4) if settings.tiny else (20, 34, 40)
    root = Path(tempfile.mkdtemp(prefix="rankmatch-bench-"))
    try:
        loaded = finished_grids.written(root, splits=str(list(range(4, 4 + splits))), seeds=str(list(range(seeds))))
        finished_grids.finish(loaded, root / "made", epochs=epochs)
        note = f"{len(loaded.cells)} cells x {epochs} epochs; reference: the bound"
        page = root / "made" / report.PAGE
        yield plain("report_written", seconds(lambda: report.write(loaded, root / "made")), WRITE_S, "s", note)
        yield plain("report_size", page.stat().st_size / 1e6, MAX_MB, "MB", note)
        if (painted := first_paint_s(page)) is not None:
            yield plain("report_first_paint", painted, PAINT_S, "s", f"{note}; median of 3")
    finally:
        shutil.rmtree(root)


def first_paint_s(page: Path) -> float | None:
    """Return when Chromium first shows something of a file; None where there is no Chromium or no Playwright."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    if found is None:
        return None
    taken = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for _ in range(3):
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            tab.goto(f"file://{page}", wait_until="commit")
            until = time.monotonic() + 60
            while not (painted := tab.evaluate(PAINTED)) and time.monotonic() < until:
                time.sleep(0.05)
            taken += [painted[0] / 1000] if painted else []
            tab.close()
        browser.close()
    return sorted(taken)[len(taken) // 2] if taken else None
