"""Launches the Triton kernels: shapes, strides and buffers in, tensors out. Imported when a kernel first runs.

Activations come as `[S, P, C]` with any strides: `S` samples (or layouts' batches) of `P` rows each.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any, Literal

import torch
import triton
from torch import Tensor

from spectra.kernels import configurations, interpreter, triton_apply, triton_gradient, triton_matmul
from spectra.kernels.configurations import Configuration, Width
from spectra.kernels.layouts import padded

if interpreter.interpreted():
    interpreter.correct()

Form = Literal["given", "relative", "shifted"]

_KEYS = {
    "apply": (triton_apply.apply, ["bucket", "C", "D", "h", "a_c"]),
    "matmul": (triton_matmul.matmul, ["bucket", "K", "D", "x_k", "b_k"]),
    "column_sums": (triton_gradient.column_sums, ["bucket", "C", "h", "a_c"]),
}
"""Each kernel, and the arguments that a choice of configuration depends on (dtypes are added by Triton)."""

_SHARES_PER_PROCESSOR = 2


def apply(
    a: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    sigma: Tensor | None,
    index: Tensor | None,
    offset: Tensor | None,
    out: Tensor,
    t: Tensor | None,
    partial: bool,
    residual: bool,
) -> Tensor | None:
    """Fills `out = [a +] (u diag(v)) left^T` with `u = a right - offset`.

    Without `partial`, `t` (if given) is filled with `u`; with it, `t` is read, and the sums of `u * t` over blocks of
    rows are returned, `[S, blocks, T]`.
    """
    values, sigma, index, offset = values.contiguous(), _packed(sigma), _packed(index), _packed(offset)
    samples, rows, channels = a.shape
    h, width = right.shape[1], _width(a)
    size = configurations.middle(h, width)
    if size is None:
        middle = a.new_empty(samples, rows, padded(h)) if t is None or partial else t
        sums = _matmul(a, right.T, middle, offset=offset, other=t if partial else None)
        _matmul(
            middle,
            left,
            out,
            residual=a if residual else None,
            values=values,
            sigma=sigma,
            index=index,
            values_a=values.stride(0),
            form=_form(sigma),
        )
        return sums
    kernel = _tuned("apply", f"apply-{size}", width, a.device)
    h1, h2 = configurations.split(h)
    sums = _sums_buffer(a, kernel, padded(h)) if partial else None
    with _on(a):
        kernel[lambda meta: (triton.cdiv(rows, meta["BLOCK_P"]), samples)](
            a, right, left, out, values, sigma, index, offset, t, sums,
            rows, channels, left.shape[0], h, padded(h), _bucket(rows * samples),
            *a.stride(), *right.stride(), *left.stride(), *out.stride(), values.stride(0),
            RESIDUAL=residual, KEEP=t is not None and not partial, FORM=_form(sigma), PRECISION=_precision(a),
            H1=h1, H2=h2,
        )  # fmt: skip
    return _filled(sums, kernel, rows)


def _matmul(
    x: Tensor,
    b: Tensor,
    out: Tensor,
    *,
    residual: Tensor | None = None,
    values: Tensor | None = None,
    sigma: Tensor | None = None,
    multiplier: float = 1.0,
    index: Tensor | None = None,
    values_a: int = 0,
    offset: Tensor | None = None,
    other: Tensor | None = None,
    form: Form = "given",
) -> Tensor | None:
    """Fills `out [S, P, D] = residual + (x diag(v)) b^T - offset`; the sums of `out * other` over blocks of rows."""
    samples, rows, depth = x.shape
    columns = out.shape[2]
    kernel = _tuned("matmul", "matmul", _width(x), x.device)
    sums = _sums_buffer(x, kernel, columns) if other is not None else None
    same = out if residual is None else residual
    pair = (0, 0) if other is None else other.stride()[:2]
    with _on(x):
        kernel[lambda meta: (triton.cdiv(rows, meta["BLOCK_P"]) * triton.cdiv(columns, meta["BLOCK_D"]), samples)](
            x, b, out, residual, values, sigma, multiplier, index, offset, other, sums,
            rows, depth, columns, b.shape[0], b.shape[1], _bucket(rows * samples),
            *x.stride(), *b.stride(), *out.stride(), *same.stride(), values_a, *pair,
            FORM=form, PRECISION=_precision(x),
        )  # fmt: skip
    return _filled(sums, kernel, rows)


def rebuild(
    weight: Tensor, basis: Tensor, values: Tensor, sigma: Tensor | None, multiplier: float, left: bool
) -> Tensor:
    """`W + P W` (left) or `W + W P`, with the symmetric `P = Q diag(e) Q^T` in the dtype of `weight`."""
    values, sigma = values.contiguous(), _packed(sigma)
    r = basis.shape[0]
    projector = weight.new_empty(1, r, r)
    form: Form = "given" if sigma is None else "relative"
    _matmul(basis[None], basis, projector, values=values, sigma=sigma, multiplier=multiplier, form=form)
    out = torch.empty_like(weight)
    w, target = (weight.T, out.T) if left else (weight, out)
    _matmul(w[None], projector[0], target[None], residual=w[None])
    return out


def column_sums(a: Tensor, b: Tensor, basis: Tensor, offset: Tensor | None) -> Tensor:
    """`colsum((a Q - offset) * (b Q))` over shares of the rows: `[1, shares, T]`, float32."""
    samples, rows, channels = a.shape
    h = basis.shape[1]
    shares = max(1, min(_shares(a.device), samples * math.ceil(rows / 64)))
    sums = a.new_empty(1, shares, padded(h), dtype=torch.float32)
    kernel = _tuned("column_sums", "column_sums", _width(a), a.device)
    with _on(a):
        kernel[lambda meta: (triton.cdiv(h, meta["BLOCK_H"]), shares)](
            a, b, basis, _packed(offset), sums,
            samples, rows, channels, h, padded(h), _bucket(rows * samples),
            *a.stride(), *b.stride(), *basis.stride(), PRECISION=_precision(a),
        )  # fmt: skip
    return sums


def finish(
    sums: Tensor,
    h: int,
    adapters: int,
    index: Tensor | None = None,
    sigma: Tensor | None = None,
    values: Tensor | None = None,
    over: Tensor | None = None,
) -> Tensor:
    """Sums `[S, blocks, T]` to `[adapters, h]`, each adapter over its own samples; see `triton_gradient.finish`."""
    samples, blocks, width = sums.shape
    blocks_of = configurations.FINISH.blocks
    out = sums.new_empty(adapters, h)
    with _on(sums):
        triton_gradient.finish[(triton.cdiv(h, blocks_of["BLOCK_H"]), adapters)](
            sums, _packed(index), _packed(sigma), _packed(values), _packed(over), out, samples, blocks, h, width,
            **blocks_of, num_warps=configurations.FINISH.warps,
        )  # fmt: skip
    return out


def _packed(vector: Tensor | None) -> Tensor | None:
    """Vectors are short: where one has gaps it is copied, and the kernels take no stride for it."""
    return None if vector is None else vector.contiguous()


def _sums_buffer(a: Tensor, kernel: Any, columns: int) -> Tensor:
    """Room for a row of sums per block of rows, whichever configuration the autotuner takes."""
    least = min(config.kwargs["BLOCK_P"] for config in kernel.configs)
    return a.new_empty(a.shape[0], triton.cdiv(a.shape[1], least), columns, dtype=torch.float32)


def _filled(sums: Tensor | None, kernel: Any, rows: int) -> Tensor | None:
    """The part of the buffer that the configuration just used has filled."""
    if sums is None:
        return None
    blocks = triton.cdiv(rows, kernel.best_config.kwargs["BLOCK_P"])
    samples, _, columns = sums.shape
    return sums.view(-1)[: samples * blocks * columns].view(samples, blocks, columns)


@functools.cache
def _tuned(name: str, table: str, width: Width, device: torch.device) -> Any:
    """The kernel with its configurations; Triton remembers on disk which one was fastest for a shape."""
    kernel, keys = _KEYS[name]
    if interpreter.interpreted():
        kept: tuple[Configuration, ...] = (configurations.INTERPRETED[name],)
    else:
        kept = configurations.KEPT[table, width, _architecture(device)]
    choices = [triton.Config(dict(c.blocks), num_warps=c.warps, num_stages=c.stages) for c in kept]
    return triton.autotune(choices, key=keys, cache_results=True)(kernel)


def _architecture(device: torch.device) -> str:
    """Whose configurations a device takes."""
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


def _on(x: Tensor) -> Any:
    """Makes the tensor's GPU the current one, which is where Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@functools.cache
def _shares(device: torch.device) -> int:
    """How many programs share the rows: the same on every run on a device, so that sums come out the same."""
    if device.type != "cuda":
        return 4
    return _SHARES_PER_PROCESSOR * int(torch.cuda.get_device_properties(device).multi_processor_count)


def _width(x: Tensor) -> Width:
    return "single" if x.dtype == torch.float32 else "half"


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"  # 16-bit products ignore it


def _form(sigma: Tensor | None) -> Form:
    return "given" if sigma is None else "shifted"


def _bucket(rows: int) -> int:
    return max(rows, 1).bit_length()
