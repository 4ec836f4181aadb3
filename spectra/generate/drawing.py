"""Pictures from a pipeline: any number of prompts and seeds, in batches, each picture by its own seed alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin

from spectra.errors import InputError
from spectra.progress import SILENT, Progress

METADATA_KEY = "spectra"
"""Name of the PNG text entry that holds a picture's settings as JSON."""


@dataclass(frozen=True)
class Request:
    """One picture: what to draw, and from which seed."""

    prompt: str
    seed: int
    negative: str = ""


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn. Width and height are in pixels; 0 is the base's own size.

    `eta` is the share of fresh noise in each step, from 0 (DDIM) to 1 (DDPM), for schedulers that take one.
    """

    steps: int = 25
    guidance: float = 5.0
    width: int = 0
    height: int = 0
    batch: int = 8
    eta: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: a number out of range.
        """
        for name, low in (("steps", 1), ("guidance", 0), ("width", 0), ("height", 0), ("batch", 1), ("eta", 0)):
            value = getattr(self, name)
            if not low <= value < float("inf"):
                raise InputError(f"{name}: expected a number of at least {low}, got {value}")


def draw(
    pipe: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    start: torch.Tensor | None = None,
    progress: Progress = SILENT,
    label: str = "drawing",
) -> list[Image.Image]:
    """The requested pictures, in order.

    Each starts from noise of its own CPU generator, so that neither its neighbours in the batch nor the device decide
    what it shows (rounding may differ by a grey level).

    Args:
        pipe: a text-to-image pipeline.
        requests: what to draw.
        sampling: how.
        start: latents `[n, c, h, w]` to begin with, instead of each request's own noise.
        progress: told of each picture.
        label: what the progress is called.

    Raises:
        InputError: a width or height that the base cannot draw, or a negative prompt without guidance.
    """
    size = _size(pipe, sampling)
    if sampling.guidance <= 1 and any(request.negative for request in requests):
        raise InputError(f"a negative prompt acts through guidance: expected more than 1, got {sampling.guidance:g}")
    pictures: list[Image.Image] = []
    progress.start(label, len(requests))
    try:
        for first in range(0, len(requests), sampling.batch):
            chunk = requests[first : first + sampling.batch]
            negatives = [request.negative for request in chunk]
            extra: dict[str, Any] = {"negative_prompt": negatives} if any(negatives) else {}
            if start is not None:
                extra["latents"] = start[first : first + sampling.batch]
            if sampling.eta:
                extra["eta"] = sampling.eta
            with torch.no_grad():
                drawn = pipe(
                    [request.prompt for request in chunk],
                    num_inference_steps=sampling.steps,
                    guidance_scale=sampling.guidance,
                    generator=[torch.Generator("cpu").manual_seed(request.seed) for request in chunk],
                    **size,
                    **extra,
                ).images
            pictures += [picture.convert("RGB") for picture in drawn]
            progress.advance(len(chunk))
    finally:
        progress.finish()
    return pictures


def _size(pipe: Any, sampling: Sampling) -> dict[str, int]:
    """Width and height for the pipeline; nothing for its own size. diffusers ignores one without the other."""
    size = {name: getattr(sampling, name) for name in ("width", "height")}
    if not any(size.values()):
        return {}
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    for name, pixels in size.items():
        if pixels % max(8, factor):
            raise InputError(f"{name}: this base draws multiples of {max(8, factor)} pixels, got {pixels}")
    if not all(size.values()):
        if getattr(pipe, "unet", None) is None:
            raise InputError("this base has no size of its own: give both --width and --height")
        native = int(pipe.unet.config.sample_size) * factor
        size = {name: pixels or native for name, pixels in size.items()}
    return size


def requests_for(prompts: Iterable[str], seeds: Sequence[int], negative: str = "") -> list[Request]:
    """Every prompt with every seed, prompt by prompt."""
    return [Request(prompt, seed, negative) for prompt in prompts for seed in seeds]


def read_prompts(path: Path) -> list[str]:
    """The prompts in a text file, one a line; blank lines and lines that begin with # are left out.

    Raises:
        InputError: no such file, not text, or no prompt in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a text file, a prompt a line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file; expected a prompt a line") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise InputError(f"{path}: no prompts in it; expected one a line")
    return prompts


def settings_of(
    request: Request, sampling: Sampling, picture: Image.Image, common: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decided a picture, as JSON values: `common` holds base, shifts and versions."""
    size = {"width": picture.width, "height": picture.height}
    return {**asdict(request), "steps": sampling.steps, "guidance": sampling.guidance, **size, **common}


def save_png(picture: Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG with its settings as JSON in a tEXt entry (ASCII, other characters escaped)."""
    info = PngImagePlugin.PngInfo()
    info.add_text(METADATA_KEY, json.dumps(settings))
    picture.save(path, "PNG", pnginfo=info)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `save_png` wrote into a PNG.

    Raises:
        InputError: not a PNG, or one without settings.
    """
    try:
        with Image.open(path) as picture:
            settings: dict[str, Any] = json.loads(picture.info[METADATA_KEY])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a PNG with settings of spectra generate in it") from error
    return settings


def file_name(number: int, request: Request) -> str:
    """`0003-a-red-fox-seed7.png`: sorted as drawn, and readable."""
    words = re.sub(r"[^a-z0-9]+", "-", request.prompt.lower()).strip("-")[:40].strip("-")
    return f"{number:04d}-{words or 'picture'}-seed{request.seed}.png"


def best_device() -> str:
    """Where pictures are drawn fastest on this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
