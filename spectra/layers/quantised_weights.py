"""Frozen weights that a quantising package holds: which they are, and what they stand for.

bitsandbytes (nf4, fp4, int8), torchao's tensors, diffusers' GGUF parameters and plain tensors of float8. A layer keeps
its own product with such a weight, and its bytes are never changed. No package is imported here: each weight is known
by its class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spectra.errors import WeightError

_BYTES_OF_GGUF = "GGUFParameter"
_BITSANDBYTES_4, _BITSANDBYTES_8 = "Params4bit", "Int8Params"


def quantised_kind(weight: Tensor) -> str:
    """How a weight is quantised, such as "nf4", "int8", "float8" or "Q4_0"; empty for a plain one of 16 bits or more.

    Raises:
        WeightError: it is quantised in a way that is not known here.
    """
    name = _class(weight)
    if name == _BITSANDBYTES_4:
        return str(weight.quant_type)  # type: ignore[attr-defined]
    if name == _BITSANDBYTES_8:
        return "int8"
    if name == _BYTES_OF_GGUF:
        return str(weight.quant_type.name)  # type: ignore[attr-defined]
    if name.startswith("torchao."):
        return name.rpartition(".")[2].removesuffix("Tensor").lower()
    if type(weight.data) is Tensor and weight.dtype.is_floating_point:
        return "" if weight.dtype.itemsize > 1 else "float8"
    raise WeightError(
        f"expected a plain floating-point weight, or one quantised by bitsandbytes, torchao or GGUF, got "
        f"{type(weight.data).__name__} of {weight.dtype}; load the base unquantised"
    )


def is_quantised(weight: Tensor) -> bool:
    """Whether `weight` is quantised in one of the ways that are known here."""
    try:
        return bool(quantised_kind(weight))
    except WeightError:
        return False


def weight_shape(weight: Tensor) -> torch.Size:
    """The shape of the weight that the stored one stands for."""
    name = _class(weight)
    if name == _BITSANDBYTES_4:
        state = weight.quant_state  # type: ignore[attr-defined]
        return torch.Size(weight.shape if state is None else state.shape)
    return torch.Size(weight.quant_shape) if name == _BYTES_OF_GGUF else weight.shape  # type: ignore[attr-defined]


def dequantised(module: nn.Module) -> Tensor:
    """The weight that a module's quantised one stands for, `[rows, columns]` in float32."""
    weight: Any = module.weight
    name = _class(weight)
    if name == _BITSANDBYTES_4:
        from bitsandbytes.functional import dequantize_4bit

        found = dequantize_4bit(weight.data, weight.quant_state)
    elif name == _BITSANDBYTES_8:
        # The first forward moves the scales from the weight to the module.
        state: Any = module.state
        scales: Tensor = weight.SCB if weight.SCB is not None else state.SCB
        found = weight.data.to(torch.float32) * (scales.to(torch.float32) / 127).unsqueeze(1)
    elif name == _BYTES_OF_GGUF:
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        found = dequantize_gguf_tensor(weight)
    else:
        found = weight.dequantize() if name.startswith("torchao.") else weight
    plain: Tensor = found.detach().to(torch.float32)
    return plain.as_subclass(Tensor)


def stored_parts(weight: Tensor) -> list[Tensor]:
    """The plain tensors that a weight, or an entry of a `state_dict`, is stored as: itself, or values and scales."""
    data: Any = weight.detach()
    if hasattr(data, "__tensor_flatten__"):
        return [part for name in data.__tensor_flatten__()[0] for part in stored_parts(getattr(data, name))]
    return [data.as_subclass(Tensor)]


def _class(weight: Tensor) -> str:
    """The name of a weight's class, with its module where that is torchao's."""
    kinds = type(weight), type(weight.data)
    for kind in kinds:
        if kind.__name__ in (_BITSANDBYTES_4, _BITSANDBYTES_8, _BYTES_OF_GGUF):
            return kind.__name__
        if kind.__module__.split(".")[0] == "torchao":
            return f"torchao.{kind.__name__}"
    return ""
