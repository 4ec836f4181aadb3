"""`spectra studio`: a local page to browse, play with, train and edit shifts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from spectra.cli import output
from spectra.cli.options import check_device, command, device_option
from spectra.errors import InputError
from spectra.serving.network import read_token
from spectra.settings import declared_settings
from spectra.studio.settings import StudioSettings

SETTINGS = declared_settings(StudioSettings)
"""The library's settings that this command takes."""


@dataclass(frozen=True)
class _Options:
    device: str = device_option("draw on")


@command(
    _Options,
    "spectra studio     (the embedded base, and the shifts in out)",
    "spectra studio --base ./sdxl --folder ./shifts --dtype float16 --port 9000",
    library=SETTINGS,
)
def studio(options: _Options, given: dict[str, Any]) -> None:
    """Shows a local web page to browse, play with, train and edit shifts.

    Trainings are processes of their own: they go on when the page is closed, and when this command ends.
    """
    settings = StudioSettings(**given)
    check_device(options.device)
    token = read_token(settings, os.environ.get("SPECTRA_TOKEN", ""))
    try:
        from spectra.studio import running
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'spectra-diffusion[studio]'") from error

    def tell(address: str) -> None:
        output.line(
            f"spectra studio: {address}/{'?token=...' if token else ''}  (folder {settings.folder}; Ctrl-C ends it)"
        )

    running.run(settings, token, tell, options.device)
