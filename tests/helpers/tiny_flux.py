"""A FLUX.1 pipeline of a few channels with random weights, in a fraction of a second."""

from __future__ import annotations

from typing import Any

import tiny_base
import tiny_parts


def build(*, guidance: bool = True) -> Any:
    """A random pipeline: dev, which is told a guidance, or schnell, whose steps are not moved by resolution."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=12,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance,
    )
    scheduling = {"shift": 3.0, "use_dynamic_shifting": True} if guidance else {"shift": 1.0}
    pipe = FluxPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduling),
        vae=tiny_parts.vae(4, scaling=0.36, shift=0.12).eval(),
        text_encoder=tiny_parts.clip(12, projected=False),
        tokenizer=tiny_base.tiny_tokenizer(),
        text_encoder_2=tiny_parts.t5(16),
        tokenizer_2=tiny_parts.t5_tokenizer(),
    )
    return pipe
