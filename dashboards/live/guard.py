"""Who may ask: the Host header, the token, and what a browser may do with an answer; checked before a page is made."""

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from urllib.parse import parse_qs

from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN = "/login"
MAX_BODY = 4096
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # by `no-referrer`, a browser would send the login with the origin `null`
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer that does not say otherwise."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_of(host: str, more: Iterable[str]) -> frozenset[str]:
    """Return what a browser may call this server: loopback names, the address, the machine's names, those given."""
    found = {*_LOOPBACK, host, *more}
    if not is_loopback(host):
        own = socket.gethostname()
        found |= {own, socket.getfqdn()}
        with suppress(OSError):
            found |= {str(answer[4][0]) for answer in socket.getaddrinfo(own, None)}
    return frozenset(name.lower() for name in found if name)


class Guard:
    """Passes allowed requests on, without a proxy's prefix, and answers all others itself."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], prefix: str, token: str, login_page: str) -> None:
        """Take the app to protect; an empty token asks for none."""
        self._app, self._hosts, self._prefix, self._login_page = app, hosts, prefix, login_page
        self._token = token.encode()
        self._cookie = f"rankmatch-{self._digest(b'name')[:12]}"  # ports do not keep cookies apart, nor do tunnels
        self._pass = self._digest(b"cookie")

    def _digest(self, word: bytes) -> str:
        return hmac.digest(self._token, word, hashlib.sha256).hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        if self._prefix and (path == self._prefix or path.startswith(f"{self._prefix}/")):
            path = path.removeprefix(self._prefix) or "/"
        own = str((scope.get("server") or ("",))[0]).lower()
        answer = await self._refusal(scope["method"], path, headers, own, receive)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                added = [
                    (name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in known
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await (answer or self._app)({**scope, "path": path, "root_path": ""}, receive, send_guarded)

    async def _refusal(
        self, method: str, path: str, headers: Mapping[str, str], own: str, receive: Receive
    ) -> Response | None:
        host = _without_port(headers.get("host", ""))
        if host not in self._hosts and not (
            host and host == own
        ):  # an address, which no other site can take for a name
            text = f"The host {host!r} is not one of this server's; if it is, start it with --allow-host NAME.\n"
            return PlainTextResponse(text, 400)
        if (origin := headers.get("origin")) is not None and not self._is_own(origin, headers):
            text = f"A page of {origin!r} may not ask this server; if it is its own, use --allow-host NAME.\n"
            return PlainTextResponse(text, 403)
        if self._token and path == LOGIN and method == "POST":
            return await self._log_in(receive)
        if method not in ("GET", "HEAD"):
            return PlainTextResponse("Pages can be read, and nothing else.\n", 405, {"allow": "GET, HEAD"})
        if self._token and not path.startswith("/static/") and not self._is_known(headers):
            return HTMLResponse(self._login_page.replace("<!--said-->", ""), 401)
        return None

    def _is_own(self, origin: str, headers: Mapping[str, str]) -> bool:
        """Return whether a page may ask: this server's own, or a proxy's that has a name of this server.

        Loopback names alone are not enough: another port of this machine is another user's server.
        """
        place = origin.partition("://")[2].lower()
        name = _without_port(place)
        return bool(place) and (place == headers.get("host", "").lower() or (name in self._hosts - _LOOPBACK))

    def _is_known(self, headers: Mapping[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")  # takes others' cookies as browsers do
        return secrets.compare_digest(cookie.encode(), self._pass.encode())

    async def _log_in(self, receive: Receive) -> Response:
        given = parse_qs((await _body(receive)).decode("utf-8", "replace")).get("token", [""])[0]
        if not secrets.compare_digest(given.strip().encode(), self._token):
            said = "<p role=alert>That is not the token.</p>"
            return HTMLResponse(self._login_page.replace("<!--said-->", said), 401)
        answer = RedirectResponse(f"{self._prefix}/", 303)
        answer.set_cookie(self._cookie, self._pass, path=f"{self._prefix}/", httponly=True, samesite="lax")
        return answer


async def _body(receive: Receive) -> bytes:
    """Return the body of a request; only the start of a long one."""
    content = b""
    while len(content) < MAX_BODY:
        message = await receive()
        content += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    return content[:MAX_BODY]


def _without_port(host: str) -> str:
    """Return the name of a Host header, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
