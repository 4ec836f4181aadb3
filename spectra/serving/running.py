"""A server that runs: in this process, or on Ray Serve with a base in each of its replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from spectra.fleet.cluster import connect, gpu_each
from spectra.serving.network import address_of, listen
from spectra.serving.painter import Painter
from spectra.serving.service import BODY_SECONDS, Service
from spectra.serving.settings import ServeSettings

APPLICATION = "spectra"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _Impatient(H11Protocol):
    """Hangs up on a client that opens a connection and does not send the head of a request."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(BODY_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def application(service: Service) -> Starlette:
    """The service as an ASGI application."""
    return Starlette(routes=[Route("/{path:path}", service.handle, methods=list(_METHODS))])


def run_here(settings: ServeSettings, token: str, started: Callable[[str], None], device: str = "") -> None:
    """Serve in this process until it is interrupted.

    Args:
        started: is told the address once requests are answered.

    Raises:
        InputError: the address is taken, or not this machine's.
        SpectraError: the base or the folder of shifts is not there.
    """
    listening = listen(settings)
    with listening:
        service = Service(Painter(settings, device), settings, token)
        config = uvicorn.Config(
            application(service), http=_Impatient, log_level="warning", timeout_keep_alive=5, lifespan="off"
        )
        server = uvicorn.Server(config)
        started(address_of(listening))
        asyncio.run(server.serve(sockets=[listening]))


class Replica:
    """One base in memory, as Ray Serve runs it."""

    def __init__(self, settings: ServeSettings, token: str, device: str) -> None:
        self.service = Service(Painter(settings, device), settings, token)

    async def __call__(self, request: Request) -> Response:
        return await self.service.handle(request)

    async def check_health(self) -> None:
        """Called by Ray; raises where the replica is to be replaced."""


def start_on_ray(settings: ServeSettings, token: str, *, address: str = "", replicas: int = 1, device: str = "") -> str:
    """Start replicas on a Ray cluster, and return the address once they answer.

    Args:
        address: of the cluster; a Ray of this machine alone is started by default.
        replicas: each has the base in its memory, and takes a GPU where there are any.

    Raises:
        InputError: there is no such cluster, or it cannot be served from.
    """
    ray = connect(address)
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"host": settings.host, "port": settings.port, "request_timeout_s": settings.timeout + 60})
    deploy: Any = serve.deployment(
        name="replica",
        num_replicas=replicas,
        max_ongoing_requests=settings.queue + 1,  # one more, so that it is told that there are too many
        ray_actor_options=gpu_each(ray, device, replicas),
    )
    serve.run(deploy(Replica).bind(settings, token, device), name=APPLICATION, route_prefix="/")
    return f"http://{settings.host}:{settings.port}"


def stop_on_ray() -> None:
    """Stop what `start_on_ray` started; a cluster that was there goes on."""
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()
