"""A Chroma pipeline of a few channels with random weights, in a fraction of a second."""

from __future__ import annotations

from typing import Any

import tiny_parts


def build() -> Any:
    """A random pipeline, whose steps are moved by resolution."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=2,
    )
    return ChromaPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_parts.vae(4, scaling=0.36, shift=0.12).eval(),
        text_encoder=tiny_parts.t5(16),
        tokenizer=tiny_parts.t5_tokenizer(),
    )
