"""SDXL: two CLIP text encoders, and sizes that the model is told beside the prompt."""

from __future__ import annotations

from typing import Any

import torch

from spectra.families.family import Condition, Family
from spectra.families.unet import guided_unet, predict_unet, unet_grid, unet_size


def _encode(pipe: Any, prompts: list[str], resolution: int) -> Condition:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, device=pipe.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    # Original size, crop corner and target size, as SDXL was told them in its own training.
    sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], dtype=embeds.dtype)
    return Condition(embeds, {"text_embeds": pooled, "time_ids": sizes.to(embeds.device).repeat(len(prompts), 1)})


SDXL = Family(
    name="SDXL",
    pipelines=("StableDiffusionXLPipeline",),
    model="unet",
    text_encoders=("text_encoder", "text_encoder_2"),
    encoder_targets=("text-encoder",),
    encode=_encode,
    predict=predict_unet,
    guided=guided_unet,
    grid=unet_grid,
    size=unet_size,
    cross_attention="attn2",
)
