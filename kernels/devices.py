"""Which devices the Triton kernel serves, and what else of a device decides who computes; without importing Triton."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
"""Whether Triton was asked, when the process started, to run kernels on the CPU: it reads this as it defines them."""


_CDNA = ("gfx90a", "gfx940", "gfx941", "gfx942", "gfx950")
"""AMD's GPUs with matrix cores for bfloat16 and fast float64: MI200 and later."""


def architecture(device: torch.device) -> str | None:
    """The architecture of `configurations.CONFIGURATIONS` that serves a device; None where no kernel runs.

    Triton needs tensor cores with bfloat16: NVIDIA's from sm_80 on, AMD's from MI200 on.
    """
    if device.type == "cuda":
        return _constant_gpu_traits(device)[0]
    return "interpreter" if device.type == "cpu" and INTERPRETED else None


def fast_float64(device: torch.device) -> bool:
    """Whether a GPU multiplies in float64 as fast as in float32: by its CUDA capability, or as one of `_CDNA`."""
    return _constant_gpu_traits(device)[1]


@functools.cache
def _gpu_traits(device: torch.device) -> tuple[str | None, bool]:
    """Architecture and speed in float64 of a GPU."""
    if torch.version.hip:
        data_centre = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0] in _CDNA
        return ("gfx942" if data_centre else None), data_centre
    major, minor = torch.cuda.get_device_capability(device)
    known = {9: "sm_90", 10: "sm_100"}.get(major, "sm_80") if major >= 8 else None
    return known, minor == 0 and 6 <= major <= 10


def _constant_gpu_traits(device: torch.device) -> tuple[str | None, bool]:
    return _gpu_traits(device)


# torch.compile shall take the answer as a constant. `torch.compiler.assume_constant_result` sets the same mark, but
# imports Triton with the compiler.
vars(_constant_gpu_traits)["_dynamo_marked_constant"] = True
