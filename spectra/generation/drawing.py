"""Pictures from a pipeline: any number of prompts and seeds, in batches, each picture by its own seed alone."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from spectra.bases.embedded import GUIDANCE, is_embedded
from spectra.errors import InputError, PictureWarning
from spectra.families.family import Family, classifier_free, pipeline_guidance
from spectra.families.known import find_family
from spectra.generation.settings import Sampling
from spectra.progress import SILENT, Progress, working


@dataclass(frozen=True)
class Request:
    """One picture: what to draw, and from which seed."""

    prompt: str
    seed: int
    negative: str = ""


def draw(
    pipe: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    start: torch.Tensor | None = None,
    progress: Progress = SILENT,
    label: str = "drawing",
) -> list[Image.Image]:
    """Draw the requested pictures with a text-to-image pipeline, in order.

    Each starts from noise of its own CPU generator, so that neither its neighbours in the batch nor the device decide
    what it shows (rounding may differ by a grey level).

    Args:
        start: latents `[n, c, h, w]` to begin with, instead of each request's own noise.
        label: names the progress, which advances with each picture.

    Raises:
        InputError: a width or height that the base cannot draw, a negative prompt without guidance, or fresh noise in
            steps that take none.
    """
    family = find_family(pipe)
    size = _size(pipe, family, sampling)
    guided, guidance = family.guided if family else classifier_free, guidance_of(pipe, sampling.guidance)
    if sampling.eta and "eta" not in inspect.signature(pipe.__call__).parameters:
        raise InputError(f"eta: the steps of {type(pipe).__name__} take no fresh noise; leave it at 0")
    negatives = list(dict.fromkeys(request.negative for request in requests))
    guided(pipe, guidance, negatives)  # refused before anything is drawn
    pictures: list[Image.Image] = []
    with working(progress, label, len(requests)):
        for first in range(0, len(requests), sampling.batch):
            chunk = requests[first : first + sampling.batch]
            negatives = [request.negative for request in chunk]
            extra = guided(pipe, guidance, negatives)
            if start is not None:
                extra["latents"] = start[first : first + sampling.batch]
            if sampling.eta:
                extra["eta"] = sampling.eta
            with torch.no_grad(), np.errstate(invalid="ignore"):  # what is no number becomes black, see below
                drawn = pipe(
                    prompt=[request.prompt for request in chunk],  # which comes second in some
                    num_inference_steps=sampling.steps,
                    generator=[torch.Generator("cpu").manual_seed(request.seed) for request in chunk],
                    **size,
                    **extra,
                ).images
            pictures += [picture.convert("RGB") for picture in drawn]
            progress.advance(len(chunk))
    if black := sum(is_black(picture) for picture in pictures):
        warnings.warn(
            f"{black} of {len(pictures)} pictures are black: {_why_black(pipe)}", PictureWarning, stacklevel=2
        )
    return pictures


def is_black(picture: Image.Image) -> bool:
    """Whether every pixel is black, as where a model or a VAE gave what is no number."""
    return not any(picture.convert("L").getextrema())


def _why_black(pipe: Any) -> str:
    if getattr(pipe, "safety_checker", None) is not None:
        return "the base's safety checker may have blackened them; or its numbers overflowed"
    parts = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]
    if any(weight.dtype == torch.float16 for part in parts for weight in part.parameters()):
        return "its numbers overflow in float16; draw in bfloat16 or float32"
    return "the model gives what is no number; a shift is too strong for it, or the base is damaged"


def guidance_of(pipe: Any, given: float | None) -> float:
    """The guidance that was given, or else the one that the base's pictures are drawn with."""
    if given is not None:
        return given
    if is_embedded(pipe):
        return GUIDANCE
    family = find_family(pipe)
    return family.default_guidance(pipe) if family else pipeline_guidance(pipe)


def _size(pipe: Any, family: Family | None, sampling: Sampling) -> dict[str, int]:
    """Width and height in pixels as the pipeline's arguments; empty for its own size.

    diffusers ignores one without the other, so that both are given or none.
    """
    size = {name: getattr(sampling, name) for name in ("width", "height")}
    if not any(size.values()):
        return {}
    step = max(8, family.token_pixels(pipe) if family else int(getattr(pipe, "vae_scale_factor", 8)))
    for name, pixels in size.items():
        if pixels % step:
            raise InputError(f"{name}: this base draws multiples of {step} pixels, got {pixels}")
    if not all(size.values()):
        if family is None:
            raise InputError("this base has no size of its own: give both --width and --height")
        native = family.native_resolution(pipe)
        size = {name: pixels or native for name, pixels in size.items()}
    return size


def requests_for(prompts: Iterable[str], seeds: Sequence[int], negative: str = "") -> list[Request]:
    """Request every prompt with every seed, prompt by prompt."""
    return [Request(prompt, seed, negative) for prompt in prompts for seed in seeds]


def best_device() -> str:
    """Name of the device that draws fastest on this machine: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
