"""Device, precision and accumulation of a training, by accelerate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from spectra.errors import InputError
from spectra.generation.drawing import best_device
from spectra.training.config import TrainConfig


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Within the block torch computes the same each time, or says which operation cannot."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def make_accelerator(config: TrainConfig, device: str = "") -> Any:
    """An accelerate `Accelerator` with a training's device, precision and accumulation.

    Raises:
        InputError: a precision that the device does not have.
    """
    import accelerate
    from accelerate.state import AcceleratorState, PartialState

    # Accelerate keeps the first training's precision for the whole process, and refuses another.
    AcceleratorState._reset_state()
    PartialState._reset_state()
    cpu = (device or best_device()) == "cpu"
    if cpu and config.mixed_precision == "fp16":
        raise InputError("mixed precision fp16 needs a GPU; on a CPU use bf16 or no")
    return accelerate.Accelerator(
        mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.accumulation, cpu=cpu
    )
