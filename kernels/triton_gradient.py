"""Delta's gradient, `colsum((a Q - offset) * (b Q))`: both products and the sum in one kernel, per share of the rows.

No atomics: the shares and the order in which they are added depend on the shapes and the device alone.
"""

import triton
import triton.language as tl

from spectra.kernels.triton_apply import tile


@triton.jit
def column_sums(
    a_ptr,  # [S, P, C]
    b_ptr,  # [S, P, C]
    basis_ptr,  # [C, h], its columns contiguous
    offset_ptr,  # [h] float32 or None
    sums_ptr,  # [shares, h] float32
    S,
    P,
    C,
    h,
    a_s,
    a_p,
    a_c,
    b_s,
    b_p,
    b_c,
    basis_h,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """A program sums over every `shares`-th block of rows, for `BLOCK_H` directions."""
    share, shares = tl.program_id(1), tl.num_programs(1)
    columns = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    in_h = columns < h
    blocks = tl.cdiv(P, BLOCK_P)
    total = tl.zeros((BLOCK_H,), tl.float32)
    for block in range(share, S * blocks, shares):
        sample = tl.cast(block // blocks, tl.int64)
        p = tl.cast(block % blocks, tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
        ta = tl.zeros((BLOCK_P, BLOCK_H), tl.float32)
        tb = tl.zeros((BLOCK_P, BLOCK_H), tl.float32)
        for start in range(0, C, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            q = tile(basis_ptr, c, columns, 1, basis_h, c < C, in_h)
            ta = tl.dot(tile(a_ptr + sample * a_s, p, c, a_p, a_c, p < P, c < C), q, ta)
            tb = tl.dot(tile(b_ptr + sample * b_s, p, c, b_p, b_c, p < P, c < C), q, tb)
        if offset_ptr is not None:
            ta -= tl.load(offset_ptr + columns, mask=in_h, other=0.0)[None, :]
        total += tl.sum(ta * tb, axis=0)  # rows outside have b = 0
    tl.store(sums_ptr + share * h + columns, total, mask=in_h)
