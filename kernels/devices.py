"""Which devices the Triton kernel serves, and what else of a device decides who computes; without importing Triton."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
"""Whether Triton was asked, when the process started, to run kernels on the CPU: it reads this as it defines them."""


def architecture(device: torch.device) -> str | None:
    """The architecture of `configurations.CONFIGURATIONS` that serves a device; None where no kernel runs.

    Triton needs tensor cores with bfloat16: NVIDIA's from sm_80 on, AMD's gfx9.
    """
    if device.type == "cuda":
        return _constant_gpu_traits(device)[0]
    return "interpreter" if device.type == "cpu" and INTERPRETED else None


def fast_float64(device: torch.device) -> bool:
    """Whether a GPU multiplies in float64 as fast as in float32: by its CUDA capability, or gfx9 (CDNA) on ROCm."""
    return _constant_gpu_traits(device)[1]


@functools.cache
def _gpu_traits(device: torch.device) -> tuple[str | None, bool]:
    """Architecture and speed in float64 of a GPU."""
    major, minor = torch.cuda.get_device_capability(device)
    fast = major == 9 or (minor == 0 and 6 <= major <= 10)
    if torch.version.hip:
        return ("gfx942" if major == 9 else None), fast
    return ({9: "sm_90", 10: "sm_100"}.get(major, "sm_80") if major >= 8 else None), fast


def _constant_gpu_traits(device: torch.device) -> tuple[str | None, bool]:
    return _gpu_traits(device)


# torch.compile shall take the answer as a constant. `torch.compiler.assume_constant_result` sets the same mark, but
# imports Triton with the compiler.
vars(_constant_gpu_traits)["_dynamo_marked_constant"] = True
