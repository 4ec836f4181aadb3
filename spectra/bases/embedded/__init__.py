"""The embedded base: a small text-to-image pipeline that ships inside the package, and the subjects kept from it.

`path()` is a diffusers folder: `StableDiffusionPipeline.from_pretrained(spectra.bases.embedded.path())`. Nothing here
imports torch or diffusers. How it was made: `recipe/` in the repository; licences: `weights/NOTICE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spectra.errors import BaseError

NAME = "spectra-base"

GUIDANCE = 3.0
"""Guidance scale for its pictures and those of shifts trained on it. At 2 colours are a little truer, but fewer
concepts can be recognised, and more of them change with a shift; 5, usual for large bases, drives contrast up."""


def is_embedded(pipe: Any) -> bool:
    """Whether a pipeline is the embedded base, or a copy with other weights, such as one with a shift baked in."""
    unet = getattr(pipe, "unet", None)
    if unet is None:
        return False
    own = json.loads((path() / "unet" / "config.json").read_text(encoding="utf-8"))
    return all(_plain(unet.config.get(name)) == value for name, value in own.items() if not name.startswith("_"))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def path() -> Path:
    """The folder of the embedded base (fp16 safetensors, about 24 MB).

    Raises BaseError where the installation lacks the weights.
    """
    folder = Path(__file__).with_name("weights")
    if not (folder / "model_index.json").exists():
        raise BaseError(
            f"the embedded base is missing: expected a diffusers folder at {folder}; "
            "install the package again, or make the weights with: python -m recipe"
        )
    return folder
