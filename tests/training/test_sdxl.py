"""SDXL's training step: two text encoders, pooled text and sizes beside the prompt."""

from __future__ import annotations

import pytest
import tiny_base
import tiny_sdxl
import torch
from learnt import as_they_are, in_turn
from PIL import Image

from spectra import attach
from spectra.errors import BaseError
from spectra.families.known import family_of
from spectra.families.noise_schedule import DiffusionSchedule
from spectra.training.config import make_config
from spectra.training.data.latents import PictureSource
from spectra.training.data.prompt_embeddings import Conditions
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.run.accelerator import make_accelerator
from spectra.training.run.batches import Concept
from spectra.training.run.loop import Loop


def test_sdxl_learns() -> None:
    torch.manual_seed(0)
    pipe = tiny_sdxl.build()
    pipe.unet.requires_grad_(False)
    family = family_of(pipe)
    assert family.name == "SDXL"
    config = make_config({"base": "x", "lr": 0.02, "batch": 2})
    source = PictureSource(pipe, as_they_are([Image.new("RGB", (32, 32), "orange")]), in_turn(["a disc"]))
    schedule = DiffusionSchedule.of(pipe.scheduler, 1, 5.0)
    adapter = attach(pipe, "unet")
    concept = Concept("disc", [DenoisingObjective("denoising", source, schedule)], seed=0)
    conditions = Conditions(lambda prompts: family.encode(pipe, prompts), ["a disc"], keep=True, trained=False)
    loop = Loop(
        pipe, family, [concept], conditions, adapter.train().by_key,
        dict.fromkeys(adapter.by_key, "lr"), config, make_accelerator(config, "cpu"), adapter.disabled,
    )  # fmt: skip
    before = loop.measure()
    for _ in range(12):
        loop.advance()
    assert loop.measure() < before
    adapter.detach()


def test_a_base_that_cannot_be_trained_is_refused() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel

    pipe = tiny_base.build()
    pipe.unet = UNet2DConditionModel(
        in_channels=9, sample_size=8, attention_head_dim=2, block_out_channels=(4, 4), norm_num_groups=2,
        cross_attention_dim=24,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with pytest.raises(BaseError, match="the base's unet takes 9 channels"):
        family_of(pipe)
    pipe = tiny_base.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(BaseError, match="no noise schedule of the DDPM kind"):
        family_of(pipe)
    pipe = tiny_base.build()
    pipe.register_modules(text_encoder=None)
    with pytest.raises(BaseError, match="the base has no text_encoder"):
        family_of(pipe)
    with pytest.raises(BaseError, match="StableDiffusionInpaintPipeline cannot be trained here; .* Diffusion, SDXL"):
        family_of(StableDiffusionInpaintPipeline(**tiny_base.build().components, requires_safety_checker=False))
