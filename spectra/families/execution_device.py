"""Where a model computes: that is not where its weights are while offloading keeps them in main memory."""

from __future__ import annotations

from typing import Any

import torch


def execution_device(model: Any) -> torch.device:
    """The device on which a model of a pipeline computes: its own, or that to which accelerate brings it for a call."""
    device = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    return model.device if device is None else torch.device(device)
