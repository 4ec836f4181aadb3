"""The Triton kernel, and its launch: both products of a shift's term; the bottleneck between them stays on chip.

    t = x R - offset        out = [residual +] (t diag(v)) L^T

With R = L = Q, v = e and x as residual this is the factored plan; with R = V_K, L = U_K, v = d and the frozen layer's
output as residual it is a term of few directions; on the gradient, with R and L exchanged, it is the backward pass of
either, and the column sums of `(g L) * t` come along.

Imported when it first runs. Activations come as `[S, P, C]` with any strides: `S` samples of `P` rows each.
"""

from __future__ import annotations

import contextlib
import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectra.kernels import configurations, devices, interpreter

if devices.INTERPRETED:
    interpreter.correct()


@triton.jit
def _tile(ptr, rows, columns, row_stride, column_stride, in_rows, in_columns):
    """`[rows, columns]` of a matrix, 0 outside."""
    at = ptr + rows[:, None] * row_stride + columns[None, :] * column_stride
    return tl.load(at, mask=in_rows[:, None] & in_columns[None, :], other=0.0)


@triton.jit
def _bottleneck(product, v_ptr, known, offset_ptr, t_ptr, sums_ptr, rows, in_rows, leads, columns, h, T):
    """Takes the offset off a part of `x R`, stores it or meets the forward's, and scales it by the diagonal."""
    in_h = columns < h
    if offset_ptr is not None:
        product -= tl.load(offset_ptr + columns, mask=in_h, other=0.0)[None, :]
    if t_ptr is not None:
        at = t_ptr + rows[:, None] * T + columns[None, :]
        inside = (in_rows & leads)[:, None] & (columns < T)[None, :]
        if sums_ptr is None:
            tl.store(at, product.to(t_ptr.dtype.element_ty), mask=inside)
        else:
            forward = tl.load(at, mask=inside, other=0.0).to(tl.float32)
            tl.store(sums_ptr + columns, tl.sum(product * forward, axis=0), mask=(columns < T) & leads)
    v = tl.load(v_ptr + columns, mask=in_h, other=0.0)
    if known is not None:
        v = tl.where(known, v, float("nan"))
    return product * v[None, :]


@triton.jit(do_not_specialize=["adapters"])
def low_rank_apply(
    x_ptr,  # [S, P, C]
    right_ptr,  # [C, h], its columns contiguous
    left_ptr,  # [D, h], its columns contiguous
    residual_ptr,  # [S, P, D] or None
    out_ptr,  # [S, P, D]
    values_ptr,  # [adapters, h] float32
    index_ptr,  # [S] int64 or None: the row of `values` that a sample takes; out of range makes the sample NaN
    offset_ptr,  # [h] float32 or None
    t_ptr,  # [S, P, T] or None: stored, or read where `sums` are asked for
    sums_ptr,  # [S, row blocks, T] float32 or None
    P,
    C,
    D,
    h,
    T,  # a multiple of 16, at least h: rows of t load wide
    adapters,
    span,  # columns of the output that one program makes, a multiple of BLOCK_D
    x_s,
    x_p,
    x_c,
    right_h,
    left_h,
    residual_s,
    residual_p,
    residual_d,
    out_s,
    out_p,
    out_d,
    H1: tl.constexpr,  # two powers of two, H1 + H2 >= h: 320 is 256 + 64, not 512
    H2: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program maps `BLOCK_P` rows of one sample to `span` columns; each span makes the bottleneck again."""
    dtype: tl.constexpr = left_ptr.dtype.element_ty
    block = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    first = tl.program_id(2) * span
    p = block.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    in_p = p < P
    h1 = tl.arange(0, H1)
    h2 = H1 + tl.arange(0, H2 if H2 > 0 else 16)
    x_ptr += sample * x_s
    known = None
    if index_ptr is not None:
        adapter = tl.load(index_ptr + sample)
        known = (adapter >= 0) & (adapter < adapters)
        values_ptr += tl.where(known, adapter, 0) * h

    t1 = tl.zeros((BLOCK_P, H1), tl.float32)
    t2 = tl.zeros((BLOCK_P, H2 if H2 > 0 else 16), tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        x = _tile(x_ptr, p, c, x_p, x_c, in_p, c < C)
        t1 = tl.dot(x, _tile(right_ptr, c, h1, 1, right_h, c < C, h1 < h), t1)
        if H2 > 0:
            t2 = tl.dot(x, _tile(right_ptr, c, h2, 1, right_h, c < C, h2 < h), t2)

    if sums_ptr is not None:
        sums_ptr += (sample * tl.cdiv(P, BLOCK_P) + block) * T
    row = sample * P + p
    leads = first == 0
    s1 = _bottleneck(t1, values_ptr, known, offset_ptr, t_ptr, sums_ptr, row, in_p, leads, h1, h, T).to(dtype)
    if H2 > 0:
        s2 = _bottleneck(t2, values_ptr, known, offset_ptr, t_ptr, sums_ptr, row, in_p, leads, h2, h, T).to(dtype)

    for start in range(first, tl.minimum(first + span, D), BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        y = tl.dot(s1, _tile(left_ptr, h1, d, left_h, 1, h1 < h, d < D))
        if H2 > 0:
            y = tl.dot(s2, _tile(left_ptr, h2, d, left_h, 1, h2 < h, d < D), y)
        if residual_ptr is not None:
            base = residual_ptr + sample * residual_s
            y += _tile(base, p, d, residual_p, residual_d, in_p, d < D).to(tl.float32)
        at = out_ptr + sample * out_s + p[:, None] * out_p + d[None, :] * out_d
        tl.store(at, y.to(dtype), mask=in_p[:, None] & (d < D)[None, :])


def launch(
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
    right, left = (_by_columns(side) for side in sides)
    values, index = diagonals
    (samples, rows, channels), (columns, h) = x.shape, left.shape
    architecture, processors = devices.architecture(x.device), _processors(x.device)
    if architecture is None:
        raise ValueError(f"no Triton kernel for {x.device}; expected a GPU from sm_80 or MI200 on")
    chosen = configurations.choose(h, architecture, processors, lambda c: samples * triton.cdiv(rows, c.p))
    row_blocks, width = triton.cdiv(rows, chosen.p), 0 if t is None else t.shape[2]
    # Few rows leave multiprocessors idle: then several programs share the columns of a block of rows.
    steps = triton.cdiv(columns, chosen.d)
    span = chosen.d * triton.cdiv(steps, max(1, min(processors // (samples * row_blocks), steps)))
    partial = x.new_empty(samples, row_blocks, width, dtype=torch.float32) if sums else None
    h1, h2 = configurations.split(h)
    added = out if residual is None else residual
    # Triton launches on the current GPU.
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        low_rank_apply[(row_blocks, samples, triton.cdiv(columns, span))](
            x, right, left, residual, out, values.contiguous(), _packed(index), _packed(offset), t, partial,
            rows, channels, columns, h, width, len(values), span,
            *x.stride(), right.stride(1), left.stride(1), *added.stride(), *out.stride(),
            H1=h1, H2=h2, **chosen.options(),
        )  # fmt: skip
    return partial


def _packed(vector: Tensor | None) -> Tensor | None:
    """Vectors are short: where one has gaps it is copied, and the kernels take no stride for it."""
    return None if vector is None else vector.contiguous()


def _by_columns(matrix: Tensor) -> Tensor:
    """`matrix` with contiguous columns, which are loaded 16 bytes at a time; a copy where it has others."""
    return matrix if matrix.stride(0) == 1 else matrix.T.contiguous().T


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of a device; a few for the interpreter, so that small inputs are shared too."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 4
