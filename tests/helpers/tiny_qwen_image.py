"""A Qwen-Image pipeline of a few channels with random weights, in a fraction of a second."""

from __future__ import annotations

from typing import Any

import tiny_qwen


def vae() -> Any:
    """The VAE of frames with four latent channels, each of its own mean and spread; a quarter of a picture's side."""
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.75, 0.5, 0.1, -0.2],
        latents_std=[2.8, 1.4, 0.7, 1.1],
    )


def build() -> Any:
    """A random pipeline, whose steps are moved by resolution."""
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    tokenizer = tiny_qwen.tokenizer()
    return QwenImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192
        ),
        vae=vae().eval(),
        text_encoder=tiny_qwen.qwen25_vl(16, tokenizer),
        tokenizer=tokenizer,
    )
