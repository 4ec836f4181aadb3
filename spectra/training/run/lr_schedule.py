"""The learning rates over the steps: constant, or falling to zero along a cosine."""

from __future__ import annotations

import math
from typing import Any

from spectra.training.config import TrainConfig


def set_learning_rates(optimizer: Any, config: TrainConfig, step: int) -> None:
    """Set every group's learning rate for the step after `step` steps."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor(config, step)


def lr_factor(config: TrainConfig, step: int) -> float:
    """The factor of all learning rates in the step after `step` steps, from 1 to 0."""
    if config.lr_schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * step / config.steps))
