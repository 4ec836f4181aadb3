"""Stable Diffusion 3 and 3.5: a joint transformer by flow matching, two CLIP text encoders and T5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spectra.families.family import Condition, Family
from spectra.families.joint_transformer import REFUSED
from spectra.families.noise_schedule import FlowSchedule


def _encode(pipe: Any, prompts: list[str]) -> Condition:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, device=pipe.transformer.device, do_classifier_free_guidance=False
    )
    return Condition(embeds, {"pooled_projections": pooled})


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
    predict=_predict,
    schedule=FlowSchedule.of,
    token=2,
    refuses=REFUSED,
)
