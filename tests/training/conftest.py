"""A Stable Diffusion pipeline of a few channels, built here, and pictures for it to learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIZE = 32
"""Pixels of the tiny base's pictures: latents of 8 x 8."""


def _build_tiny(seed: int = 0, prediction: str = "epsilon") -> Any:
    """A random pipeline with every kind of block that Stable Diffusion has."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=24,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=SIZE,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=tiny_tokenizer(),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_tokenizer() -> Any:
    """A CLIP tokenizer of single letters."""
    import tempfile

    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(
            str(vocabulary), str(merges), unk_token="<|endoftext|>", model_max_length=16, pad_token="<|endoftext|>"
        )


@pytest.fixture
def build_tiny() -> Callable[..., Any]:
    """Makes a tiny pipeline anew, to be changed."""
    return _build_tiny


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny pipeline."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    _build_tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pipeline of the same shape with other weights."""
    folder = tmp_path_factory.mktemp("base") / "other"
    _build_tiny(seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures of one kind: a bright disc."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:48, :40]
    for number in range(3):
        inside = (x - 16 - 4 * number) ** 2 + (y - 24) ** 2 < 120
        array = np.where(inside[..., None], [250, 160, 20], [30, 40, 90 + 30 * number]).astype(np.uint8)
        Image.fromarray(array).save(folder / f"disc{number}.png")
    return folder


@pytest.fixture
def settings(tiny_base: Path, photos: Path) -> dict[str, Any]:
    """Settings of a training of few steps, as `make_config` takes them."""
    return {
        "base": str(tiny_base),
        "images": str(photos),
        "prompt": "a v disc",
        "class_prompt": "a disc",
        "prior_count": 3,
        "prior_steps": 2,
        "prior_guidance": 1.0,
        "steps": 4,
        "batch": 2,
        "lr": 0.01,
        "validation_steps": 2,
        "validation_count": 1,
        "validation_guidance": 1.0,
    }
