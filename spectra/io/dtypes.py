"""Names of dtypes. A dtype is named as torch names it, "float16"; a safetensors header has codes instead, "F16"."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
"""The floating-point dtypes of a safetensors file."""

NAME_OF_CODE = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}

CODE_OF_NAME = {name: code for code, name in NAME_OF_CODE.items()}

BYTES = {name: 8 if "64" in name else 4 if "32" in name else 2 if "16" in name else 1 for name in CODE_OF_NAME}
"""Size of one value in bytes, by the dtype's name."""


@functools.cache
def dtype_name(dtype: torch.dtype | np.dtype[Any]) -> str:
    """The name of a dtype of torch or numpy, such as "float16"."""
    return getattr(dtype, "name", str(dtype).removeprefix("torch."))


def computing_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype to compute in with floating-point tensors of these: float64 if one of them is, otherwise float32."""
    import torch

    return torch.float64 if torch.float64 in dtypes else torch.float32


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name such as "float16"."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype
