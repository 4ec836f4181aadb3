"""The learning rates over the steps: a warm-up, then constant or falling to zero, in a line or along a cosine."""

from __future__ import annotations

import math
from typing import Any

from spectra.training.config import TrainConfig


def set_learning_rates(optimizer: Any, config: TrainConfig, step: int) -> None:
    """Set every group's learning rate for the step after `step` steps."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor(config, step)


def lr_factor(config: TrainConfig, step: int) -> float:
    """The factor of all learning rates in the step after `step` steps, from 0 to 1."""
    warmup = config.lr_warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (config.steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[scheduler(config)]


def scheduler(config: TrainConfig) -> str:
    """The schedule that is followed; an optimizer that needs none follows none."""
    return "constant" if config.optimizer == "adamwschedulefree" else config.lr_scheduler
