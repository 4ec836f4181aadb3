"""Device, precision and accumulation of a training, by accelerate."""

from __future__ import annotations

from typing import Any

import torch

from spectra.errors import InputError
from spectra.training.config import TrainConfig


def make_accelerator(config: TrainConfig, device: str = "") -> Any:
    """An accelerate `Accelerator` for a training: its device, precision and accumulation.

    Raises:
        InputError: a precision that the device does not have, or more than one process.
    """
    import accelerate
    from accelerate.state import AcceleratorState, PartialState

    # Accelerate keeps the first training's precision for the whole process, and refuses another.
    AcceleratorState._reset_state()
    PartialState._reset_state()
    cpu = device == "cpu" or not (device or torch.cuda.is_available() or torch.backends.mps.is_available())
    if cpu and config.mixed_precision == "fp16":
        raise InputError("mixed precision fp16 needs a GPU; on a CPU use bf16 or no")
    accelerator = accelerate.Accelerator(
        mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.accumulation, cpu=cpu
    )
    if accelerator.num_processes > 1:
        raise InputError(f"spectra trains in one process, got {accelerator.num_processes}; start it without a launcher")
    return accelerator
