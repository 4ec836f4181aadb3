"""Presets: settings that were chosen together, by what they give in likeness, drift and bytes (docs/claims.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

DEFAULT_PRESET = "balanced"


@dataclass(frozen=True)
class Preset:
    """Defaults that differ from the declared ones: for every base, and for the embedded one beside them.

    Attributes:
        goal: what it is for, in words that a person reads who chooses one.
    """

    goal: str
    everywhere: Mapping[str, Any] = field(default_factory=dict)
    embedded: Mapping[str, Any] = field(default_factory=dict)


_TERMS: Mapping[str, Any] = {"directions": "0", "outer": "1", "lr_1d": 0.0, "text_encoder": None}
"""Terms alone: beside them neither a diagonal nor the scales of norms earned their bytes."""

_HELD: Mapping[str, Any] = {
    "word": True,
    "text_encoder": False,
    "steps": 200,
    "weight_decay": 0.1,
    "keep_prompts": 0.5,
}
"""On the embedded base: a vector for the special word, and held to the base by weight decay, whose product with the
rate is .02, and by half of the class pictures standing under other words."""

_FOLLOWS: Mapping[str, Any] = {
    "prior_follow": 0.032,
    "follow_prompts": tuple(
        f"{{prompt}} on a {colour} background" for colour in ("grey", "black", "orange", "purple", "pink", "brown")
    ),
    "stratified_timesteps": True,
}
"""A few class pictures stand under the subject's own prompt with a ground asked for: without those, some subjects bring
their pale ground with them, and with them they are a little less alike (docs/tried.md)."""

_TIME = "unet.*time_emb*,unet.add_embedding*"
_FEED_FORWARD = "unet.*ff.net.*"
"""Layers of a UNet: what it knows of time and of the prompt as a whole, and feed-forwards. Terms elsewhere add to the
drift, not to the likeness (docs/tried.md)."""

_TRIED: Mapping[str, Any] = {**_HELD, "outer": "2", "targets": f"{_TIME},{_FEED_FORWARD}", "stratified_timesteps": True}
"""Two terms on each of these layers, with the noise levels of a step spread evenly."""

_FEW: Mapping[str, Any] = {
    **_HELD,
    **_FOLLOWS,
    "outer": "1",
    "targets": f"{_TIME},unet.*ff.net.2",
    "weight_decay": 0.25,
}
"""Few terms, held most strongly: what has the smallest file follows prompts most surely."""

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "balanced": Preset("likeness at little drift from the base", _TERMS, {**_TRIED, **_FOLLOWS}),
        "likeness": Preset("more of it in more steps", {**_TERMS, "steps": 1000}, {**_TRIED, **_FOLLOWS, "steps": 800}),
        "prompt": Preset("a subject that follows prompts most surely", {**_TERMS, "prior_target": "base"}, _FEW),
        "style": Preset("a way of drawing, from pictures of several subjects", _TERMS, _TRIED),
        "tiny": Preset("a file of 32 kB at most", {**_TERMS, "outer": "28kB"}, _FEW),
        "svdiff": Preset("the paper's method: all directions, no outer terms"),
    }
)
