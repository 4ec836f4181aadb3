"""A small UNet as a model of `spectra.benchmarks.steps.models`, which has real ones only."""

from __future__ import annotations

import small_models
import torch

from spectra.benchmarks.steps.models import Denoiser, Shape


def build(shape: Shape) -> Denoiser:
    """Random weights on the device in force; the resolution is ignored."""
    module, _ = small_models.unet()
    batch = shape.batch
    inputs = {
        "sample": torch.randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": torch.randn(batch, 5, 12),
    }
    return Denoiser(module, "unet", "sample", inputs)
