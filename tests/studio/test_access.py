"""Who may enter the page: its own requests on this machine, or those that bear the token."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spectra.studio.access import COOKIE, Guard


def asked(
    token: str, kind: str = "http", query: str = "", path: str = "/", **headers: str
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request; 200 where it gets through."""
    sent: list[dict[str, Any]] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": listed}
    asyncio.run(Guard(page, token)(scope, receive, send))
    first = sent[0]
    status = first["status"] if "status" in first else first["code"]
    return status, {name.decode(): value.decode() for name, value in first.get("headers", [])}


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_without_a_token_only_this_machine_by_its_own_name_enters(kind: str) -> None:
    refused = 403 if kind == "http" else 4403
    for host in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080"):
        assert asked("", kind, host=host)[0] == 200
        assert asked("", kind, host=host, origin=f"http://{host}")[0] == 200
        assert asked("", kind, host=host, origin="http://evil.example")[0] == refused
        assert asked("", kind, host=host, origin="null")[0] == refused
    # A stranger's name that was made to mean this machine.
    assert asked("", kind, host="evil.example:8080", origin="http://evil.example:8080")[0] == refused
    assert asked("", kind, host="[evil")[0] == refused
    assert asked("", kind)[0] == refused


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_with_a_token_only_who_bears_it_enters(kind: str) -> None:
    refused = 401 if kind == "http" else 4401
    assert asked("secret", kind, host="box:1")[0] == refused
    assert asked("secret", kind, host="box:1", cookie=f"{COOKIE}=secre")[0] == refused
    assert asked("secret", kind, host="box:1", authorization="Bearer wrong")[0] == refused
    assert asked("secret", kind, host="box:1", cookie=f"{COOKIE}=secret")[0] == 200
    assert asked("secret", kind, host="box:1", authorization="Bearer secret")[0] == 200
    assert asked("secret", kind, host="box:1", cookie=f"{COOKIE}=secret", origin="http://evil.example")[0] != 200


def test_the_token_in_an_address_becomes_a_cookie_and_leaves_the_address() -> None:
    status, headers = asked("secret", query="token=secret&find=a+b", path="//play", host="box:1")
    assert (status, headers["location"]) == (303, "/play?find=a+b")
    assert f"{COOKIE}=secret" in headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["set-cookie"].split("; "))
    assert asked("secret", query="token=wrong", host="box:1")[0] == 401
