"""The arithmetic of shifts on tensors: one function per formula, dispatched to a backend in one place.

`reference` is plain PyTorch and always there; Triton takes over on the devices it serves. Nothing outside this package
knows which one ran.
"""

from spectra.kernels.dispatch import (
    batched_apply,
    factored_apply,
    rebuild,
    rebuild_from_delta,
    shift_gradient,
    two_sided_apply,
    uses_triton,
)
from spectra.kernels.reference import GRAM_ROWS, over_channels

__all__ = [
    "GRAM_ROWS",
    "batched_apply",
    "factored_apply",
    "over_channels",
    "rebuild",
    "rebuild_from_delta",
    "shift_gradient",
    "two_sided_apply",
    "uses_triton",
]
