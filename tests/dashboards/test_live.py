"""The dashboard as a browser asks for it: what it says, who may ask, and that it leaves everything as it is."""

import json
import re
import shutil
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode

import finished_grids
import pytest
import yaml
from live_server import mixed_grid, run_epochs, served
from typer.testing import CliRunner

from dashboards.live import chart
from dashboards.live.cell_page import log_tail
from dashboards.live.server import serve
from orchestration.commands import main
from orchestration.launching.launch_folder import only_launch_of
from orchestration.results import run_table
from orchestration.runs.folders import GridFolder
from orchestration.runs.run_folder import RunFolder

pytestmark = [pytest.mark.xdist_group("live"), pytest.mark.filterwarnings("ignore:.*is damaged")]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return mixed_grid(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def site(grid):
    with served(grid[1].parent) as found:
        yield found


def cells_in(text: str) -> dict[str, list[str]]:
    """Return the texts of each row of the table of cells, by signature."""
    rows = re.findall(r'<tr id="c-([0-9a-f]{12})">(.*?)</tr>', text, re.S)
    return {name: [re.sub(r"<[^>]*>", "", part).strip() for part in re.findall(r"<td.*?>(.*?)</td>", row, re.S)]
            for name, row in rows}  # fmt: skip


def tree_of(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def test_numbers_are_those_of_the_arrow_table(site, grid):
    loaded, grid_dir = grid
    shown = cells_in(site.ask("/g/made/").text)
    runs = run_table.collect(grid_dir, loaded.cells).to_pylist()
    assert len(shown) == len(runs) == 12
    for run in runs:
        state, method, split, seed, epoch, _, best = shown[run["signature"]][:7]
        if run["status"] != "missing":
            assert (method, split, seed) == (run["method"], run["split"], run["seed"])
            assert state.split()[-1] == run["status"]
        if run["status"] == "done":
            assert (epoch, best) == ("7/7", f"{100 * run['best_miou']:.2f}")
    running = run_table.collect(grid_dir, loaded.cells[10:11]).to_pylist()[0]
    row = RunFolder(grid_dir / "cells" / running["folder"]).epochs()[-1]
    assert shown[running["signature"]][4:7] == ["3/7", f"{100 * row['miou']:.2f}", f"{100 * row['best_miou']:.2f}"]


def test_failures_come_first_and_each_state_is_counted(site):
    text = site.ask("/g/made/").text
    states = [row[0].split(maxsplit=1)[1] for row in cells_in(text).values()]
    assert states == ["failed", "damaged", "running", "not submitted", *["done"] * 8]
    assert "8 of 12 cells are done." in text
    assert re.search(r"expected end: about 2\d{3}-", text)
    assert '<a href="?state=failed&amp;find=out+of+memory">out of memory</a>: 1 cell' in text


def test_address_filters_and_orders_cells(site, grid):
    loaded, _ = grid
    found = cells_in(site.ask("/g/made/?method=unimatch&split=8").text)
    assert set(found) == {cell.signature for cell in loaded.cells
                          if (cell.axes["method"], cell.axes["split"]) == ("unimatch", "8")}  # fmt: skip
    best = [float(row[6]) for row in cells_in(site.ask("/g/made/?state=done&sort=best").text).values()]
    assert best == sorted(best, reverse=True)
    assert len(best) == 8
    assert len(cells_in(site.ask("/g/made/?find=OUT+of+memory").text)) == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("nothing=4", "must be an axis of the cells: method, split, seed."),
        ("state=lazy", "must be a state: done, running"),
        ("sort=<i>", "&#39;&lt;i&gt;&#39; must be an order: state, grid, best, written."),
        ("page=0", "page must be a whole number from 1"),
    ],
)
def test_address_of_what_cannot_be_is_answered_with_what_can(site, query, said):
    answer = site.ask(f"/g/made/?{query}")
    assert answer.status == 400
    assert said in answer.text


def test_cell_has_curves_attempts_log_pictures_configuration_and_commands(site, grid):
    loaded, grid_dir = grid
    text = site.ask(f"/g/made/cells/{loaded.cells[4].signature}/").text
    assert text.count('<svg viewBox="0 0 360') == 5
    assert f'src="files/{quote("attempts/1/samples.png")}"' in text
    assert "method:" in text
    assert f"rankmatch drop {loaded.cells[4].signature} --grid made --runs {grid_dir.parent}" in text
    picture = site.ask(f"/g/made/cells/{loaded.cells[4].signature}/files/attempts/1/samples.png")
    assert picture.headers["content-type"] == "image/png"
    failed = site.ask(f"/g/made/cells/{loaded.cells[9].signature}/").text
    assert failed.count('class="name">node1<') == 2  # a row for each attempt
    assert "node failure" in failed
    assert "&lt;script&gt;document.title = &#39;run&#39;&lt;/script&gt;" in failed
    assert f"rankmatch retry {loaded.cells[9].signature}" in failed


def test_nothing_of_a_run_becomes_markup(tmp_path):
    loaded = finished_grids.written(tmp_path)
    finished_grids.fail(loaded, tmp_path / "made", 0, "</p><script>alert(1)</script>", '"><img src=x onerror=alert(1)>')
    grid_dir = (tmp_path / "made").rename(tmp_path / "<i>\"g'&日本")
    with served(tmp_path) as site:
        address = f"/g/{quote(grid_dir.name, safe='')}/"
        texts = [site.ask(path).text for path in ("/", address, f"{address}cells/{loaded.cells[0].signature}/")]
    assert all("&lt;i&gt;&#34;g&#39;&amp;日本" in text for text in texts)
    assert "&lt;img src=x onerror=alert(1)&gt;" in texts[2]
    for text in texts:
        assert text.count("<script") == 1
        assert "<img" not in text


def test_page_that_has_not_changed_is_not_sent_again(site):
    first = site.ask("/compare")
    again = site.ask("/compare", if_none_match=first.headers["etag"])
    assert (again.status, again.text) == (304, "")


def test_file_name_that_is_not_utf8_in_a_message_harms_neither_pages_nor_tables(tmp_path):
    loaded = finished_grids.written(tmp_path)
    grid_dir = tmp_path / "made"
    finished_grids.fail(loaded, grid_dir, 0, "b\udcff.png has the wrong size", "in b\udcfe.png")
    finished_grids.fail(loaded, grid_dir, 1, "fxff.png is torn", "")
    events = RunFolder(grid_dir / "cells" / loaded.cells[1].folder_name).attempts()[-1].events_file
    events.write_text(events.read_text().replace("fxff", r"f\udcff"))  # as earlier versions wrote it
    row = json.loads(
        RunFolder(grid_dir / "cells" / loaded.cells[0].folder_name)
        .attempts()[-1]
        .events_file.read_text()
        .splitlines()[-1]
    )
    assert row["message"] == "b\ufffd.png has the wrong size"
    with served(tmp_path) as site:
        texts = [site.ask(path).text for path in ("/g/made/", f"/g/made/cells/{loaded.cells[0].signature}/",
                                                  f"/g/made/cells/{loaded.cells[1].signature}/")]  # fmt: skip
    assert "b\ufffd.png has the wrong size" in texts[0]
    assert "b\ufffd.png has the wrong size" in texts[1]
    assert "f\ufffd.png is torn" in texts[2]
    for words in (["report", "made"], ["table", "--grid", "made"]):
        done = CliRunner().invoke(main.app, [*words, "--runs", str(tmp_path)])
        assert done.exit_code == 0, (words, done.output)
    assert "f\ufffd.png is torn" in (grid_dir / "report.html").read_text()


def test_message_cannot_turn_the_order_of_the_text_after_it_around(tmp_path):
    loaded = finished_grids.written(tmp_path)
    finished_grids.fail(loaded, tmp_path / "made", 0, "no \u202efdp.exe\u2066", "in \u202dc")
    with served(tmp_path) as site:
        texts = [site.ask(path).text for path in ("/g/made/", f"/g/made/cells/{loaded.cells[0].signature}/")]
    assert CliRunner().invoke(main.app, ["report", "made", "--runs", str(tmp_path)]).exit_code == 0
    for text in (*texts, (tmp_path / "made" / "report.html").read_text()):
        assert "no \ufffdfdp.exe\ufffd" in text
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_epoch_whose_number_is_none_is_compared_and_reported(tmp_path, number):
    loaded, grid_dir = mixed_grid(tmp_path)
    for cell in loaded.cells[4:6]:
        path = grid_dir / "cells" / cell.folder_name / "attempts" / "1" / "epochs.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([re.sub(r'"loss": [0-9.]+', f'"loss": {number}', lines[0]), *lines[1:]]) + "\n")
    sides = urlencode({"a": "made?method=unimatch", "b": "made?method=supervised"})
    with served(tmp_path) as site:
        for path in ("/g/made/", f"/compare?{sides}", f"/g/made/cells/{loaded.cells[4].signature}/"):
            assert site.ask(path).status == 200, path
    done = CliRunner().invoke(main.app, ["report", "made", "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert len(RunFolder(grid_dir / "cells" / loaded.cells[4].folder_name).epochs()) == (6 if "e" in number else 7)


def test_attempt_on_a_node_whose_clock_is_days_ahead_took_what_it_took(tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path / "runs")
    attempt = grid_dir / "cells" / loaded.cells[9].folder_name / "attempts" / "1"
    began, ahead = time.time() - 36000, 3 * 24 * 3600
    owner = json.loads((attempt / "owner.json").read_text())
    owner["started"] = datetime.fromtimestamp(began + ahead, UTC).isoformat(timespec="seconds")
    (attempt / "owner.json").write_text(json.dumps(owner))
    last = json.loads((attempt / "events.jsonl").read_text().splitlines()[-1])
    (attempt / "events.jsonl").write_text(json.dumps(last | {"time": began + ahead + 36000}) + "\n")
    with served(grid_dir.parent) as site:
        text = site.ask(f"/g/made/cells/{loaded.cells[9].signature}/").text
    ((begun, took),) = re.findall(r'<desc id="spans-desc">attempt 1 from (.+?) UTC, (.+?): ', text)
    assert abs(datetime.fromisoformat(f"{begun}+00:00").timestamp() - began) < 60 and took == "10.0 h"


@pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
def test_json_that_is_nested_without_end_is_damage_of_its_cell(tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    folder = grid_dir / "cells" / loaded.cells[4].folder_name
    parts = ["owner.json", "events.jsonl", "epochs.jsonl", "evaluation.json", "pictures/pictures.json"]
    with served(tmp_path) as site:
        for names in ([f"attempts/1/{part}" for part in parts], ["config.yaml"], ["axes.json"], ["result.json"]):
            for name in names:
                (folder / name).write_text("[" * 100_000 + "\n")
            time.sleep(0.6)
            for path in ("/", "/g/made/", f"/g/made/cells/{loaded.cells[4].signature}/"):
                assert site.ask(path).status == 200, (names, path)
            if len(names) > 1 or names == ["result.json"]:
                done = CliRunner().invoke(main.app, ["report", "made", "--runs", str(tmp_path)])
                assert done.exit_code == 0, (names, done.output)


def test_change_is_seen_within_seconds(tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    running = loaded.cells[10]
    with served(tmp_path) as site:
        assert cells_in(site.ask("/g/made/").text)[running.signature][4].startswith("3/7")
        run_epochs(loaded, grid_dir, 10, 5)
        run_epochs(loaded, grid_dir, 11, 1)
        time.sleep(2.1)
        rows = cells_in(site.ask("/g/made/").text)
        assert rows[running.signature][4].startswith("5/7")
        assert rows[loaded.cells[11].signature][0].endswith("running")


def test_note_of_a_launch_that_was_killed_counts_until_the_next_one(tmp_path):
    _, grid_dir = mixed_grid(tmp_path)
    killed = GridFolder(grid_dir).next_launch()
    killed.path.mkdir(parents=True)
    killed.launcher_file.write_text("{}")
    with served(tmp_path) as site:
        assert "a launch is at work, if it was not killed" in site.ask("/").text
    GridFolder(grid_dir).next_launch().path.mkdir()
    with served(tmp_path) as site:
        assert "a launch is at work" not in site.ask("/").text


def test_folder_that_is_removed_meanwhile_does_no_harm(tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    gone = loaded.cells[3]
    with served(tmp_path) as site:
        assert site.ask(f"/g/made/cells/{gone.signature}/").status == 200
        shutil.rmtree(grid_dir / "cells" / gone.folder_name)
        (grid_dir / "cells" / loaded.cells[10].folder_name / "attempts" / "1" / "owner.json").unlink()
        time.sleep(2.1)
        assert site.ask(f"/g/made/cells/{gone.signature}/").status == 404
        text = site.ask("/g/made/").text
        assert cells_in(text)[gone.signature][0].endswith("not submitted")
        shutil.rmtree(grid_dir)
        assert site.ask("/g/made/").status == 404
        assert site.ask("/").status == 200


def test_damaged_grid_says_so_and_others_work(tmp_path):
    mixed_grid(tmp_path)
    (tmp_path / "bad" / "cells").mkdir(parents=True)
    (tmp_path / "bad" / "index.jsonl").mkdir()
    (tmp_path / "void").mkdir()
    (tmp_path / "void" / "grid.yaml").write_text("{")
    with served(tmp_path) as site:
        assert "The list of cells cannot be read" in site.ask("/g/bad/").text
        assert "This grid has no cells yet." in site.ask("/g/void/").text
        assert "8 of 12 cells are done." in site.ask("/g/made/").text
        assert site.ask("/").text.count("<progress") == 3


def test_nothing_is_written_and_no_lock_is_waited_for(tmp_path):
    loaded, grid_dir = mixed_grid(tmp_path)
    with only_launch_of(grid_dir), served(tmp_path) as site:
        before = tree_of(tmp_path)
        sides = urlencode({"a": "made?method=supervised", "b": f"made/{loaded.cells[5].signature}"})
        for path in (
            "/",
            "/g/made/",
            f"/compare?{sides}",
            *(f"/g/made/cells/{one.signature}/" for one in loaded.cells),
        ):
            assert site.ask(path).status in (200, 404)
        assert tree_of(tmp_path) == before


def test_no_address_leads_out_of_the_folder(tmp_path):
    runs, secret = tmp_path / "runs", tmp_path / "secret.png"
    secret.write_text("secret")
    (tmp_path / "outside" / "cells").mkdir(parents=True)
    runs.mkdir()
    loaded, grid_dir = mixed_grid(runs)
    (runs / "linked").symlink_to(tmp_path / "outside")
    cell = grid_dir / "cells" / loaded.cells[10].folder_name
    (cell / "attempts" / "1" / "pictures").mkdir()
    (cell / "attempts" / "1" / "pictures" / "out.png").symlink_to(secret)
    (cell / "attempts" / "1" / "log").unlink()
    (cell / "attempts" / "1" / "log").symlink_to(secret)
    (grid_dir / "report.html").symlink_to(secret)
    of_cell = f"/g/made/cells/{loaded.cells[10].signature}"
    with served(runs) as site:
        assert "/g/linked" not in site.ask("/").text
        page = site.ask(f"{of_cell}/").text
        assert "out.png" not in page
        assert "secret" not in page
        for path in (
            "/g/linked/",
            "/g/../",
            "/g/%2e%2e/",
            "/g/..%2f..%2fetc/",
            "/g/made/report.html",
            f"{of_cell}/files/attempts/1/pictures/out.png",
            f"{of_cell}/files/../../../../../secret.png",
            f"{of_cell}/files/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret.png",
            f"{of_cell}/files//etc/passwd",
            f"{of_cell}/files/config.yaml",
            "/static/../server.py",
        ):
            answer = site.ask(path)
            assert answer.status == 404, path
            assert answer.text != "secret"


def test_every_answer_forbids_what_no_page_needs(site):
    for path in ("/", "/nothing", "/g/made/?x=1", "/static/live.js"):
        headers = site.ask(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_report_is_sent_without_the_right_to_run_anything(tmp_path):
    _, grid_dir = mixed_grid(tmp_path)
    (grid_dir / "report.html").write_text("<p>figures")
    with served(tmp_path) as site:
        answer = site.ask("/g/made/report.html")
    assert answer.text == "<p>figures"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-same-origin; default-src 'none'")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_name_that_is_not_the_servers_is_refused(site, host):
    answer = site.ask("/", host=host)
    assert answer.status == 400
    assert "--allow-host" in answer.text


def test_page_of_another_origin_may_not_ask(grid):
    with served(grid[1].parent, token="secret", hosts=["hub.example"]) as site:
        known = {"authorization": "Bearer secret"}
        others = ("http://evil.example", "null", f"http://127.0.0.1:{site.port + 1}", "http://localhost")
        assert [site.ask("/", origin=origin, **known).status for origin in others] == [403] * 4
        form = {"content_type": "application/x-www-form-urlencoded"}
        for origin, status in ((others[0], 403), (site.address, 303), ("https://hub.example", 303)):
            assert site.ask("/login", "POST", urlencode({"token": "secret"}), origin=origin, **form).status == status


def test_names_that_are_the_servers_are_answered(grid, site):
    assert [site.ask("/", host=host).status for host in ("localhost:1", "127.0.0.1", "[::1]:8770")] == [200] * 3
    with served(grid[1].parent, hosts=["hub.example"]) as named:
        assert named.ask("/", host="HUB.example").status == 200


def test_pages_can_only_be_read(site):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert site.ask("/g/made/", method=method).status == 405


def test_health_check_of_compose_is_answered_without_the_token(tmp_path):
    services = yaml.safe_load((Path(__file__).parents[2] / "docker" / "compose.yaml").read_text())["services"]
    path = services["dashboard"]["healthcheck"]["test"][-1]
    with served(tmp_path, host="0.0.0.0", token="secret") as site:  # noqa: S104 (bound to loopback)
        assert site.ask(path).status == 200


def test_token_is_asked_for_once_and_taken_from_header_or_cookie(grid, capfd):
    token = "correct-token"
    with served(grid[1].parent, host="0.0.0.0", token=token) as site:  # noqa: S104 (bound to loopback)
        refused = site.ask("/g/made/")
        assert refused.status == 401
        assert "8 of 12" not in refused.text
        assert site.ask("/static/look.css").status == 200
        assert site.ask("/g/made/", authorization="Bearer wrong").status == 401
        assert site.ask("/g/made/", authorization=f"Bearer {token}").status == 200
        form = {"content_type": "application/x-www-form-urlencoded"}
        wrong = site.ask("/login", "POST", urlencode({"token": "\u65e5"}), **form)
        assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)
        right = site.ask("/login", "POST", urlencode({"token": f" {token} "}), **form)
        cookie = right.headers["set-cookie"]
        assert right.status == 303
        assert "HttpOnly" in cookie
        assert token not in cookie
        assert site.ask("/g/made/", cookie=cookie.partition(";")[0]).status == 200
        assert site.ask("/g/made/", cookie=f"{cookie.partition('=')[0]}=x").status == 401
    assert token not in "".join(capfd.readouterr())


def test_pages_work_behind_a_prefix_that_a_proxy_keeps_or_takes_off(grid):
    with served(grid[1].parent, prefix="/rnode/n1/8770") as site:
        kept, taken = site.ask("/rnode/n1/8770/g/made/"), site.ask("/g/made/")
    assert re.sub(r"\d+ s", "", kept.text) == re.sub(r"\d+ s", "", taken.text)
    addresses = re.findall(r'(?:href|src|action)="(/[^"]*)"', kept.text)
    assert len(addresses) > 10
    assert all(address.startswith("/rnode/n1/8770/") for address in addresses)


def test_two_rows_are_compared_by_mean_and_spread(site, grid):
    loaded, grid_dir = grid
    sides = {"a": "made?method=supervised&split=8", "b": "made?method=unimatch&split=8"}
    text = site.ask(f"/compare?{urlencode(sides)}").text
    runs = [run for run in run_table.collect(grid_dir, loaded.cells).to_pylist() if run["split"] == "8"]
    means = {method: 50 * sum(run["best_miou"] for run in runs if run["method"] == method)
             for method in ("supervised", "unimatch")}  # fmt: skip
    assert f"{means['supervised']:.2f} ± " in text
    assert f"{means['unimatch'] - means['supervised']:+.2f}" in text
    assert '<th scope="row">method.name</th><td class="note-cell">supervised</td>' in text
    assert "<h2>Curves</h2>" in text


def test_comparison_offers_what_there_is(site, grid):
    loaded, _ = grid
    text = site.ask(f"/compare?a=made/{loaded.cells[4].signature}").text
    assert "method=unimatch split=8 (2 cells)" in text
    assert site.ask("/compare?a=nowhere").status == 400
    assert site.ask("/compare?a=made/000000000000").status == 404


def test_log_is_its_end_as_a_terminal_would_show_it(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 300_000 + b"\n" + b"old 1\rold 2\rnew\r\n\x1b[1;31mred\x1b[0m\x07\xff\n")
    assert log_tail(path) == "new\nred\ufffd\ufffd"
    path.write_text("".join(f"{number}\n" for number in range(1000)))
    assert log_tail(path).split("\n") == [str(number) for number in range(800, 1000)]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
def test_log_of_one_long_progress_bar_shows_where_it_stands(tmp_path, end):
    path = tmp_path / "log"
    path.write_text("\r".join(f"step {number}" for number in range(20_000)) + end)
    assert log_tail(path) == "step 19999"


@pytest.mark.parametrize(
    ("low", "high", "whole", "found"),
    [(0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]), (40.1, 61.2, False, [45, 50, 55, 60]), (1, 3, True, [1, 2, 3])],
)
def test_axes_are_labelled_by_round_values(low, high, whole, found):
    assert chart.ticks(low, high, whole) == pytest.approx(found)


def test_port_that_is_taken_is_named(tmp_path, site):
    done = CliRunner().invoke(main.app, ["dashboard", "--runs", str(tmp_path), "--port", str(site.port)])
    assert isinstance(done.exception, ValueError)
    assert f"127.0.0.1:{site.port} is not" in str(done.exception)
    done = CliRunner().invoke(main.app, ["dashboard", "--runs", str(tmp_path / "none")])
    assert "--runs must be a folder" in str(done.exception)


@pytest.mark.parametrize(("host", "asks"), [("127.0.0.1", False), ("0.0.0.0", True)])  # noqa: S104
def test_address_that_others_can_reach_asks_for_a_token_and_says_so(tmp_path, monkeypatch, host, asks):
    said = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    serve(tmp_path, host=host, port=0, root_path="x", hosts=(), with_token=False, say=said.append)
    shown = re.escape(socket.gethostname() if asks else host)
    assert re.fullmatch(rf"http://{shown}:\d+/x/  \(Ctrl-C ends it\)", said[0])
    assert [any("token" in line for line in said), any("without TLS" in line for line in said)] == [asks, asks]
