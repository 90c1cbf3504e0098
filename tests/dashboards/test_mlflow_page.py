"""MLflow's own page in a real Chromium, as `rankmatch ui` opens it on a finished grid."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import finished_grids
import pytest
from ports import free_port

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PROGRAM = str(Path(sys.executable).parent / "rankmatch")
SHOWN_MS = 60_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The grid, and the addresses of its runs and of their curves."""
    runs = tmp_path_factory.mktemp("mlflow")
    loaded = finished_grids.written(runs)
    finished_grids.finish(loaded, runs / "made", loaded.cells[:4], with_pictures=False)
    subprocess.run([PROGRAM, "sync", "--grid", "made", "--runs", str(runs)], check=True, timeout=240)
    words = [PROGRAM, "ui", "--grid", "made", "--runs", str(runs), "--port", str(free_port()), "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        said: dict[str, str] = {}
        while "curves" not in said:
            line = process.stdout.readline()
            assert line, said
            said |= dict([line.split()]) if "http://" in line else {}
        yield loaded, said
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_runs_of_a_grid_are_found_by_name_with_their_best_miou_and_nothing_is_asked_of_another_host(
    browser, opened, tmp_path
):
    loaded, said = opened
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(said["runs"])
    for cell in loaded.cells[:4]:
        name = f"{'-'.join([cell.axes['method'], cell.axes['split'], 's' + cell.axes['seed']])} mobilenet_v2"
        page.get_by_text(name, exact=True).first.wait_for(timeout=SHOWN_MS)
    page.screenshot(path=tmp_path / "runs.png")
    page.goto(said["curves"])
    page.get_by_text("best_miou").first.wait_for(timeout=SHOWN_MS)
    page.screenshot(path=tmp_path / "curves.png")
    page.close()
    assert {re.sub(r":\d+/.*", "", url) for url in asked if url.startswith("http")} == {"http://127.0.0.1"}
