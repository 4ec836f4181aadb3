"""FLUX.2 (dev, klein): latents packed and normed by the VAE, positions on four axes, layers of a language model.

dev is told the guidance; klein is not, and is guided away from a negative prompt unless it is distilled to few steps.
Pictures that these pipelines take as references are for editing, and left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spectra.families.execution_device import execution_device
from spectra.families.family import (
    Condition,
    Family,
    LatentSpace,
    classifier_free,
    decode,
    gaussian,
    pipeline_guidance,
    without_negatives,
)
from spectra.families.joint_transformer import REFUSED
from spectra.families.noise_schedule import FlowSchedule

TOKENS = 512
"""Of a prompt in its chat template, by default."""

GUIDANCE = 4.0
"""Guidance that dev is told in training, as it is by default when it draws."""


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    return Condition(pipe.encode_prompt(prompts, device=execution_device(pipe.transformer))[0])


def _read_by_dev(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": pipe.system_message}]},
        {"role": "user", "content": [{"type": "text", "text": prompt}]},
    ]
    return pipe.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False), TOKENS


def _read_by_klein(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    messages = [{"role": "user", "content": prompt}]
    chat = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    return pipe.tokenizer.apply_chat_template(messages, **chat), TOKENS


def _predict(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    samples, _, rows, columns = noisy.shape
    embeds = condition.embeds
    guidance = torch.full((samples,), GUIDANCE, device=noisy.device)
    tokens: Tensor = pipe.transformer(
        hidden_states=noisy.flatten(2).transpose(1, 2),
        timestep=timesteps.to(noisy.dtype) / 1000,
        guidance=guidance if pipe.transformer.config.guidance_embeds else None,
        encoder_hidden_states=embeds,
        txt_ids=position_ids(1, 1, embeds.shape[1]).expand(samples, -1, -1).to(embeds.device),
        img_ids=position_ids(rows, columns, 1).expand(samples, -1, -1).to(noisy.device),
        return_dict=False,
    )[0]
    return tokens.transpose(1, 2).reshape(noisy.shape)


def position_ids(rows: int, columns: int, words: int) -> Tensor:
    """Zero, row, column and place in the prompt of each token: `[rows * columns * words, 4]`."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns), torch.arange(words))


def _posterior(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = gaussian(vae, pixels)
    return F.pixel_unshuffle(mean, 2), F.pixel_unshuffle(std, 2)


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    return decode(vae, F.pixel_shuffle(latents, 2))


def _scale(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation of each packed channel, as the batch norm has them from the VAE's own training."""
    mean, variance = (each.to(execution_device(vae)) for each in (vae.bn.running_mean, vae.bn.running_var))
    return mean.view(-1, 1, 1), (variance + vae.config.batch_norm_eps).rsqrt().view(-1, 1, 1)


def _told(pipe: Any, guidance: float, negatives: Sequence[str]) -> dict[str, Any]:
    return without_negatives(guidance, negatives, "FLUX.2 dev, whose guidance is distilled")


def _guided(pipe: Any, guidance: float, negatives: Sequence[str]) -> dict[str, Any]:
    """The pipeline takes a negative prompt as embeddings alone, and no guidance where it is distilled to few steps."""
    if pipe.config.is_distilled:
        return without_negatives(1.0, negatives, "this FLUX.2 klein, which is distilled")
    arguments = classifier_free(pipe, guidance, negatives)
    if "negative_prompt" in arguments:
        arguments["negative_prompt_embeds"] = _encode(pipe, arguments.pop("negative_prompt")).embeds
    return arguments


def _default_guidance(pipe: Any) -> float:
    return 1.0 if pipe.config.is_distilled else pipeline_guidance(pipe)


FLUX2_DEV = Family(
    name="FLUX.2 dev",
    pipelines=("Flux2Pipeline",),
    model="transformer",
    text_encoders=("text_encoder",),
    encode=_encode,
    reading=_read_by_dev,
    predict=_predict,
    # The pipeline moves the steps of a drawing further towards noise the fewer they are; with many (200) by the same
    # line as FLUX.1, which is in the scheduler's configuration.
    schedule=FlowSchedule.of,
    latents=LatentSpace(posterior=_posterior, decoded=_decoded, scale=_scale, patch=2),
    channels_per_latent=4,
    guided=_told,
    guidance=GUIDANCE,
    refuses=REFUSED,
)

FLUX2_KLEIN = replace(
    FLUX2_DEV,
    name="FLUX.2 klein",
    pipelines=("Flux2KleinPipeline",),
    reading=_read_by_klein,
    guided=_guided,
    default_guidance=_default_guidance,
    guidance=1.0,
)
