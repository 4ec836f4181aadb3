"""Z-Image: latents and prompts in lists, a clock that runs towards the picture, an answer of the other sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spectra.families.execution_device import execution_device
from spectra.families.family import Condition, Family, classifier_free, pipeline_guidance
from spectra.families.joint_transformer import REFUSED
from spectra.families.noise_schedule import FlowSchedule

RESOLUTION = 1024
"""Pixels of the side of a picture by default; no configuration says so."""

TOKENS = 512
"""Of a prompt in its chat template, by default."""

TURBO_SHIFT = 3.0
"""Shift of the noise schedule of the distilled Turbo, by which alone its files differ from the others' (6)."""


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    # The pipeline puts its chat template into the very list that it is given.
    embeds, _ = pipe.encode_prompt(list(prompts), execution_device(pipe.transformer), do_classifier_free_guidance=False)
    return Condition.of_lists(embeds)


def _reading(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    messages = [{"role": "user", "content": prompt}]
    chat = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
    return pipe.tokenizer.apply_chat_template(messages, **chat), TOKENS


def _predict(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    answers = pipe.transformer(
        x=list(noisy.unsqueeze(2)),  # one frame
        t=(1000 - timesteps) / 1000,
        cap_feats=condition.lists(),
        return_dict=False,
    )[0]
    return -torch.stack(answers).squeeze(2)


def _guided(pipe: Any, guidance: float, negatives: Sequence[str]) -> dict[str, Any]:
    """The pipeline adds the guidance to 1: there is none at 0."""
    return classifier_free(pipe, guidance, negatives, none=0.0)


def _default_guidance(pipe: Any) -> float:
    """None for Turbo."""
    return 0.0 if pipe.scheduler.config.shift == TURBO_SHIFT else pipeline_guidance(pipe)


def _size(pipe: Any, model: Any) -> int:
    return RESOLUTION // int(pipe.vae_scale_factor)


Z_IMAGE = Family(
    name="Z-Image",
    pipelines=("ZImagePipeline",),
    model="transformer",
    text_encoders=("text_encoder",),
    encode=_encode,
    reading=_reading,
    predict=_predict,
    schedule=FlowSchedule.of,
    token=2,
    size=_size,
    guided=_guided,
    default_guidance=_default_guidance,
    guidance=0.0,
    refuses={
        **REFUSED,
        "concepts": "its embedders take the tokens of all samples as one sequence, in which none can have a change of "
        "its own; train one concept at a time",
    },
)
