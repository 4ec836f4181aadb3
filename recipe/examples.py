"""The UNet's examples: latents of random scenes and the hidden states of their captions, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from recipe.captions import write_caption
from recipe.data import Data, draw_scenes
from recipe.text import encode_captions, tokenise
from recipe.unet import Examples
from recipe.vae import encode_pictures

CAPTIONS_EACH = 2


def make_examples(
    data: Data,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    per_drawing: int,
    seed: int,
    path: Path,
) -> Examples:
    """Draws, encodes and captions scenes; the VAE is a whitened one, whose scaling factor is 1."""
    pictures, scenes = draw_scenes(data, per_drawing, seed)
    rng = np.random.default_rng(seed + 1)
    latents = encode_pictures(vae, pictures) * vae.config.scaling_factor
    captions = [write_caption(scene, data, rng) for scene in scenes for _ in range(CAPTIONS_EACH)]
    hidden = encode_captions(text_encoder, tokenise(tokenizer, captions))
    empty = encode_captions(text_encoder, tokenise(tokenizer, [""]))[0]
    saved = {
        "latents": latents.half(),
        "captions": hidden.view(len(pictures), CAPTIONS_EACH, *hidden.shape[1:]),
        "empty": empty,
    }
    torch.save(saved, path)
    return load_examples(path)


def load_examples(path: Path) -> Examples:
    saved = torch.load(path, weights_only=True)
    return Examples(saved["latents"], saved["captions"], saved["empty"])
