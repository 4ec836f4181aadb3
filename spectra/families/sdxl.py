"""SDXL: two CLIP text encoders, and sizes that the model is told beside the prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from spectra.families.execution_device import execution_device
from spectra.families.family import Condition, Family
from spectra.families.unet import guided_unet, predict_unet, unet_grid, unet_size


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, device=execution_device(pipe.unet), num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Condition(embeds, {"text_embeds": pooled})


def _predict(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    height, width = (side * pipe.vae_scale_factor for side in noisy.shape[2:])
    # Original size, crop corner and target size, as SDXL was told them in its own training.
    sizes = condition.embeds.new_tensor([[height, width, 0, 0, height, width]]).repeat(len(noisy), 1)
    return predict_unet(pipe, noisy, timesteps, replace(condition, added={**condition.added, "time_ids": sizes}))


SDXL = Family(
    name="SDXL",
    pipelines=("StableDiffusionXLPipeline",),
    model="unet",
    text_encoders=("text_encoder", "text_encoder_2"),
    encoder_targets=("text-encoder",),
    encode=_encode,
    predict=_predict,
    guided=guided_unet,
    grid=unet_grid,
    size=unet_size,
    cross_attention="attn2",
)
