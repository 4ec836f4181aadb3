"""Pictures as PNG files, each with the settings that it was drawn by inside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from spectra.generation.drawing import Request
from spectra.generation.settings import Sampling

METADATA_KEY = "spectra"
"""Name of the PNG text entry that holds a picture's settings as JSON."""


def save_png(picture: Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG with its settings as JSON in a tEXt entry (ASCII, other characters escaped)."""
    info = PngImagePlugin.PngInfo()
    info.add_text(METADATA_KEY, json.dumps(settings))
    picture.save(path, "PNG", pnginfo=info)


def write_picture(
    folder: Path, number: int, picture: Image.Image, request: Request, sampling: Sampling, common: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a picture into a folder, under a name such as `0003-a-red-fox-seed7.png`: sorted as drawn, and readable.

    Args:
        common: settings that the request and the sampling do not hold: base, shifts, versions.

    Returns:
        The file's name ("file") and everything that decided the picture, as JSON values.
    """
    size = {"width": picture.width, "height": picture.height}
    settings = {**asdict(request), "steps": sampling.steps, "guidance": sampling.guidance, **size, **common}
    words = re.sub(r"[^a-z0-9]+", "-", request.prompt.lower()).strip("-")[:40].strip("-")
    name = f"{number:04d}-{words or 'picture'}-seed{request.seed}.png"
    save_png(picture, folder / name, settings)
    return {"file": name, **settings}
