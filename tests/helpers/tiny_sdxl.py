"""A Stable Diffusion XL pipeline of a few channels with random weights, in a fraction of a second."""

from __future__ import annotations

from typing import Any

import tiny_base


def build() -> Any:
    """A random pipeline with SDXL's UNet and its two text encoders."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small = tiny_base.build()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=40,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 12,
        use_linear_projection=True,
    )

    def text(width: int) -> Any:
        return CLIPTextConfig(
            vocab_size=64, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=48, bos_token_id=0, eos_token_id=1, projection_dim=12,
        )  # fmt: skip

    return StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=CLIPTextModel(text(16)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text(24)).eval(),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        unet=unet,
        scheduler=small.scheduler,
        add_watermarker=False,
    )
