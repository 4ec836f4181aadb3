"""The call of a UNet, which Stable Diffusion and SDXL share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spectra.families.family import Condition


def predict_unet(pipe: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    """A UNet's prediction, see `Family.predict`."""
    added = dict(condition.added) or None
    prediction: Tensor = pipe.unet(
        noisy, timesteps, encoder_hidden_states=condition.embeds, added_cond_kwargs=added, return_dict=False
    )[0]
    return prediction


def unet_grid(pipe: Any) -> int:
    """Sides of a UNet's latents are halved this often, and must come out even."""
    return int(2 ** (len(pipe.unet.config.down_block_types) - 1))


def unet_size(pipe: Any, model: Any) -> int:
    """Places in a side of the latents that a UNet was made for."""
    return int(model.config.sample_size)
