"""Qwen-Image: packed latents of a video VAE with one frame, prompts of a language model, guidance by two calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spectra.families.execution_device import execution_device
from spectra.families.family import Condition, Family, LatentSpace, classifier_free, decode, gaussian, pipeline_guidance
from spectra.families.joint_transformer import REFUSED, pack, unpack
from spectra.families.noise_schedule import FlowSchedule

TOKENS = 512
"""Of a prompt with the template's end, as the pipeline reads them by default when it draws."""


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    embeds, mask = pipe.encode_prompt(prompts, execution_device(pipe.transformer), max_sequence_length=TOKENS)
    return Condition(embeds, mask=None if mask is None else mask.bool())


def _reading(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    """Of the template only what follows its first tokens is read."""
    return pipe.prompt_template_encode.format(prompt), TOKENS + int(pipe.prompt_template_encode_start_idx)


def _predict(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    height, width = noisy.shape[2:]
    mask = condition.mask
    tokens = pipe.transformer(
        hidden_states=pack(noisy),
        timestep=timesteps.to(noisy.dtype) / 1000,
        encoder_hidden_states=condition.embeds,
        encoder_hidden_states_mask=None if mask is None or mask.all() else mask.long(),
        img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
        return_dict=False,
    )[0]
    return unpack(tokens, height, width)


def _posterior(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = gaussian(vae, pixels[:, :, None])
    return mean[:, :, 0], std[:, :, 0]


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    return decode(vae, latents[:, :, None])[:, :, 0]


def _scale(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation of each channel."""
    config, like = vae.config, {"dtype": vae.dtype, "device": execution_device(vae)}
    mean, std = (torch.tensor(each, **like).view(-1, 1, 1) for each in (config.latents_mean, config.latents_std))
    return mean, 1 / std


def _guided(pipe: Any, guidance: float, negatives: Sequence[str]) -> dict[str, Any]:
    """The pipeline guides only away from a prompt, if only from a blank."""
    arguments = classifier_free(pipe, guidance, negatives)
    arguments["true_cfg_scale"] = arguments.pop("guidance_scale")
    return arguments if guidance <= 1 else {**arguments, "negative_prompt": [each or " " for each in negatives]}


def _default_guidance(pipe: Any) -> float:
    return pipeline_guidance(pipe, "true_cfg_scale")


QWEN_IMAGE = Family(
    name="Qwen-Image",
    pipelines=("QwenImagePipeline",),
    model="transformer",
    text_encoders=("text_encoder",),
    encode=_encode,
    reading=_reading,
    predict=_predict,
    schedule=FlowSchedule.of,
    latents=LatentSpace(posterior=_posterior, decoded=_decoded, scale=_scale),
    token=2,
    channels_per_latent=4,
    guided=_guided,
    default_guidance=_default_guidance,
    refuses=REFUSED,
)
