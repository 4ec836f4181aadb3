"""Delta's gradient, `colsum((a Q - offset) * (b Q))`, in two stages: sums per share of the rows, then their sum.

No atomics: the shares and the order in which they are added depend on the shapes and the device alone.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["bucket"])
def column_sums(
    a,  # [S, P, C]
    b,  # [S, P, C]
    basis,  # [C, h]
    offset,  # [h] float32 or None
    partial,  # [shares, T] float32
    S,
    P,
    C,
    h,
    T,
    bucket,  # for the autotuner alone: the order of magnitude of S * P
    a_s,
    a_p,
    a_c,
    b_s,
    b_p,
    b_c,
    basis_c,
    basis_h,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """First stage. A program sums over every `shares`-th block of rows, for `BLOCK_H` directions."""
    share, shares = tl.program_id(1), tl.num_programs(1)
    columns = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    in_h = columns < h
    c = tl.arange(0, BLOCK_C)
    blocks = tl.cdiv(P, BLOCK_P)
    total = tl.zeros((BLOCK_H,), tl.float32)
    for block in range(share, S * blocks, shares):
        sample = tl.cast(block // blocks, tl.int64)
        p = tl.cast(block % blocks, tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
        in_p = p[:, None] < P
        ta = tl.zeros((BLOCK_P, BLOCK_H), tl.float32)
        tb = tl.zeros((BLOCK_P, BLOCK_H), tl.float32)
        for start in range(0, C, BLOCK_C):
            k = start + c
            inside = in_p & (k < C)[None, :]
            q = tl.load(
                basis + k[:, None] * basis_c + columns[None, :] * basis_h,
                mask=(k < C)[:, None] & in_h[None, :],
                other=0.0,
            )
            xa = tl.load(a + sample * a_s + p[:, None] * a_p + k[None, :] * a_c, mask=inside, other=0.0)
            ta = tl.dot(xa, q, ta, input_precision=PRECISION)
            xb = tl.load(b + sample * b_s + p[:, None] * b_p + k[None, :] * b_c, mask=inside, other=0.0)
            tb = tl.dot(xb, q, tb, input_precision=PRECISION)
        if offset is not None:
            ta -= tl.load(offset + columns, mask=in_h, other=0.0)[None, :]
        total += tl.sum(ta * tb, axis=0)  # rows outside have b = 0
    tl.store(partial + share * T + columns, total, mask=columns < T)


@triton.jit
def finish(
    partial,  # [S, blocks, T] float32
    index,  # [S] int64 or None
    sigma,  # [h] float32 or None
    values,  # [adapters, h] float32 or None
    over,  # [h] float32 or None
    out,  # [adapters, h] float32
    S,
    blocks,
    h,
    T,
    BLOCK: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Second stage: the sums of one adapter's samples, with what delta's gradient still needs.

    Where `sigma` is given, directions with sigma + values <= 0 have no gradient (ReLU); where `over` is, the sum is
    divided by it, and directions with over <= 0 have none (the guard of a rebuilt weight's small singular values).
    """
    adapter = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    in_h = columns < h
    total = tl.zeros((BLOCK_H,), tl.float32)
    for sample in range(0, S):
        mine = adapter == adapter
        if index is not None:
            mine = tl.load(index + sample) == adapter
        if mine:
            for start in range(0, blocks, BLOCK):
                row = start + tl.arange(0, BLOCK)
                tile = partial + (tl.cast(sample, tl.int64) * blocks + row)[:, None] * T + columns[None, :]
                total += tl.sum(tl.load(tile, mask=(row < blocks)[:, None] & (columns < T)[None, :], other=0.0), axis=0)
    if sigma is not None:
        s = tl.load(sigma + columns, mask=in_h, other=0.0)
        s += tl.load(values + adapter * h + columns, mask=in_h, other=0.0)
        total = tl.where(s > 0, total, 0.0)
    if over is not None:
        s = tl.load(over + columns, mask=in_h, other=0.0)
        total = tl.where(s > 0, total / tl.where(s > 0, s, 1.0), 0.0)
    tl.store(out + adapter * h + columns, total, mask=in_h)
