"""SDXL's training step: two text encoders, pooled text and sizes beside the prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from spectra import attach
from spectra.errors import BaseError
from spectra.families.denoise import denoise_family
from spectra.training.config import make_config
from spectra.training.latents import Conditions, PictureSource
from spectra.training.loop import Concept, Loop, make_accelerator
from spectra.training.objectives import Denoising, Schedule


def build_sdxl(build_tiny: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small = build_tiny()
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
            max_position_embeddings=16, bos_token_id=0, eos_token_id=1, projection_dim=12,
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


def test_sdxl_learns(build_tiny: Any) -> None:
    torch.manual_seed(0)
    pipe = build_sdxl(build_tiny)
    pipe.unet.requires_grad_(False)
    family = denoise_family(pipe)
    assert family.name == "SDXL"
    config = make_config({"base": "x", "lr": 0.02, "batch": 2})
    source = PictureSource(pipe, [Image.new("RGB", (32, 32), "orange")], ["a disc"])
    schedule = Schedule.of(pipe.scheduler, 5.0)
    adapter = attach(pipe, "unet")
    concept = Concept("disc", [Denoising("denoising", source, schedule)], seed=0)
    conditions = Conditions(lambda prompts: family.encode(pipe, prompts, 32), ["a disc"], keep=True, trained=False)
    loop = Loop(
        pipe, family, [concept], conditions, adapter.train(),
        dict.fromkeys(adapter.deltas, 2), config, make_accelerator(config, "cpu"), adapter.disabled,
    )  # fmt: skip
    before = loop.measure()
    for _ in range(12):
        loop.advance()
    assert loop.measure() < before
    adapter.detach()


def test_a_base_that_cannot_be_trained_is_refused(build_tiny: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel

    pipe = build_tiny()
    pipe.unet = UNet2DConditionModel(
        in_channels=9, sample_size=8, attention_head_dim=2, block_out_channels=(4, 4), norm_num_groups=2,
        cross_attention_dim=24,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with pytest.raises(BaseError, match="the UNet takes 9 channels"):
        denoise_family(pipe)
    pipe = build_tiny()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(BaseError, match="no noise schedule of the DDPM kind"):
        denoise_family(pipe)
    pipe.text_encoder = None
    with pytest.raises(BaseError, match="training supports Stable Diffusion, SDXL"):
        denoise_family(pipe)
