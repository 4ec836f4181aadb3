"""What one training step needs of a model family: encoding pictures and prompts, and calling the model.

A family is a few functions as data; the training loop knows none by name. Models of the noise-prediction kind with a
UNet are here (Stable Diffusion 1.x and 2.x, SDXL). The transformers trained by flow matching (SD3, Flux) take shifts
for inference, but have no training step yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spectra.errors import BaseError


@dataclass(frozen=True)
class Condition:
    """What the model is conditioned on: `embeds [b, tokens, dim]`, and by name what some families add `[b, ...]`."""

    embeds: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, index: Tensor) -> Condition:
        """The given rows, one per sample: `index [n]` of integers."""
        return Condition(self.embeds[index], {name: value[index] for name, value in self.added.items()})

    @staticmethod
    def joined(parts: Sequence[Condition]) -> Condition:
        """Several along the batch."""
        names = parts[0].added
        return Condition(
            torch.cat([part.embeds for part in parts]),
            {name: torch.cat([part.added[name] for part in parts]) for name in names},
        )


@dataclass(frozen=True)
class DenoiseFamily:
    """How a family is trained to denoise.

    Attributes:
        name: for messages.
        model: the component that predicts the noise.
        text_encoders: components that `encode` runs through. A token of a prompt is at the same place for all.
        cross_attention: what the paths of `model`'s layers end in that attend to the prompt's tokens.
        encode: `(pipe, prompts, resolution) -> Condition` with a row per prompt; differentiable.
        predict: `(pipe, noisy [b, c, h, w], timesteps [b], condition) -> [b, c, h, w]`.
    """

    name: str
    model: str
    text_encoders: tuple[str, ...]
    cross_attention: str
    encode: Callable[[Any, list[str], int], Condition]
    predict: Callable[[Any, Tensor, Tensor, Condition], Tensor]


def denoise_family(pipe: Any) -> DenoiseFamily:
    """The family of a pipeline.

    Raises:
        BaseError: a pipeline that has no training step here.
    """
    names = {name for name, component in pipe.components.items() if component is not None}
    for family in reversed(FAMILIES):  # SDXL has all that Stable Diffusion has, and more
        if {family.model, "vae", *family.text_encoders} <= names:
            _check_unet(pipe)
            return family
    raise BaseError(
        f"{type(pipe).__name__} cannot be trained here; training supports {', '.join(f.name for f in FAMILIES)}"
    )


def _check_unet(pipe: Any) -> None:
    takes, has = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if takes != has:
        raise BaseError(
            f"the UNet takes {takes} channels where the VAE has {has} (an inpainting or editing base?); "
            "training expects a text-to-image base"
        )
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise BaseError(
            f"the base's scheduler {type(pipe.scheduler).__name__} has no noise schedule of the DDPM kind; "
            f"training supports {', '.join(f.name for f in FAMILIES)}"
        )


def encode_pictures(pipe: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of pixels `[b, 3, H, W]` in [-1, 1], in the model's scale."""
    posterior = pipe.vae.encode(pixels).latent_dist
    factor, offset = _latent_scale(pipe)
    return (posterior.mean - offset) * factor, posterior.std * factor


def decode_latents(pipe: Any, latents: Tensor) -> list[Image.Image]:
    """RGB pictures of latents `[b, c, h, w]` in the model's scale."""
    factor, offset = _latent_scale(pipe)
    with torch.no_grad():
        pixels = pipe.vae.decode(latents / factor + offset, return_dict=False)[0]
    return [picture.convert("RGB") for picture in pipe.image_processor.postprocess(pixels)]


def _latent_scale(pipe: Any) -> tuple[float, float]:
    """Factor and offset of the model's latents: `(latents of the VAE - offset) * factor`."""
    config = pipe.vae.config
    return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0


def native_resolution(pipe: Any) -> int:
    """Pixels of the side of a picture that the base was made for."""
    return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)


def _encode_sd(pipe: Any, prompts: list[str], resolution: int) -> Condition:
    embeds, _ = pipe.encode_prompt(prompts, pipe.unet.device, 1, False)
    return Condition(embeds)


def _encode_sdxl(pipe: Any, prompts: list[str], resolution: int) -> Condition:
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, device=pipe.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    # Original size, crop corner and target size, as SDXL was told them in its own training.
    sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], dtype=embeds.dtype)
    return Condition(embeds, {"text_embeds": pooled, "time_ids": sizes.to(embeds.device).repeat(len(prompts), 1)})


def _predict_unet(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    added = dict(condition.added) or None
    prediction: Tensor = pipe.unet(noisy, timesteps, condition.embeds, added_cond_kwargs=added, return_dict=False)[0]
    return prediction


FAMILIES = (
    DenoiseFamily("Stable Diffusion", "unet", ("text_encoder",), "attn2", _encode_sd, _predict_unet),
    DenoiseFamily("SDXL", "unet", ("text_encoder", "text_encoder_2"), "attn2", _encode_sdxl, _predict_unet),
)
"""Later entries are tried first."""
