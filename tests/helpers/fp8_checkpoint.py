"""Checkpoints with fp8 weights, with and without scales, as ComfyUI and others write them."""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def scaled_fp8(
    state: State, prefix: str, scale: str = "scale_weight", form: str = "tensor", dtype: torch.dtype | None = None
) -> tuple[State, State]:
    """A state whose matrices under a prefix are fp8 with a scale, and the float32 values that it stands for.

    Args:
        scale: what the scales are called.
        form: one scale of a "tensor", of each "row", or of each "block" of half the rows and half the columns.
    """
    dtype = dtype or torch.float8_e4m3fn
    file, meant = dict(state), dict(state)
    for key, value in state.items():
        if not key.startswith(prefix) or not key.endswith(".weight") or value.ndim < 2:
            continue
        matrix = value.flatten(1).float()
        down, across = {"tensor": (1, 1), "row": (len(matrix), 1), "block": (2, 2)}[form]
        blocks = matrix.reshape(down, len(matrix) // down, across, -1)
        factor = blocks.abs().amax((1, 3), keepdim=True).clamp_min(1e-12) / torch.finfo(dtype).max
        stored = (blocks / factor).to(dtype)
        module = key.removesuffix(".weight")
        file[key] = stored.reshape(value.shape)
        file[f"{module}.{scale}"] = factor.reshape(()) if form == "tensor" else factor.reshape(down, across)
        file[f"{module}.{'scale_input' if scale == 'scale_weight' else 'input_scale'}"] = torch.tensor(1.0)
        meant[key] = (stored.float() * factor).reshape(value.shape)
    if scale == "scale_weight":
        file[f"{prefix}scaled_fp8"] = torch.zeros(0, dtype=dtype)
    return {key: value.contiguous() for key, value in file.items()}, meant
