"""A Stable Diffusion 3 pipeline of a few channels with random weights, in a fraction of a second."""

from __future__ import annotations

from typing import Any

import tiny_base
import tiny_parts


def build(*, t5: bool = True, **scheduling: Any) -> Any:
    """A random pipeline with the joint transformer of 3.5 and three text encoders, or two; pictures have 32 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    tokenizer = tiny_base.tiny_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduling}),
        vae=tiny_parts.vae(4, scaling=1.5, shift=0.06).eval(),
        text_encoder=tiny_parts.clip(12, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=tiny_parts.clip(16, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=tiny_parts.t5(32) if t5 else None,
        tokenizer_3=tiny_parts.t5_tokenizer() if t5 else None,
    )
