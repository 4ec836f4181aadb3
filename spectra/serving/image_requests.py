"""What a request for pictures says: OpenAI's images API, with `shifts` beside its fields."""

from __future__ import annotations

import difflib
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from spectra.errors import InputError
from spectra.generation.settings import Sampling
from spectra.io.foreign_values import parse_json
from spectra.serving.settings import ServeSettings

_FIELDS = (
    *("prompt", "model", "shifts", "n", "size", "seed", "steps", "guidance_scale", "negative_prompt"),
    *("response_format", "output_format", "user"),
)
BASE = "base"
"""As `model`: the base without a shift."""

_LONGEST = 4000
"""Characters of a prompt."""

_MOST_SHIFTS = 16
_SEEDS = 2**63
_LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class ImageRequest:
    """Pictures that one request asks for.

    Attributes:
        prompt, negative: what to draw, and what to keep away from.
        shifts: scale by name.
        count, seed: the pictures are of `seed`, `seed + 1`, ...
        sampling: how they are drawn.
    """

    prompt: str
    negative: str
    shifts: Mapping[str, float]
    count: int
    seed: int
    sampling: Sampling


def parse_request(body: bytes, settings: ServeSettings, sampling: Sampling) -> ImageRequest:
    """Read the JSON body of a request.

    Args:
        settings: with what a request may ask for at most.
        sampling: how the base is drawn where the request does not say.

    Raises:
        InputError: what was expected, and what came.
    """
    try:
        given = parse_json(body)
    except ValueError as error:
        raise InputError(f"expected a JSON object: {error}") from error
    if not isinstance(given, dict):
        raise InputError('expected a JSON object such as {"prompt": "a fox"}')
    for name in given:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, 1)
            raise InputError(f"unknown field {name!r}; expected {near[0] if near else ', '.join(_FIELDS)}")
    prompt = _text(given, "prompt")
    if not prompt.strip():
        raise InputError("prompt: expected what to draw")
    for name, only in (("response_format", "b64_json"), ("output_format", "png")):
        if given.get(name, only) != only:
            raise InputError(f"{name}: pictures come as {only} alone, got {given[name]!r}")
    width, height = _size(given.get("size", "auto"), settings.max_side)
    guidance = given.get("guidance_scale")
    drawn = replace(
        sampling,
        steps=_whole(given, "steps", min(sampling.steps, settings.max_steps), 1, settings.max_steps),
        guidance=sampling.guidance if guidance is None else _number("guidance_scale", guidance, 0, 100),
        width=width,
        height=height,
        batch=settings.batch,
    )
    count = _whole(given, "n", 1, 1, settings.max_images)
    seed = _whole(given, "seed", secrets.randbelow(2**31), 0, _SEEDS - count)
    return ImageRequest(prompt, _text(given, "negative_prompt"), _shifts(given), count, seed, drawn)


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"{name}: expected text, got {value!r}")
    if len(value) > _LONGEST:
        raise InputError(f"{name}: expected at most {_LONGEST} characters, got {len(value)}")
    return value


def _whole(given: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")
    return value


def _number(name: str, value: Any, least: float, most: float) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or not least <= value <= most:
        raise InputError(f"{name}: expected a number from {least:g} to {most:g}, got {value!r}")
    return float(value)


def _size(value: Any, longest: int) -> tuple[int, int]:
    """Width and height; 0 and 0 for the base's own."""
    if value == "auto":
        return 0, 0
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", value) if isinstance(value, str) else None
    if match is None:
        raise InputError(f'size: expected pixels such as "512x512", or "auto", got {value!r}')
    width, height = int(match[1]), int(match[2])
    if max(width, height) > longest:
        raise InputError(f"size: expected at most {longest} pixels a side, got {value}")
    return width, height


def _shifts(given: Mapping[str, Any]) -> dict[str, float]:
    """Scale by name: of `shifts`, or of the one that `model` names."""
    listed, model = given.get("shifts", []), _text(given, "model")
    model = "" if model == BASE else model
    if not isinstance(listed, list) or len(listed) > _MOST_SHIFTS:
        raise InputError(f'shifts: expected at most {_MOST_SHIFTS} of {{"name": ..., "scale": 1.0}}, got {listed!r}')
    if model and listed:
        raise InputError("give either model, the name of one shift, or shifts, not both")
    found: dict[str, float] = {model: 1.0} if model else {}
    for each in listed:
        known = isinstance(each, dict) and "name" in each and each.keys() <= {"name", "scale"}
        if not known or not isinstance(each["name"], str):
            raise InputError(f'shifts: expected {{"name": ..., "scale": 1.0}}, got {each!r}')
        if each["name"] in found:
            raise InputError(f"shifts: {each['name']!r} stands there twice")
        found[each["name"]] = _number("scale", each.get("scale", 1.0), -_LARGEST_SCALE, _LARGEST_SCALE)
    return found
