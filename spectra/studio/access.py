"""Who may enter: requests that bear the token, or, where there is none, those that name this machine itself.

A page of a stranger that is open in the same browser can send requests to this machine, too: what comes from another
origin is turned away, also where it opens a web socket.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

COOKIE = "spectra_token"
_LOCAL = ("localhost", "127.0.0.1", "::1")

App = Callable[[Any, Any, Any], Awaitable[None]]


class Guard:
    """An ASGI application that lets through to another what may enter.

    Args:
        app: the application.
        token: that requests must bear, in the cookie that `?token=` sets, or as `Authorization: Bearer`; may be empty.
    """

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or turn it away."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._same_origin(headers):
            await _refuse(scope, receive, send, 403, "expected a request of the page itself")
        elif not self._token or self._bears(headers):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and self._is_token(_asked(scope).get("token", [""])[0]):
            await self._let_in(scope, send)
        else:
            await _refuse(scope, receive, send, 401, "expected the token: open the page once with ?token=... behind it")

    def _same_origin(self, headers: Mapping[str, str]) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin", "")
        try:
            named, came_from = urlsplit(f"//{host}").hostname, urlsplit(origin).netloc
        except ValueError:
            return False
        return (bool(self._token) or named in _LOCAL) and (not origin or came_from == host)

    def _bears(self, headers: Mapping[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given = headers.get("authorization", "").removeprefix("Bearer ")
        return self._is_token(cookie.value if cookie else "") or self._is_token(given)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    async def _let_in(self, scope: Any, send: Any) -> None:
        """Set the cookie, and go on to the same address without the token in it."""
        left = urlencode({name: value for name, value in _asked(scope).items() if name != "token"}, doseq=True)
        cookie = SimpleCookie({COOKIE: self._token})
        for name, value in (("path", "/"), ("httponly", "1"), ("samesite", "Strict")):
            cookie[COOKIE][name] = value
        to = "/" + scope["path"].lstrip("/") + (f"?{left}" if left else "")
        headers = [(b"location", to.encode()), (b"set-cookie", cookie[COOKIE].OutputString().encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _asked(scope: Any) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


async def _refuse(scope: Any, receive: Any, send: Any, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4000 + status})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})
