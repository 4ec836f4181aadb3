"""Corrections to Triton's interpreter (3.7), which runs the kernels on the CPU where TRITON_INTERPRET=1.

It keeps bfloat16 as 16-bit integers. A product of two such blocks multiplies the integers, and float32 becomes
bfloat16 by truncation; a GPU multiplies the values and rounds to nearest even. Both are set right here, so that the
kernels themselves have no branch for the interpreter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def widened(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The float32 values of bfloat16 bit patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bit patterns of float32 values rounded to bfloat16, to nearest even."""
    exact = torch.from_numpy(np.ascontiguousarray(values))
    return exact.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16).reshape(values.shape)


def correct() -> None:
    """Replaces the two operations of the interpreter."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (TensorHandle(widened(x.data), tl.float32) for x in (a, b))
        return dot(self, a, b, d, input_precision, max_num_imprecise_acc)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        pair = (src.dtype.scalar, dst_type.scalar)
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(rounded(src.data), tl.bfloat16)
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(widened(src.data), tl.float32)
        return cast(self, src, dst_type)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl
