"""Fingerprints of live weights that were computed before, so that loading a second shift does not hash a model again.

A weight is known as long as the parameter, its memory, its version and a sample of its values are the same. What has
written other values has changed its version, or, through `.data`, its values: fusing a LoRA changes them all.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from spectra.adapters.live_weight import sample

_KNOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Stamp and digits by dtype of each weight."""


def recall(weight: Tensor) -> dict[str, str]:
    """The digits by dtype that are known of a weight: the mapping to add to when others are computed."""
    stamp = _stamp(weight)
    known = _KNOWN.get(weight)
    if known is None or known[0] != stamp:
        known = (stamp, {})
        _KNOWN[weight] = known
    found: dict[str, str] = known[1]
    return found


def note(weight: Tensor, digits: dict[str, str]) -> None:
    """Remember the digits of a weight that has its frozen values again."""
    _KNOWN[weight] = (_stamp(weight), digits)


def forget() -> None:
    """Know of no weight, as in a new process."""
    _KNOWN.clear()


def _stamp(weight: Tensor) -> tuple[Any, ...]:
    version = None if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.dtype, tuple(weight.shape), tuple(sample(weight).double().tolist())
