"""The pages by their addresses, and the server that answers: at 127.0.0.1 by default."""

import hashlib
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import uvicorn
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dashboards.live import cell_page, comparison, grid_page, places
from dashboards.live.guard import Guard, is_loopback, names_of
from dashboards.live.watch import Look, Watch
from dashboards.rendering import css, render, resource
from orchestration.machine import own_files
from orchestration.runs.folders import GridFolder

PORT = 8770
_ANY = ("0.0.0.0", "::")  # noqa: S104 (what a user gave)
"""All addresses of the machine; a browser elsewhere can use neither."""
_REPORT_POLICY = (
    "sandbox allow-same-origin; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
)
"""Of a file that anybody may have put there: it may show what it holds."""
_CODES = {places.NotThereError: 404, grid_page.BadAddressError: 400, OSError: 503}


class Pages:
    """Answers for the grids below a runs folder; keeps what it has seen of them in memory only."""

    def __init__(self, runs: Path, prefix: str = "") -> None:
        self._runs, self._prefix = runs, prefix
        self._watches: dict[str, Watch] = {}
        self._lock = Lock()

    def app(self) -> Starlette:
        """Return the application."""
        routes: list[tuple[str, Callable[[Request], Response]]] = [
            ("/", self.grids),
            ("/g/{grid}/", self.grid),
            ("/g/{grid}/report.html", self.report),
            ("/g/{grid}/cells/{cell}/", self.cell),
            ("/g/{grid}/cells/{cell}/files/{name:path}", self.picture),
            ("/compare", self.compare),
            ("/static/look.css", self.css),
            ("/static/live.js", self.script),
            ("/static/icon.svg", self.icon),
        ]
        made = Starlette(routes=[Route(path, _guarded(self, page), methods=["GET"]) for path, page in routes])
        made.add_exception_handler(HTTPException, lambda request, error: self._said(404, "There is no such page."))
        made.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=3)
        return made

    def grids(self, request: Request) -> Response:
        """List the grids."""
        data = {
            "grids": grid_page.listed(self._runs),
            "runs": str(self._runs),
            "nameless": places.nameless(self._runs),
            "linked": places.linked(self._runs),
        }
        return self._page(request, "live_grids.html", data)

    def grid(self, request: Request) -> Response:
        """Show a grid, with the cells that the address asks for."""
        name = request.path_params["grid"]
        grid_dir, look = self._look(name)
        wanted = grid_page.read(request.query_params.multi_items(), look)
        data = grid_page.build(name, self._runs, look, wanted)
        return self._page(
            request, "live_grid.html", {**data, "has_report": places.inside(GridFolder(grid_dir).page_file, grid_dir)}
        )

    def cell(self, request: Request) -> Response:
        """Show a cell."""
        name = request.path_params["grid"]
        grid_dir, look = self._look(name)
        folder = places.cell_folder(grid_dir, request.path_params["cell"])
        seen = next((cell for cell in look.cells if cell.folder == folder.name), None)
        if seen is None:
            raise places.NotThereError("The cell has just come or gone; look again in a moment.")
        given = request.query_params.get("attempt", "")
        number = int(given) if given.isascii() and given.isdigit() and len(given) < 9 else None
        return self._page(request, "live_cell.html", cell_page.build(name, self._runs, folder, seen, number))

    def picture(self, request: Request) -> Response:
        """Send a picture of a cell."""
        grid_dir = places.grid_folder(self._runs, request.path_params["grid"])
        folder = places.cell_folder(grid_dir, request.path_params["cell"])
        path = places.pictures(folder).get(request.path_params["name"])
        if path is None:
            raise places.NotThereError("There is no such picture.")
        return FileResponse(path, headers={"cache-control": "private, max-age=60"})

    def report(self, request: Request) -> Response:
        """Send the report of a grid as it was written; its links to run folders lead to the cells' pages."""
        grid_dir = places.grid_folder(self._runs, request.path_params["grid"])
        if not places.inside(GridFolder(grid_dir).page_file, grid_dir):
            raise places.NotThereError("The report is not written yet.")
        return FileResponse(GridFolder(grid_dir).page_file, headers={"content-security-policy": _REPORT_POLICY})

    def compare(self, request: Request) -> Response:
        """Show two cells or rows side by side, or what there is to choose."""
        texts = [request.query_params.get(side, "") for side in "ab"]
        return self._page(request, "live_compare.html", comparison.build(texts, self._look))

    def css(self, request: Request) -> Response:
        """Send the style of all pages."""
        return Response(
            css() + resource("static/live.css"),
            media_type="text/css",
            headers={"cache-control": "private, max-age=300"},
        )

    def script(self, request: Request) -> Response:
        """Send the script that keeps a page up to date."""
        text = resource("static/live.js")
        return Response(text, media_type="text/javascript", headers={"cache-control": "private, max-age=300"})

    def icon(self, request: Request) -> Response:
        """Send the icon of the pages."""
        headers = {"cache-control": "private, max-age=300"}
        return Response(resource("static/icon.svg"), media_type="image/svg+xml", headers=headers)

    def failed(self, error: Exception) -> Response:
        """Report what is wrong with an address, or with what it names."""
        code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
        if isinstance(error, FileNotFoundError):
            return self._said(404, "What this page was of is not there any more.")
        said = own_files.said(error) if isinstance(error, OSError) else str(error)
        return self._said(code, said)

    def _said(self, code: int, text: str) -> Response:
        return HTMLResponse(self._render("live_said.html", {"said": text}), code)

    def _look(self, name: str) -> tuple[Path, Look]:
        grid_dir = places.grid_folder(self._runs, name)
        with self._lock:
            for gone in self._watches.keys() - set(places.grids(self._runs)):
                del self._watches[gone]
            watch = self._watches.setdefault(name, Watch(grid_dir))
        return grid_dir, watch.look()

    def _page(self, request: Request, template: str, data: dict[str, Any]) -> Response:
        """Return a page, or only a 304 if the browser already has it."""
        text = self._render(template, data)
        tag = f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return HTMLResponse(text, headers={"etag": tag})

    def _render(self, template: str, data: dict[str, Any]) -> str:
        return render(template, root=self._prefix, **data)

    def login_page(self) -> str:
        """Return the page that asks for the token."""
        return self._render("live_login.html", {"said": Markup("<!--said-->")})


def _guarded(pages: Pages, page: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        try:
            return page(request)
        except tuple(_CODES) as error:
            return pages.failed(error)

    return answer


def guarded_app(runs: Path, *, host: str, prefix: str, token: str, hosts: Sequence[str] = ()) -> ASGIApp:
    """Return the application as it is served, with its guard."""
    pages = Pages(runs, prefix)
    names = names_of(host, hosts)
    return Guard(pages.app(), hosts=names, prefix=prefix, token=token, login_page=pages.login_page())


def serve(
    runs: Path,
    *,
    host: str,
    port: int,
    root_path: str,
    hosts: Sequence[str],
    with_token: bool,
    say: Callable[[str], None],
) -> None:
    """Answer until interrupted.

    Raises:
        ValueError: There is no such folder, or the address cannot be opened.
    """
    if not runs.is_dir():
        raise ValueError(f"--runs must be a folder of run folders; there is no {runs}")
    prefix = f"/{root_path.strip('/')}" if root_path.strip("/") else ""
    opened = socket_at(host, port)
    port = opened.getsockname()[1]
    token = secrets.token_urlsafe(32) if with_token or not is_loopback(host) else ""
    name = socket.gethostname() if host in _ANY else host
    shown = f"[{name}]" if ":" in name else name
    say(f"http://{shown}:{port}{prefix}/  (Ctrl-C ends it)")
    if token:
        say(f"token, asked for once by each browser, or sent as 'Authorization: Bearer TOKEN': {token}")
    if not is_loopback(host):
        say(
            "others on the network can reach this address, and without TLS read what is sent: --host 127.0.0.1 with "
            f"`ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}` avoids that"
        )
    app = guarded_app(runs.resolve(), host=host, prefix=prefix, token=token, hosts=hosts)
    config = uvicorn.Config(app, http="h11", loop="asyncio", ws="none", lifespan="off", access_log=False,
                            log_level="warning", server_header=False, proxy_headers=False,
                            timeout_graceful_shutdown=2)  # fmt: skip
    try:
        uvicorn.Server(config).run(sockets=[opened])
    except KeyboardInterrupt:
        say("ended")
    finally:
        opened.close()


def socket_at(host: str, port: int) -> socket.socket:
    """Open an address to listen at; port 0 picks any free one.

    Raises:
        ValueError: It cannot be opened.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--host and --port must be an address that is free here; {host}:{port} is not: {error}"
        ) from None
