"""Which devices the Triton kernels serve, without importing Triton."""

from __future__ import annotations

import functools
import importlib.util

import torch

from spectra.kernels.interpreter import interpreted

INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = interpreted()  # when the process started: Triton itself reads it when a kernel is defined


def architecture(device: torch.device) -> str | None:
    """Whose entries of `configurations.KEPT` a device takes; None where no kernel runs.

    Triton needs tensor cores with bfloat16: NVIDIA from sm_80 on, AMD's gfx9.
    """
    if device.type == "cuda":
        return _of_gpu(device)
    return "interpreter" if device.type == "cpu" and _INTERPRETED else None


@functools.cache
def _of_gpu(device: torch.device) -> str | None:
    if torch.version.hip:
        return "gfx942" if torch.cuda.get_device_properties(device).gcnArchName.startswith("gfx9") else None
    major, _ = torch.cuda.get_device_capability(device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80") if major >= 8 else None
