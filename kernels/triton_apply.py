"""Both products of a shift's term in one kernel; the narrow middle stays on chip.

    t = a R - offset        out = [a +] (t diag(v)) L^T

With R = L = Q and v = e this is the factored apply; with R = V, L = U and v = ReLU(sigma + delta) the two-sided one;
on the gradient, with R and L exchanged, it is the backward pass of either, and the column sums of `(g R) * t` come
along. The width of the middle is split into two powers of two, `H1 + H2 >= h`: 320 is 256 + 64, not 512.
"""

import triton
import triton.language as tl

from spectra.kernels.triton_matmul import diagonal


@triton.jit
def _encoded(product, offset, columns, h):
    if offset is not None:
        product -= tl.load(offset + columns, mask=columns < h, other=0.0)[None, :]
    return product


@triton.jit
def _exchange(product, t, partial, rows, in_p, columns, T, KEEP: tl.constexpr):
    """Stores the middle (forward), or loads the forward's and stores the column sums of their product (backward)."""
    if t is not None:
        tile = t + rows[:, None] * T + columns[None, :]
        inside = in_p & (columns < T)[None, :]
        if KEEP:
            tl.store(tile, product.to(t.dtype.element_ty), mask=inside)
        else:
            kept = tl.load(tile, mask=inside, other=0.0).to(tl.float32)
            tl.store(partial + columns, tl.sum(product * kept, axis=0), mask=columns < T)


@triton.jit(do_not_specialize=["bucket"])
def apply(
    a,  # [S, P, C]
    right,  # [C, h]
    left,  # [D, h]
    out,  # [S, P, D]
    values,  # [adapters, h] float32
    sigma,  # [h] float32 or None
    index,  # [S] int64 or None: the row of `values` that a sample takes
    offset,  # [h] float32 or None
    t,  # [S, P, T] contiguous or None; T is h rounded up to a multiple of 16, so that its rows load wide
    partial,  # [S, row blocks, T] float32 or None
    P,
    C,
    D,
    h,
    T,
    bucket,  # for the autotuner alone: the order of magnitude of P
    a_s,
    a_p,
    a_c,
    right_c,
    right_h,
    left_d,
    left_h,
    out_s,
    out_p,
    out_d,
    values_a,
    RESIDUAL: tl.constexpr,
    KEEP: tl.constexpr,
    FORM: tl.constexpr,
    PRECISION: tl.constexpr,
    H1: tl.constexpr,
    H2: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program maps `BLOCK_P` rows of one sample."""
    block = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    p = block.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    in_p = p[:, None] < P
    h1, h2 = tl.arange(0, H1), H1 + tl.arange(0, H2 if H2 > 0 else 16)
    a += sample * a_s
    adapter = tl.load(index + sample) if index is not None else sample * 0
    values += adapter * values_a

    c = tl.arange(0, BLOCK_C)
    t1 = tl.zeros((BLOCK_P, H1), tl.float32)
    t2 = tl.zeros((BLOCK_P, H2 if H2 > 0 else 16), tl.float32)
    for start in range(0, C, BLOCK_C):
        in_c = start + c < C
        x = tl.load(a + p[:, None] * a_p + (start + c)[None, :] * a_c, mask=in_p & in_c[None, :], other=0.0)
        tile = right + (start + c)[:, None] * right_c
        r1 = tl.load(tile + h1[None, :] * right_h, mask=in_c[:, None] & (h1 < h)[None, :], other=0.0)
        t1 = tl.dot(x, r1, t1, input_precision=PRECISION)
        if H2 > 0:
            r2 = tl.load(tile + h2[None, :] * right_h, mask=in_c[:, None] & (h2 < h)[None, :], other=0.0)
            t2 = tl.dot(x, r2, t2, input_precision=PRECISION)

    t1 = _encoded(t1, offset, h1, h)
    row = sample * P + p
    if partial is not None:
        partial += (sample * tl.cdiv(P, BLOCK_P) + block) * T
    _exchange(t1, t, partial, row, in_p, h1, T, KEEP)
    s1 = (t1 * diagonal(values, sigma, 1.0, h1, h, FORM)[None, :]).to(left.dtype.element_ty)
    if H2 > 0:
        t2 = _encoded(t2, offset, h2, h)
        _exchange(t2, t, partial, row, in_p, h2, T, KEEP)
        s2 = (t2 * diagonal(values, sigma, 1.0, h2, h, FORM)[None, :]).to(left.dtype.element_ty)

    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        in_d = d < D
        tile = left + d[None, :] * left_d
        l1 = tl.load(tile + h1[:, None] * left_h, mask=(h1 < h)[:, None] & in_d[None, :], other=0.0)
        y = tl.dot(s1, l1, input_precision=PRECISION)
        if H2 > 0:
            l2 = tl.load(tile + h2[:, None] * left_h, mask=(h2 < h)[:, None] & in_d[None, :], other=0.0)
            y = tl.dot(s2, l2, y, input_precision=PRECISION)
        inside = in_p & in_d[None, :]
        if RESIDUAL:
            y += tl.load(a + p[:, None] * a_p + d[None, :] * a_c, mask=inside, other=0.0).to(tl.float32)
        target = out + sample * out_s + p[:, None] * out_p + d[None, :] * out_d
        tl.store(target, y.to(out.dtype.element_ty), mask=inside)
