"""The arithmetic of shifts on tensors: one function per formula, dispatched to a backend in one place.

`reference` is plain PyTorch and always there; Triton takes over on the devices it serves. Nothing outside this package
knows which one ran.
"""

from spectra.kernels.dispatch import factored_apply, low_rank_apply, uses_triton
from spectra.kernels.reference import (
    broadcast_channels,
    channel_products,
    map_channels,
    prefers_gram,
    product_dtype,
    rebuild,
    scale_channels,
    shift_gradient,
    singular_gradient,
    uses_gram,
    weight_gradient,
)

__all__ = [
    "broadcast_channels",
    "channel_products",
    "factored_apply",
    "low_rank_apply",
    "map_channels",
    "prefers_gram",
    "product_dtype",
    "rebuild",
    "scale_channels",
    "shift_gradient",
    "singular_gradient",
    "uses_gram",
    "uses_triton",
    "weight_gradient",
]
