"""Stable Diffusion 3 and 3.5: a joint transformer by flow matching, two CLIP text encoders and T5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spectra.families.execution_device import execution_device
from spectra.families.family import Condition, Family, plain_reading
from spectra.families.joint_transformer import REFUSED
from spectra.families.noise_schedule import FlowSchedule

T5_TOKENS = 256
"""Of a prompt, by default."""


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, device=execution_device(pipe.transformer), do_classifier_free_guidance=False
    )
    return Condition(embeds, {"pooled_projections": pooled})


def _reading(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    """T5 reads as many tokens as the pipeline gives it."""
    return (prompt, T5_TOKENS) if encoder == "text_encoder_3" else plain_reading(pipe, encoder, prompt)


def _predict(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    flow: Tensor = pipe.transformer(
        hidden_states=noisy,
        timestep=timesteps,
        encoder_hidden_states=condition.embeds,
        return_dict=False,
        **condition.added,
    )[0]
    return flow


SD3 = Family(
    name="Stable Diffusion 3",
    pipelines=("StableDiffusion3Pipeline",),
    model="transformer",
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    optional_encoders=("text_encoder_3",),
    encode=_encode,
    reading=_reading,
    predict=_predict,
    schedule=FlowSchedule.of,
    token=2,
    refuses=REFUSED,
)
