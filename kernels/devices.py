"""Which devices the Triton kernel serves, and what else of a device decides who computes; without importing Triton."""

from __future__ import annotations

import functools
import importlib.util

import torch

from spectra.kernels.interpreter import interpreted

INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = interpreted()  # when the process started: Triton itself reads it when a kernel is defined


def architecture(device: torch.device) -> str | None:
    """Whose entries of `configurations.KEPT` a device takes; None where no kernel runs.

    Triton needs tensor cores with bfloat16: NVIDIA's from sm_80 on, AMD's gfx9.
    """
    if device.type == "cuda":
        return _of_gpu(device)
    return "interpreter" if device.type == "cpu" and _INTERPRETED else None


def fast_float64(device: torch.device) -> bool:
    """Whether a GPU multiplies in float64 as fast as in float32: by its CUDA capability, or gfx9 (CDNA) on ROCm."""
    major, minor = _capability(device)
    return bool(major == 9 or (minor == 0 and 6 <= major <= 10))


@functools.cache
def _architecture_of_gpu(device: torch.device) -> str | None:
    if torch.version.hip:
        return "gfx942" if torch.cuda.get_device_properties(device).gcnArchName.startswith("gfx9") else None
    major, _ = torch.cuda.get_device_capability(device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80") if major >= 8 else None


def _of_gpu(device: torch.device) -> str | None:
    return _architecture_of_gpu(device)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


for _function in (_of_gpu, _capability):
    # torch.compile takes what they return for granted. `torch.compiler.assume_constant_result` sets this mark too, but
    # imports all of torch.compile, Triton and a second of time with it, in every process.
    vars(_function)["_dynamo_marked_constant"] = True
