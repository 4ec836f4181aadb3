"""Stable Diffusion 1.x and 2.x: one CLIP text encoder; noise or, in some 2.x, velocity is predicted."""

from __future__ import annotations

from typing import Any

from spectra.families.execution_device import execution_device
from spectra.families.family import Condition, Family
from spectra.families.unet import guided_unet, predict_unet, unet_grid, unet_size


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    embeds, _ = pipe.encode_prompt(prompts, execution_device(pipe.unet), 1, False)
    return Condition(embeds)


STABLE_DIFFUSION = Family(
    name="Stable Diffusion",
    pipelines=("StableDiffusionPipeline",),
    model="unet",
    text_encoders=("text_encoder",),
    encoder_targets=("text-encoder",),
    encode=_encode,
    predict=predict_unet,
    guided=guided_unet,
    grid=unet_grid,
    size=unet_size,
    cross_attention="attn2",
)
