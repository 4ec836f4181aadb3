"""The settings inside a picture of `spectra generate` or `spectra edit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def read_settings(path: Path) -> dict[str, Any]:
    """What the PNG's text entry holds; KeyError where there is none."""
    with Image.open(path) as picture:
        settings: dict[str, Any] = json.loads(picture.info["spectra"])
    return settings
