"""What transformers share that read prompt and picture in one sequence: packed latents, masks, what they lack."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "unmix": "prompt and picture attend to each other in one attention, of which no maps are read; "
        "train with unmix weight 0",
        "text encoder": "it stays as it is, as language models do; leave it out, or name it as a target "
        "(--targets denoiser,text-encoder)",
        "edit": "a picture is inverted along DDIM's steps, and this base is trained by flow matching; "
        "edit on Stable Diffusion or SDXL",
    }
)
"""For `Family.refuses`."""


def pack(latents: Tensor) -> Tensor:
    """Latents `[b, c, h, w]` as tokens `[b, h/2 * w/2, 4 c]`: each holds 2 x 2 places, channel by channel."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The way back of `pack`, to latents of `height` times `width` places."""
    b, _, c = tokens.shape
    return tokens.view(b, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, -1, height, width)


def with_mask(checkpoint: Callable[..., Any], mask: Tensor) -> Callable[..., Any]:
    """A function for gradient checkpointing that hands `mask` to blocks which are called without theirs.

    Chroma's single blocks are by diffusers, so that its model would answer something else with checkpointing on.
    """

    def masked(block: Any, *given: Any) -> Any:
        left_out = list(inspect.signature(block.forward).parameters)[len(given) :]
        return checkpoint(block, *given, *([mask] if left_out[:1] == ["attention_mask"] else []))

    return masked
