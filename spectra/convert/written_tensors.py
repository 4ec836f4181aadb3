"""What the files that are written from a shift have in common: dtype, metadata, and tensors rounded to the dtype."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from spectra.errors import FormatError
from spectra.io.dtypes import torch_dtype
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import write_rows
from spectra.shift.metadata import ShiftMetadata
from spectra.version import __version__

StoredDtype = Literal["float32", "float16", "bfloat16"]


def file_metadata(metadata: ShiftMetadata) -> dict[str, str]:
    """What a file made of a shift says of that shift, for people."""
    facts = {
        "made_by": f"spectra {__version__}",
        "spectra_base": metadata.base,
        "spectra_shift": metadata.content_hash,
    }
    return {"format": "pt"} | {key: value for key, value in facts.items() if value}


def write_rounded(stored: StoredTensor, exact: Tensor, name: str) -> Tensor:
    """Write a tensor rounded to the dtype of its file; returns the rounded one, in the dtype of `exact`.

    Args:
        name: how errors call it.

    Raises:
        FormatError: a value that the file's dtype cannot hold.
    """
    rounded = exact.to(torch_dtype(stored.dtype))
    if not torch.isfinite(rounded).all():
        raise FormatError(f"{name}: its values do not fit into {stored.dtype}; write float32")
    write_rows(stored, rounded.reshape(stored.shape))
    return rounded.to(exact)
