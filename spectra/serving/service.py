"""The HTTP service: OpenAI's route for pictures, lists of shifts, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from spectra.errors import SpectraError
from spectra.serving.gathering import Gathered
from spectra.serving.image_requests import ImageRequest, parse_request
from spectra.serving.painter import Painted, Painter
from spectra.serving.settings import ServeSettings
from spectra.serving.shelf import UnknownShiftError

LARGEST_BODY = 1 << 16
"""Bytes of a request; a prompt has a few hundred."""

_LOG = logging.getLogger(__name__)

BODY_SECONDS = 10.0
"""In which a client has to send its request."""


class Metrics:
    """What is counted, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("spectra_requests", "Requests by status.", ["status"], registry=self.registry)
        self.in_flight = Gauge("spectra_requests_in_flight", "Requests waiting or drawn.", registry=self.registry)
        self.seconds = Histogram("spectra_request_seconds", "Seconds of a request.", registry=self.registry)
        self.pictures = Counter("spectra_pictures", "Pictures drawn.", registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batch = Histogram("spectra_batch_requests", "Requests of a batch.", buckets=sizes, registry=self.registry)
        self.loaded = Gauge("spectra_shifts_loaded", "Shifts that are loaded.", registry=self.registry)


class Service:
    """Answers requests with a painter's pictures.

    Args:
        painter: draws.
        settings: with the limits.
        token: that requests must bear; empty for none.
    """

    def __init__(self, painter: Painter, settings: ServeSettings, token: str = "") -> None:
        self.painter, self.settings, self._token = painter, settings, token
        self.metrics = Metrics()
        self._waiting = 0

        async def paint(requests: list[ImageRequest]) -> list[Painted]:
            self.metrics.batch.observe(len(requests))
            painted = await asyncio.to_thread(painter.paint, requests)
            self.metrics.loaded.set(len(painter.shelf.loaded))
            return painted

        self._paint = Gathered(paint, settings.batch, settings.wait)
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("POST", "/v1/images/generations"): self._generations,
            ("GET", "/v1/models"): self._models,
            ("GET", "/v1/shifts"): self._shifts,
            ("GET", "/metrics"): self._counts,
            ("GET", "/health"): self._health,
        }

    async def handle(self, request: Request) -> Response:
        """The answer to a request; every error is one line in JSON, as OpenAI's clients read it."""
        began = time.perf_counter()
        try:
            response = await self._route(request)
        except HTTPException as error:
            response = _failure(error.status_code, error.detail, error.headers)
        except UnknownShiftError as error:
            response = _failure(404, str(error))
        except SpectraError as error:
            response = _failure(400, str(error))
        except ClientDisconnect:
            response = _failure(499, "the client went away")
        except Exception:  # one request's must not end the others'
            _LOG.exception("a request failed")
            response = _failure(500, "something is wrong with the server, and is in its log")
        self.metrics.requests.labels(response.status_code).inc()
        self.metrics.seconds.observe(time.perf_counter() - began)
        return response

    async def _route(self, request: Request) -> Response:
        path = request.url.path
        if path != "/health" and not self._may_enter(request):
            raise HTTPException(401, "expected the server's token: Authorization: Bearer ...")
        answer = self._routes.get((request.method, path))
        if answer is not None:
            return await answer(request)
        allowed = [method for method, known in self._routes if known == path]
        if allowed:
            raise HTTPException(405, f"expected {allowed[0]}, got {request.method}", {"Allow": allowed[0]})
        raise HTTPException(404, f"nothing is here; there are {', '.join(known for _, known in self._routes)}")

    def _may_enter(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return not self._token or hmac.compare_digest(given.encode(), self._token.encode())

    async def _generations(self, request: Request) -> Response:
        if self._waiting >= self.settings.queue:
            raise HTTPException(429, f"{self._waiting} requests are in flight already", {"Retry-After": "1"})
        self._waiting += 1
        self.metrics.in_flight.set(self._waiting)
        try:
            body = await _body(request)
            wanted = parse_request(body, self.settings, self.painter.sampling)
            unknown = wanted.shifts.keys() - (await asyncio.to_thread(self.painter.shelf.look)).keys()
            if unknown:
                raise UnknownShiftError(f"no shift named {min(unknown)!r} is served; GET /v1/shifts lists them")
            painted = await asyncio.wait_for(self._paint(wanted), self.settings.timeout)
        except TimeoutError as error:
            message = f"not drawn within {self.settings.timeout:g} seconds; ask for fewer pictures or steps"
            raise HTTPException(504, message) from error
        finally:
            self._waiting -= 1
            self.metrics.in_flight.set(self._waiting)
        if isinstance(painted, SpectraError):
            raise painted
        self.metrics.pictures.inc(len(painted))
        return JSONResponse({"created": int(time.time()), "data": _data(painted, wanted.seed)})

    async def _models(self, request: Request) -> Response:
        entries = await asyncio.to_thread(self.painter.shelf.look)
        listed = [
            {"id": name, "object": "model", "created": int(entry.changed), "owned_by": "spectra"}
            for name, entry in entries.items()
        ]
        return JSONResponse({"object": "list", "data": listed})

    async def _shifts(self, request: Request) -> Response:
        entries, loaded = await asyncio.to_thread(self.painter.shelf.look), set(self.painter.shelf.loaded)
        listed = [
            {"name": name, "prompt": entry.prompt, "bytes": entry.bytes, "words": entry.words, "loaded": name in loaded}
            for name, entry in entries.items()
        ]
        return JSONResponse({"base": self.painter.name, "shifts": listed})

    async def _counts(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "base": self.painter.name})


async def _body(request: Request) -> bytes:
    """The body of a request, as long and as slow as a request may be."""
    told = request.headers.get("content-length", "")
    parts, size = [], int(told) if told.isdecimal() else 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if size <= LARGEST_BODY:
                size = 0
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > LARGEST_BODY:
                        break
    except TimeoutError as error:
        raise HTTPException(408, f"the request did not come within {BODY_SECONDS:g} seconds") from error
    if size > LARGEST_BODY:
        raise HTTPException(413, f"expected at most {LARGEST_BODY} bytes", {"Connection": "close"})
    return b"".join(parts)


def _data(pictures: Sequence[bytes], seed: int) -> list[dict[str, object]]:
    return [{"b64_json": base64.b64encode(each).decode(), "seed": seed + n} for n, each in enumerate(pictures)]


def _failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": None}}, status, headers)
