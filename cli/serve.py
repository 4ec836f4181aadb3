"""`spectra serve`: pictures over HTTP, of a base in memory and any number of shifts."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Any

from spectra.cli import output
from spectra.cli.options import check_device, command, device_option
from spectra.errors import InputError
from spectra.serving.network import read_token
from spectra.serving.settings import ServeSettings
from spectra.settings import declared_settings, setting

SETTINGS = declared_settings(ServeSettings)
"""The library's settings that this command takes."""


@dataclass(frozen=True)
class _Options:
    device: str = device_option("draw on")
    local: bool = setting(False, "Serve in this process, without Ray's.", panel="Replicas")
    address: str = setting(
        "",
        "Ray cluster to serve on.",
        panel="Replicas",
        metavar="HOST:PORT",
        default_text="a Ray of this machine alone",
    )
    replicas: int = setting(1, "Bases in memory, each in a process of its own.", least=1, panel="Replicas")


@command(
    _Options,
    "spectra serve --shifts out --local",
    "spectra serve --base ./sdxl --shifts /srv/shifts --replicas 2 --port 9000",
    library=SETTINGS,
)
def serve(options: _Options, given: dict[str, Any]) -> None:
    """Serves pictures over HTTP: one base in memory, a shift of its own for every request, by OpenAI's images route.

    Requests for different shifts are drawn in one batch. The folder of shifts may grow meanwhile.
    """
    settings = ServeSettings(**given)
    check_device(options.device)
    if options.local and (options.address or options.replicas > 1):
        raise InputError("--local serves in this process; --address and --replicas are Ray's")
    token = read_token(settings, os.environ.get("SPECTRA_TOKEN", ""))
    extra = "serve" if options.local else "ray"
    try:
        from spectra.serving import running
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'spectra-diffusion[{extra}]'") from error
    output.say(f"loading {settings.base or 'the embedded base'}")
    if options.local:
        running.run_here(settings, token, lambda address: _tell(settings, token, address), options.device)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            address = running.start_on_ray(
                settings, token, address=options.address, replicas=options.replicas, device=options.device
            )
            _tell(settings, token, address)
            signal.pause()
        finally:
            running.stop_on_ray()


def _tell(settings: ServeSettings, token: str, address: str) -> None:
    """Where it is served, and a request to try."""
    bearer = ' -H "Authorization: Bearer $SPECTRA_TOKEN"' if token else ""
    body = '{"prompt": "a drawing of a fox", "shifts": []}'
    output.line(
        f"serving shifts of {settings.shifts} at {address} until Ctrl-C; they are listed at {address}/v1/shifts"
    )
    output.line(f"try: curl {address}/v1/images/generations{bearer} -d '{body}'")
