"""A studio that runs: its routes, and the server."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from nicegui import app, ui
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from spectra.bases.pipeline import find_base
from spectra.errors import SpectraError
from spectra.serving.network import address_of, listen
from spectra.studio.access import Guard
from spectra.studio.settings import StudioSettings
from spectra.studio.studio import Studio
from spectra.studio.views import compare, edit, library, play, train

STATIC = Path(__file__).with_name("static")
_TEND = 2.0
"""Seconds between two looks at whether the queue has somebody who works on it."""


def run(settings: StudioSettings, token: str, started: Callable[[str], None], device: str = "") -> None:
    """Show the page until it is interrupted; trainings that run then go on.

    Args:
        token: that requests must bear; empty for none.
        started: is told the address once requests are answered.

    Raises:
        InputError: the address is taken, or not this machine's.
        SpectraError: there is no such base.
    """
    find_base(settings.base, settings.components_from, settings.prediction_type)
    listening = listen(settings)
    with listening:
        studio = Studio.of(settings, device)
        config = uvicorn.Config(Guard(application(studio), token), log_level="warning", ws_max_size=1 << 20)
        server = uvicorn.Server(config)
        # NiceGUI looks at every object there is to find its server, and PyTorch has one that warns when looked at.
        warnings.filterwarnings("ignore", r".*torch\.distributed\.reduce_op", FutureWarning)
        started(address_of(listening))
        try:
            asyncio.run(server.serve(sockets=[listening]))
        finally:
            studio.drawer.close()


def application(studio: Studio) -> Any:
    """The views and routes of a studio as an ASGI application."""
    for view in (library, compare, play, train, edit):
        view.register(studio)
    app.add_static_files("/static", STATIC)
    app.add_route("/drawn/{key}", _drawn(studio))
    app.add_route("/file/{path:path}", _file(studio))
    app.add_route("/upload/{tray}", _upload(studio), methods=["POST"])
    app.on_startup(_tended(studio))
    whole = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    ui.run_with(
        whole,
        title="spectra studio",
        favicon=STATIC / "icon.svg",
        language="en-US",
        tailwind=False,
        dark=None,
        show_welcome_message=False,
        reconnect_timeout=10.0,
    )
    return whole


def _drawn(studio: Studio) -> Callable[[Request], Any]:
    async def drawn(request: Request) -> Response:
        """A picture that was drawn, by its key; it never changes."""
        written = studio.drawer.fetch(request.path_params["key"])
        if written is None:
            return _failure("the picture is forgotten; draw it again", 404)
        return Response(written, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

    return drawn


def _file(studio: Studio) -> Callable[[Request], Any]:
    async def file(request: Request) -> Response:
        """A picture of the folder."""
        try:
            path = await asyncio.to_thread(studio.workspace.picture, request.path_params["path"])
        except SpectraError as error:
            return _failure(str(error), 404)
        return FileResponse(path, headers={"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})

    return file


def _upload(studio: Studio) -> Callable[[Request], Any]:
    async def upload(request: Request) -> Response:
        """Keep a picture that was dropped."""
        told = request.headers.get("content-length", "")
        name = request.query_params.get("name", "")
        try:
            body, announced = request.stream(), int(told) if told.isdecimal() else 0
            kept = await studio.trays.take(request.path_params["tray"], name, body, announced)
        except SpectraError as error:
            return _failure(str(error), 400)
        except ClientDisconnect:
            return _failure("the upload broke off", 400)
        return JSONResponse({"name": kept})

    return upload


def _failure(message: str, status: int) -> Response:
    return JSONResponse({"error": message}, status)


def _tended(studio: Studio) -> Callable[[], Any]:
    async def tend() -> None:
        """Look after the queue for as long as the server runs."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.to_thread(studio.queue.tend)
                await asyncio.sleep(_TEND)

    return tend
