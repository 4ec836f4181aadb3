"""One matrix product with everything that a shift needs before and after it, where no fusion of two products fits.

    out = residual + (x diag(v)) B^T - offset

`x diag(v)` is formed tile by tile on chip. The same kernel encodes (`t = a Q - offset`), decodes (`a + (t * e) Q^T`)
and rebuilds (`P = Q diag(e) Q^T`, then `W + P W`). In the backward pass the column sums of `out * other` come along.
"""

import triton
import triton.language as tl


@triton.jit
def diagonal(values, sigma, multiplier, columns, h, FORM: tl.constexpr):
    """Entries `columns` of the diagonal, 0 from `h` on, in float32.

    FORM says what they are made of: "given" is `values` itself; with delta = multiplier * values, "shifted" is
    `ReLU(sigma + delta)` and "relative" is `(ReLU(sigma + delta) - sigma) / sigma`, without the cancellation.
    """
    inside = columns < h
    v = tl.load(values + columns, mask=inside, other=0.0).to(tl.float32)
    if FORM != "given":
        v *= multiplier
        s = tl.load(sigma + columns, mask=inside, other=1.0).to(tl.float32)
        v = tl.where(s + v > 0, v, -s) / s if FORM == "relative" else tl.where(inside, tl.maximum(s + v, 0.0), 0.0)
    return v


@triton.jit(do_not_specialize=["bucket"])
def matmul(
    x,  # [S, P, K]
    b,  # [b_rows <= D, h <= K]: beyond, it counts as 0, so that padded tensors can be read and written wide
    out,  # [S, P, D]
    residual,  # [S, P, D] or None
    values,  # [adapters, h] float32 or None: the diagonal on K
    sigma,  # [h] float32 or None
    multiplier,
    index,  # [S] int64 or None: the row of `values` that a sample takes
    offset,  # [b_rows] float32 or None
    other,  # [S, P, D] or None
    partial,  # [S, row blocks, D] float32 or None: column sums of out * other
    P,
    K,
    D,
    b_rows,
    h,
    bucket,  # for the autotuner alone: the order of magnitude of P
    x_s,
    x_p,
    x_k,
    b_d,
    b_k,
    out_s,
    out_p,
    out_d,
    residual_s,
    residual_p,
    residual_d,
    values_a,
    other_s,
    other_p,
    FORM: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A program makes one `[BLOCK_P, BLOCK_D]` tile of one sample. Neighbours share rows of x in the L2 cache."""
    column_blocks = tl.cdiv(D, BLOCK_D)
    row_block = tl.program_id(0) // column_blocks
    column_block = tl.program_id(0) % column_blocks
    sample = tl.program_id(1).to(tl.int64)
    p = row_block.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    d = column_block * BLOCK_D + tl.arange(0, BLOCK_D)
    k = tl.arange(0, BLOCK_K)
    in_p, in_d = p[:, None] < P, d[None, :] < D
    x_tile = x + sample * x_s + p[:, None] * x_p + k[None, :] * x_k
    b_tile = b + k[:, None] * b_k + d[None, :] * b_d
    if values is not None:
        adapter = tl.load(index + sample) if index is not None else sample * 0
        values += adapter * values_a

    product = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    for start in range(0, K, BLOCK_K):
        left = tl.load(x_tile, mask=in_p & (start + k[None, :] < K), other=0.0)
        right = tl.load(b_tile, mask=(start + k[:, None] < h) & (d[None, :] < b_rows), other=0.0)
        if values is not None:
            v = diagonal(values, sigma, multiplier, start + k, h, FORM)
            left = (left * v[None, :]).to(right.dtype)
        product = tl.dot(left, right, product, input_precision=PRECISION)
        x_tile += BLOCK_K * x_k
        b_tile += BLOCK_K * b_k

    if offset is not None:
        product -= tl.load(offset + d, mask=d < b_rows, other=0.0)[None, :]
    if residual is not None:
        tile = residual + sample * residual_s + p[:, None] * residual_p + d[None, :] * residual_d
        product += tl.load(tile, mask=in_p & in_d, other=0.0).to(tl.float32)
    tl.store(
        out + sample * out_s + p[:, None] * out_p + d[None, :] * out_d,
        product.to(out.dtype.element_ty),
        mask=in_p & in_d,
    )
    if partial is not None:
        with_other = tl.load(other + sample * other_s + p[:, None] * other_p + d[None, :], mask=in_p & in_d, other=0.0)
        sums = tl.sum(product * with_other.to(tl.float32), axis=0)
        row = sample * tl.cdiv(P, BLOCK_P) + row_block
        tl.store(partial + row * D + d, sums, mask=d < D)
