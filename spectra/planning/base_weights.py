"""Bytes of a base's weights in memory, in a precision or quantised."""

from __future__ import annotations

from torch import nn

from spectra.bases.quantisation import parse_quantisation
from spectra.errors import InputError
from spectra.io.dtypes import BYTES

_NF4_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4 bits, a float32 number."""


def weight_bytes(model: nn.Module, dtype: str, quantize: str = "") -> int:
    """Bytes of a model's parameters and buffers.

    Args:
        dtype: of what is floating point and not quantised.
        quantize: how its linear layers are kept. In `nf4` half a byte for each weight, and a float32 scale for each
            block of 64; in the others a byte for each, and a float32 scale for each row. A GGUF file's bytes are its
            own.

    Raises:
        InputError: there is no such file.
    """
    quantisation = parse_quantisation(quantize)
    if quantisation is not None and quantisation.file is not None:
        if not quantisation.file.is_file():
            raise InputError(f"--quantize {quantize}: no such file; expected a GGUF file with the base's denoiser")
        return quantisation.file.stat().st_size
    held = {id(value): value for value in [*model.parameters(), *model.buffers()]}
    total = 0
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} if quantize else set()
    for key, value in held.items():
        if key not in linear:
            total += value.numel() * (BYTES[dtype] if value.is_floating_point() else value.element_size())
        elif quantize == "nf4":
            total += -(-value.numel() // 2) + 4 * -(-value.numel() // _NF4_BLOCK)
        else:
            total += value.numel() + 4 * value.shape[0]
    return total
