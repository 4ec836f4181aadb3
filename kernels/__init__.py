"""The arithmetic of shifts on tensors: one function per formula, dispatched to a backend in one place.

`reference` is plain PyTorch and always there. A Triton backend registers itself in `dispatch` and takes over for the
devices it serves; nothing outside this package knows which one ran.
"""

from spectra.kernels.dispatch import factored_apply, rebuild, shift_gradient
from spectra.kernels.reference import GRAM_ROWS

__all__ = ["GRAM_ROWS", "factored_apply", "rebuild", "shift_gradient"]
