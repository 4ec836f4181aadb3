"""Launches the Triton kernels: shapes, strides and buffers in, tensors out. Imported when a kernel first runs.

Activations come as `[S, P, C]` with any strides: `S` samples (or layouts' batches) of `P` rows each.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from spectra.kernels import configurations, interpreter, triton_apply, triton_gradient
from spectra.kernels.configurations import Configuration
from spectra.kernels.devices import architecture
from spectra.kernels.layouts import by_columns, padded

if interpreter.interpreted():
    interpreter.correct()

_SHARES_PER_PROCESSOR = 2


def apply(
    x: Tensor,
    sides: tuple[Tensor, Tensor],
    values: Tensor,
    index: Tensor | None,
    *,
    out: Tensor,
    residual: Tensor | None = None,
    offset: Tensor | None = None,
    t: Tensor | None = None,
    sums: bool = False,
) -> Tensor | None:
    """Fills `out = [residual +] (u diag(v)) left^T` with `u = x right - offset`.

    Without `sums`, `t` (if given) is filled with `u`. With it, `t` is read, and the sums of `u * t` over blocks of rows
    are returned, `[S, blocks, T]`.
    """
    right, left = (by_columns(side) for side in sides)
    (samples, rows, channels), (columns, h) = x.shape, left.shape
    processors = _processors(x.device)

    def programs(c: Configuration) -> int:
        return samples * cdiv(rows, c.blocks["BLOCK_P"])

    chosen = configurations.choose(configurations.apply_table(h), _architecture(x), processors, programs)
    # Few rows leave multiprocessors idle: then several programs share the columns of a block of rows.
    spans = max(1, min(processors // programs(chosen), cdiv(columns, chosen.blocks["BLOCK_D"])))
    span = cdiv(cdiv(columns, spans), chosen.blocks["BLOCK_D"]) * chosen.blocks["BLOCK_D"]
    blocks, width = cdiv(rows, chosen.blocks["BLOCK_P"]), padded(h)
    partial = x.new_empty(samples, blocks, width, dtype=torch.float32) if sums else None
    h1, h2 = configurations.split(h)
    added = out if residual is None else residual
    with _on(x):
        triton_apply.apply[(blocks, samples, cdiv(columns, span))](
            x, right, left, residual, out, values.contiguous(), _packed(index), _packed(offset), t, partial,
            rows, channels, columns, h, width, len(values), span,
            *x.stride(), right.stride(1), left.stride(1), *added.stride(), *out.stride(),
            H1=h1, H2=h2, **_options(chosen),
        )  # fmt: skip
    return partial


def column_sums(a: Tensor, b: Tensor, basis: Tensor, offset: Tensor | None) -> Tensor:
    """`colsum((a Q - offset) * (b Q))` over shares of the rows: `[shares, h]`, float32."""
    basis = by_columns(basis)
    (samples, rows, channels), h = a.shape, basis.shape[1]
    processors = _processors(a.device)

    def shares(c: Configuration) -> int:
        return min(_SHARES_PER_PROCESSOR * processors, samples * cdiv(rows, c.blocks["BLOCK_P"]))

    def programs(c: Configuration) -> int:
        return shares(c) * cdiv(h, c.blocks["BLOCK_H"])

    chosen = configurations.choose("column_sums", _architecture(a), processors, programs)
    sums = a.new_empty(shares(chosen), h, dtype=torch.float32)
    with _on(a):
        triton_gradient.column_sums[(cdiv(h, chosen.blocks["BLOCK_H"]), len(sums))](
            a, b, basis, _packed(offset), sums,
            samples, rows, channels, h, *a.stride(), *b.stride(), basis.stride(1), **_options(chosen),
        )  # fmt: skip
    return sums


def cdiv(extent: int, size: int) -> int:
    """How many blocks of `size` cover an extent."""
    return -(-extent // size)


def _options(chosen: Configuration) -> dict[str, int]:
    return {**chosen.blocks, "num_warps": chosen.warps, "num_stages": chosen.stages}


def _packed(vector: Tensor | None) -> Tensor | None:
    """Vectors are short: where one has gaps it is copied, and the kernels take no stride for it."""
    return None if vector is None else vector.contiguous()


def _architecture(x: Tensor) -> str:
    found = architecture(x.device)
    if found is None:
        raise ValueError(f"no Triton kernel for {x.device}; expected a GPU from sm_80 or gfx9 on")
    return found


def _on(x: Tensor) -> Any:
    """Makes the tensor's GPU the current one, which is where Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of a device; a few for the interpreter, so that small inputs are shared too."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 4
