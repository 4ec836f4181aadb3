"""What a training holds on an accelerator before its steps and beside them, where models take turns there.

    encoding  a text encoder, or the VAE, which encodes picture by picture
    drawing   a text encoder, the denoiser with all pictures drawn at once, or the VAE, which decodes them one by one

Of text encoders the weights are counted alone: what they hold beside them is left to what is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from spectra.bases.shapes import BaseModels, BaseShapes
from spectra.families.family import LatentSpace
from spectra.families.known import find_family_of_class
from spectra.planning.passing_memory import passing_bytes
from spectra.planning.request import PlanRequest
from spectra.planning.step_inputs import StepShape, step_inputs
from spectra.training.data.class_pictures import PICTURES_AT_ONCE
from spectra.training.data.latents import CHUNK
from spectra.training.run.memory import SMALL

_GUIDED_AT_ONCE = ("UNet2DConditionModel", "SD3Transformer2DModel", "ZImageTransformer2DModel")
"""Denoisers whose pipelines ask with and without the prompt in one call."""


class Phases:
    """The phases of trainings on one base.

    Args:
        models: of the base, on the meta device.
        denoiser: name of that component.

    Attributes:
        pixels: of a side of one place of the VAE's latents.
    """

    def __init__(self, shapes: BaseShapes, models: BaseModels, denoiser: str) -> None:
        self._shapes, self._models, self._denoiser = shapes, models, denoiser
        family = find_family_of_class(shapes.pipeline)
        self._latents = family.latents if family else LatentSpace()
        self._counted: dict[tuple[object, ...], int] = {}

    @property
    def pixels(self) -> int:
        """Pixels of a side of one place of the VAE's latents."""
        config: Any = self._models["vae"].config
        halvings = getattr(config, "temperal_downsample", None) or config.block_out_channels[1:]
        return int(2 ** len(halvings))

    def phases(
        self, request: PlanRequest, weights: Mapping[str, int], resolution: int, tokens: int
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes of encoding and of drawing by component; of drawing nothing where nothing is drawn.

        Args:
            weights: bytes of all components.
            tokens: of a prompt, as `StepShape` has them.
        """
        dtype, config = getattr(torch, request.dtype(self._shapes)), request.config
        encoders = {name: size for name, size in weights.items() if name not in (self._denoiser, "vae")}
        picture = 3 * resolution**2 * dtype.itemsize
        encoded = self._once("encode", dtype, resolution, self._encode) + CHUNK * picture
        encoding = {**encoders, "vae": weights["vae"] + encoded}
        if not (config.validation_count or (config.prior_weight > 0 and not config.class_images)):
            return encoding, {}
        at_once = config.batch if weights[self._denoiser] >= SMALL else PICTURES_AT_ONCE
        samples = at_once * (1 + (type(self._models[self._denoiser]).__name__ in _GUIDED_AT_ONCE))
        shape = StepShape(resolution // self.pixels, samples, tokens)
        drawn = self._once("draw", dtype, shape, self._draw)
        decoded = self._once("decode", dtype, resolution, self._decode) + (at_once - 1) * picture
        decoded = max(decoded, 2 * at_once * picture)  # one by one, then in one tensor
        drawing = {self._denoiser: weights[self._denoiser] + drawn, "vae": weights["vae"] + decoded}
        return encoding, {**encoders, **drawing}

    def _once(self, what: str, dtype: torch.dtype, size: Any, count: Callable[[torch.dtype, Any], int]) -> int:
        key = (what, dtype, size)
        if key not in self._counted:
            self._counted[key] = count(dtype, size)
        return self._counted[key]

    def _encode(self, dtype: torch.dtype, resolution: int) -> int:
        """What the VAE holds beside its weights while it encodes a picture."""
        vae = _cast(self._models["vae"], dtype)
        pixels = torch.empty(1, 3, resolution, resolution, dtype=dtype, device="meta")
        encode = self._latents.posterior
        return passing_bytes(vae, lambda pixels: encode(vae, pixels), {"pixels": pixels}, every_block=True)

    def _decode(self, dtype: torch.dtype, resolution: int) -> int:
        """What it holds while it decodes one."""
        vae: Any = _cast(self._models["vae"], dtype)
        patch, side = self._latents.patch, resolution // self.pixels
        channels = (getattr(vae.config, "latent_channels", None) or vae.config.z_dim) * patch**2
        latents = torch.empty(1, channels, side // patch, side // patch, dtype=dtype, device="meta")
        decode = self._latents.decoded
        return passing_bytes(vae, lambda latents: decode(vae, latents), {"latents": latents}, every_block=True)

    def _draw(self, dtype: torch.dtype, shape: StepShape) -> int:
        """What the denoiser holds beside its weights in one call."""
        denoiser = _cast(self._models[self._denoiser], dtype)
        return passing_bytes(denoiser, denoiser, step_inputs(denoiser, shape, dtype=dtype).arguments)


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return nn.Module.to(model, dtype)  # without diffusers' advice
