"""A Z-Image pipeline of a few channels with random weights, in a fraction of a second."""

from __future__ import annotations

from typing import Any

import tiny_parts
import tiny_qwen


def build() -> Any:
    """A random pipeline, whose steps are moved towards noise as those of the distilled one (Turbo)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[2, 2, 4],
        axes_lens=[256, 16, 16],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        token.data.normal_()  # zeros as they are made; learnt in the published ones
    tokenizer = tiny_qwen.tokenizer()
    return ZImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_parts.vae(4, scaling=0.36, shift=0.12).eval(),
        text_encoder=tiny_qwen.qwen3(16, tokenizer),
        tokenizer=tokenizer,
    )
