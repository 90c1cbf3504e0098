"""How far the dashboard reaches: which links it follows, which names it takes, and who is known to it."""

import os
from urllib.parse import urlencode

import pytest
from live_server import mixed_grid, served

pytestmark = [pytest.mark.xdist_group("live"), pytest.mark.filterwarnings("ignore:.*is damaged")]

SECRET = "the-secret-of-another-folder"


def folder_of(grid, number):
    loaded, grid_dir = grid
    return grid_dir / "cells" / loaded.cells[number].folder_name


def move_out(path, outside):
    """Put a file or folder outside the runs folder, and leave a link in its place."""
    outside.mkdir(exist_ok=True)
    target = outside / path.name
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "part",
    ["config.yaml", "axes.json", "result.json", "attempts", "attempts/1", "attempts/1/events.jsonl",
     "attempts/1/epochs.jsonl", "attempts/1/owner.json", ""],
)  # fmt: skip
def test_cell_with_a_link_that_leads_out_is_named_and_not_read(tmp_path, part):
    (tmp_path / "runs").mkdir()
    grid = mixed_grid(tmp_path / "runs")
    cell, folder = grid[0].cells[4], folder_of(grid, 4)
    moved = folder / part
    for path in [path for path in (moved, *moved.rglob("*")) if path.suffix in (".json", ".jsonl", ".yaml")]:
        path.write_text(path.read_text().replace("unimatch", SECRET).replace("c0ffee", SECRET).replace("0.", "0.7531"))
    move_out(moved, tmp_path / "outside")
    with served(tmp_path / "runs") as site:
        listed = site.ask("/g/made/").text
        answer = site.ask(f"/g/made/cells/{cell.signature}/")
        picture = site.ask(f"/g/made/cells/{cell.signature}/files/attempts/1/samples.png")
        compared = site.ask(f"/compare?a=made/{cell.signature}&b=made/{grid[0].cells[5].signature}").text
    row = listed.partition(f'<tr id="c-{cell.signature}">')[2].partition("</tr>")[0]
    assert f"{part or folder.name} is a link that leads out of" in row
    assert answer.status == picture.status == 404
    for text in (row, answer.text, compared):
        assert SECRET not in text
        assert "7531" not in text


def test_linked_folder_of_cells_is_not_followed_though_an_index_names_them(tmp_path):
    (tmp_path / "runs").mkdir()
    grid = mixed_grid(tmp_path / "runs")
    move_out(grid[1] / "cells", tmp_path / "outside")
    with served(tmp_path / "runs") as site:
        listed = site.ask("/g/made/")
        cell = site.ask(f"/g/made/cells/{grid[0].cells[4].signature}/")
    assert listed.status == 200
    assert "cells is a link that leads out of made" in listed.text
    assert "0 of " in listed.text or "no cells yet" in listed.text
    assert cell.status == 404


def test_grid_whose_folder_is_a_link_is_named_and_not_followed(tmp_path):
    (tmp_path / "runs").mkdir()
    grid = mixed_grid(tmp_path / "runs")
    move_out(grid[1], tmp_path / "outside")
    with served(tmp_path / "runs") as site:
        listed, page = site.ask("/").text, site.ask("/g/made/")
    assert page.status == 404 and "/g/made/" not in listed
    assert "<code>made</code>" in listed.partition("it is a link, which pages do not follow")[2].partition("</p>")[0]


@pytest.mark.parametrize("part", ["index.jsonl", "launches"])
def test_link_of_a_grid_that_leads_out_is_named_and_its_cells_are_shown(tmp_path, part):
    (tmp_path / "runs").mkdir()
    grid = mixed_grid(tmp_path / "runs")
    (grid[1] / "launches").mkdir(exist_ok=True)
    move_out(grid[1] / part, tmp_path / "outside")
    with served(tmp_path / "runs") as site:
        text = site.ask("/g/made/").text
        assert site.ask("/").status == 200
    assert f"{part} is a link that leads out of made" in text
    assert "8 of 11 cells are done." in text


def test_links_to_what_pages_never_open_and_within_a_run_folder_do_no_harm(tmp_path):
    (tmp_path / "runs").mkdir()
    grid = mixed_grid(tmp_path / "runs")
    folder = folder_of(grid, 4)
    (folder / "attempts" / "1" / "checkpoints").mkdir()
    move_out(folder / "attempts" / "1" / "checkpoints", tmp_path / "outside")
    (folder / "attempts" / "1" / "kept.jsonl").symlink_to("epochs.jsonl")
    (folder / "circle").symlink_to("circle")
    with served(tmp_path / "runs") as site:
        assert site.ask(f"/g/made/cells/{grid[0].cells[4].signature}/").status == 200


def logged_in(site, token):
    form = {"content_type": "application/x-www-form-urlencoded"}
    return site.ask("/login", "POST", urlencode({"token": token}), **form).headers["set-cookie"].partition(";")[0]


@pytest.mark.parametrize("other", ['theme={"a": 1}', "a[b]=c", "x", "=", "a=\u00e9", 'q="un', "__Host-a=1,2;;"])
def test_cookie_of_another_site_does_not_log_anybody_out(tmp_path, other):
    with served(tmp_path, token="known") as site:
        cookie = logged_in(site, "known")
        for both in (f"{other}; {cookie}", f"{cookie}; {other}"):
            assert site.ask("/", cookie=both).status == 200
        assert site.ask("/", cookie=other).status == 401


def test_two_servers_at_the_same_port_of_two_machines_do_not_share_a_cookie(tmp_path):
    cookies = {}
    for token in ("one", "two"):
        with served(tmp_path, token=token) as site:
            cookies[token] = logged_in(site, token)
            assert site.ask("/", cookie="; ".join(cookies.values())).status == 200
    with served(tmp_path, token="one") as site:
        assert site.ask("/", cookie="; ".join(cookies.values())).status == 200
        assert site.ask("/", cookie=cookies["two"]).status == 401
    assert cookies["one"].partition("=")[0] != cookies["two"].partition("=")[0]


def test_address_that_a_request_came_to_is_the_servers_own(tmp_path):
    with served(tmp_path, host="0.0.0.0", at="127.0.0.3") as site:  # noqa: S104 (stands for the machine's address)
        assert site.ask("/").status == 200
        assert site.ask("/", host=f"127.0.0.3:{site.port}").status == 200
        assert site.ask("/", host="127.0.0.4").status == 400


def test_folder_whose_name_is_not_utf8_is_named_and_left_out(tmp_path):
    mixed_grid(tmp_path)
    (tmp_path / os.fsdecode(b"b\xff") / "cells").mkdir(parents=True)
    with served(tmp_path) as site:
        answer = site.ask("/")
        assert site.ask("/g/made/").status == 200
        assert site.ask("/g/b%ff/").status == 404
    assert answer.status == 200
    assert "<code>b\ufffd</code>" in answer.text
    assert 'href="/g/made/"' in answer.text


def test_runs_folder_and_pictures_whose_names_are_not_utf8_are_shown(tmp_path):
    runs = tmp_path / os.fsdecode(b"r\xff")
    runs.mkdir()
    grid = mixed_grid(runs)
    (folder_of(grid, 4) / os.fsdecode(b"p\xff.png")).write_bytes(b"")
    with served(grid[1].parent) as site:
        for path in ("/", "/g/made/", f"/g/made/cells/{grid[0].cells[4].signature}/"):
            assert site.ask(path).status == 200, path
