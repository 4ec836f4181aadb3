"""Chroma: FLUX.1's packed latents without its CLIP and its guidance; T5's tokens with a mask, guidance by two calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from spectra.families.execution_device import execution_device
from spectra.families.family import Condition, Family
from spectra.families.flux import T5_TOKENS, position_ids
from spectra.families.joint_transformer import REFUSED, pack, unpack, with_mask
from spectra.families.noise_schedule import FlowSchedule


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    """The mask is no `Condition.mask`: the pipeline adds it to the scores of attention, so that padding counts too."""
    embeds, _, mask, *_ = pipe.encode_prompt(
        prompts, device=execution_device(pipe.transformer), do_classifier_free_guidance=False
    )
    return Condition(embeds, {"attention_mask": mask})


def _reading(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    """T5 reads as many tokens as the pipeline gives it."""
    return prompt, T5_TOKENS


def _predict(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    height, width = noisy.shape[2:]
    embeds, tokens, words = condition.embeds, pack(noisy), condition.added["attention_mask"]
    mask = torch.cat([words, words.new_ones(tokens.shape[:2])], dim=1)
    with _masked_again(pipe.transformer, mask):
        answer = pipe.transformer(
            hidden_states=tokens,
            timestep=timesteps.to(noisy.dtype) / 1000,
            encoder_hidden_states=embeds,
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=position_ids(height // 2, width // 2).to(embeds),
            attention_mask=mask,
            return_dict=False,
        )[0]
    return unpack(answer, height, width)


@contextmanager
def _masked_again(transformer: Any, mask: Tensor) -> Iterator[None]:
    """Within it blocks get the mask with gradient checkpointing too, where diffusers leaves it out of some."""
    checkpoint = getattr(transformer, "_gradient_checkpointing_func", None)
    if checkpoint is not None:
        transformer._gradient_checkpointing_func = with_mask(checkpoint, mask)
    try:
        yield
    finally:
        if checkpoint is not None:
            transformer._gradient_checkpointing_func = checkpoint


CHROMA = Family(
    name="Chroma",
    pipelines=("ChromaPipeline",),
    model="transformer",
    text_encoders=("text_encoder",),
    encode=_encode,
    reading=_reading,
    predict=_predict,
    schedule=FlowSchedule.of,
    token=2,
    channels_per_latent=4,
    refuses=REFUSED,
)
