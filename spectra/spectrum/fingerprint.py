"""Fingerprints of frozen weights: a hash of the bytes and of how they are read.

The same fingerprint addresses a spectrum in the cache and says in a shift file which base the shift belongs to.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from spectra.errors import WeightError
from spectra.io.dtypes import dtype_name

if TYPE_CHECKING:
    from torch import Tensor

RESHAPE = "first-dim"
"""The rule by which a weight becomes a matrix: the first dimension as it is, the others flattened."""


def fingerprint(weight: Tensor, *, name: str = "weight") -> str:
    """SHA-256 (64 hex digits) over the reshape rule, the dtype, the shape and the bytes of a weight.

    The bytes are those of the contiguous, row-major tensor, so a module's weight has the fingerprint of the same
    tensor in its safetensors file, whatever its device, memory format or `requires_grad`. A copy in another dtype has
    another one: its singular vectors differ. Hashing releases the interpreter's lock, so threads share the work.

    Args:
        weight: any dense tensor with values; 1-D weights have a fingerprint too.
        name: how errors call it.

    Raises:
        WeightError: the weight is on the meta device, or is sparse or quantised and has no plain bytes.
    """
    import torch

    if weight.device.type == "meta":
        raise WeightError(f"{name}: the weight is on the meta device and has no values; load the base first")
    if weight.layout != torch.strided or weight.is_quantized:
        raise WeightError(f"{name}: expected a dense, unquantised weight, got {weight.layout}, {weight.dtype}")
    how_to_read = [RESHAPE, dtype_name(weight.dtype), list(weight.shape)]
    digest = hashlib.sha256(json.dumps(how_to_read, separators=(",", ":")).encode() + b"\n")
    plain = weight.detach().to("cpu").contiguous().reshape(-1)
    if plain.numel():
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
