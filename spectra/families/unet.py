"""The call of a UNet, which Stable Diffusion and SDXL share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spectra.families.family import Condition, classifier_free


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


ZERO_SNR_RESCALE = 0.7
"""How far the spread of a guided answer is brought back to the prompt's own, where the noisiest step is noise alone:
guidance makes such pictures too bright and too dark (Lin et al., arXiv:2305.08891, section 3.4)."""


def guided_unet(pipe: Any, guidance: float, negatives: Sequence[str]) -> dict[str, Any]:
    """A UNet pipeline's arguments for guidance; errors as `classifier_free`."""
    arguments = classifier_free(pipe, guidance, negatives)
    if guidance > 1 and pipe.scheduler.config.get("rescale_betas_zero_snr"):
        arguments["guidance_rescale"] = ZERO_SNR_RESCALE
    return arguments
