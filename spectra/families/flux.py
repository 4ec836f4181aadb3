"""FLUX.1 (dev, schnell): packed latents with position ids, CLIP for the whole prompt and T5 for its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spectra.families.execution_device import execution_device
from spectra.families.family import Condition, Family, pipeline_guidance, plain_reading, without_negatives
from spectra.families.joint_transformer import REFUSED, pack, unpack
from spectra.families.noise_schedule import FlowSchedule

T5_TOKENS = 512
"""Of a prompt, by default."""

GUIDANCE = 3.5
"""Guidance that a distilled model (dev) is told in training, as it is by default when it draws."""


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    embeds, pooled, _ = pipe.encode_prompt(prompts, device=execution_device(pipe.transformer))
    return Condition(embeds, {"pooled_projections": pooled})


def _reading(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    """T5 reads as many tokens as the pipeline gives it."""
    return (prompt, T5_TOKENS) if encoder == "text_encoder_2" else plain_reading(pipe, encoder, prompt)


def _predict(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    height, width = noisy.shape[2:]
    embeds = condition.embeds
    guidance = torch.full((len(noisy),), GUIDANCE, device=noisy.device)
    tokens = pipe.transformer(
        hidden_states=pack(noisy),
        timestep=timesteps.to(noisy.dtype) / 1000,
        guidance=guidance if pipe.transformer.config.guidance_embeds else None,
        encoder_hidden_states=embeds,
        txt_ids=embeds.new_zeros(embeds.shape[1], 3),
        img_ids=position_ids(height // 2, width // 2).to(embeds),
        return_dict=False,
        **condition.added,
    )[0]
    return unpack(tokens, height, width)


def position_ids(rows: int, columns: int) -> Tensor:
    """Zero, row and column of each token, row by row: `[rows * columns, 3]`."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))


def _guided(pipe: Any, guidance: float, negatives: Sequence[str]) -> dict[str, Any]:
    """The model is told the guidance, or has none (schnell)."""
    return without_negatives(guidance, negatives, "FLUX.1, whose guidance is distilled")


def _default_guidance(pipe: Any) -> float:
    """None for schnell, which is told none."""
    return pipeline_guidance(pipe) if pipe.transformer.config.guidance_embeds else 0.0


FLUX = Family(
    name="FLUX.1",
    pipelines=("FluxPipeline",),
    model="transformer",
    text_encoders=("text_encoder", "text_encoder_2"),
    encode=_encode,
    reading=_reading,
    predict=_predict,
    schedule=FlowSchedule.of,
    token=2,
    channels_per_latent=4,
    guided=_guided,
    default_guidance=_default_guidance,
    guidance=GUIDANCE,
    refuses=REFUSED,
)
