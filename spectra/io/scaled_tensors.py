"""Tensors that are stored divided by a scale, as ComfyUI writes fp8 weights: whose a scale is, and how it multiplies.

W = scale * stored        a scale is one number, one for each row, or one for each block of a grid [r, c]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from spectra.io.dtypes import FLOATS
from spectra.io.safetensors_header import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

_SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
"""What a module's scale is called: in ComfyUI's first files, in later ones, and in those of blocks."""

_UNUSED = ("scale_input", "input_scale")
"""Scales of a module's input, which only matter to a product that is computed in fp8."""

_MARK = "scaled_fp8"
"""An empty tensor that says that a model's weights have scales."""


class ScaleError(ValueError):
    """A tensor whose scale cannot be read. Callers say what that means."""


def attach_scales(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors by key, where those that have a scale hold it; scales and marks are left out.

    Raises:
        ScaleError: an integer weight that has a scale, or a scale that does not fit its weight.
    """
    found = dict(tensors)
    for key, tensor in tensors.items():
        module, _, part = key.rpartition(".")
        weight = tensors.get(f"{module}.weight")
        if part == _MARK:
            del found[key]
        elif part in _SCALES and weight is not None:
            if weight.dtype.startswith("float8"):
                found[weight.key] = weight._replace(scale=_checked(weight, tensor))
                del found[key]
            elif weight.dtype not in FLOATS:
                raise ScaleError(
                    f"{weight.key} is quantised to {weight.dtype}, and of quantised checkpoints only fp8 is read; give "
                    "the checkpoint's fp8, 16-bit or 32-bit file"
                )
        elif part in _UNUSED and weight is not None and weight.dtype.startswith("float8"):
            del found[key]
    return found


def _checked(weight: StoredTensor, scale: StoredTensor) -> StoredTensor:
    rows, columns = _matrix(weight.shape)
    down, across = _matrix(scale.shape)
    if scale.dtype not in FLOATS or not (down and across) or rows % down or columns % across:
        raise ScaleError(
            f"{scale.key} is {scale.dtype} {list(scale.shape)}; expected floats for {weight.key} {list(weight.shape)}: "
            "one, one for each row, or one for each block"
        )
    return scale


def multiply(values: Tensor, scale: Tensor) -> Tensor:
    """Values `[rows, ...]` times their scale, which is as many numbers for each row: float32."""
    import torch

    rows = values.shape[0] if values.ndim else 1
    blocks = values.to(torch.float32).reshape(rows, scale.shape[1], -1)
    return (blocks * scale[:, :, None]).reshape(values.shape)


def scale_of_rows(scale: Tensor, rows: int) -> Tensor:
    """A scale of any form for a tensor of so many rows, as float32 `[rows, c]`."""
    import torch

    grid = scale.to(torch.float32).reshape(*_matrix(tuple(scale.shape)))
    return grid.repeat_interleave(rows // grid.shape[0], dim=0)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of this shape as a matrix; 1 where it has none."""
    columns = 1
    for size in shape[1:]:
        columns *= size
    return (shape[0] if shape else 1), columns
