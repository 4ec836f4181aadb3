"""Launches the Triton kernel: shapes, strides and buffers in, tensors out. Imported when it first runs.

Activations come as `[S, P, C]` with any strides: `S` samples (or layouts' batches) of `P` rows each.
"""

from __future__ import annotations

import contextlib
import functools

import torch
from torch import Tensor

from spectra.kernels import configurations, interpreter, triton_apply
from spectra.kernels.configurations import Configuration
from spectra.kernels.devices import architecture
from spectra.kernels.layouts import by_columns, padded

if interpreter.interpreted():
    interpreter.correct()


def apply(
    x: Tensor,
    sides: tuple[Tensor, Tensor],
    diagonals: tuple[Tensor, Tensor | None],
    *,
    out: Tensor,
    residual: Tensor | None = None,
    offset: Tensor | None = None,
    t: Tensor | None = None,
    sums: bool = False,
) -> Tensor | None:
    """Fills `out = [residual +] (u diag(v)) left^T` with `u = x right - offset`.

    `sides` are `right` and `left`; `diagonals` the rows `v [A, h]` and each sample's row (the first, if None).
    Without `sums`, `t` (if given) is filled with `u`. With it, `t` is read, and the sums of `u * t` over blocks of rows
    are returned, `[S, blocks, T]`.
    """
    right, left = (by_columns(side) for side in sides)
    values, index = diagonals
    (samples, rows, channels), (columns, h) = x.shape, left.shape
    processors = _processors(x.device)

    def blocks(c: Configuration) -> int:
        return samples * _cdiv(rows, c.p)

    chosen = configurations.choose(h, _architecture(x.device), processors, blocks)
    # Few rows leave multiprocessors idle: then several programs share the columns of a block of rows.
    steps = _cdiv(columns, chosen.d)
    span = chosen.d * _cdiv(steps, max(1, min(processors // blocks(chosen), steps)))
    row_blocks, width = _cdiv(rows, chosen.p), padded(h)
    partial = x.new_empty(samples, row_blocks, width, dtype=torch.float32) if sums else None
    h1, h2 = configurations.split(h)
    added = out if residual is None else residual
    # Triton launches on the current GPU.
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        triton_apply.apply[(row_blocks, samples, _cdiv(columns, span))](
            x, right, left, residual, out, values.contiguous(), _packed(index), _packed(offset), t, partial,
            rows, channels, columns, h, width, len(values), span,
            *x.stride(), right.stride(1), left.stride(1), *added.stride(), *out.stride(),
            H1=h1, H2=h2, **chosen.options(),
        )  # fmt: skip
    return partial


def _cdiv(extent: int, size: int) -> int:
    return -(-extent // size)


def _packed(vector: Tensor | None) -> Tensor | None:
    """Vectors are short: where one has gaps it is copied, and the kernels take no stride for it."""
    return None if vector is None else vector.contiguous()


def _architecture(device: torch.device) -> str:
    found = architecture(device)
    if found is None:
        raise ValueError(f"no Triton kernel for {device}; expected a GPU from sm_80 or gfx9 on")
    return found


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of a device; a few for the interpreter, so that small inputs are shared too."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 4
