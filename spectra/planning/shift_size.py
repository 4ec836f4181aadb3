"""The file of a shift before it is trained: written to memory with ones in place of its values, and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spectra.adapters.live_parameters import to_shift_parts
from spectra.bases.embedded import NAME
from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ROUNDED_DIGITS, ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import encode_shift
from spectra.version import versions

if TYPE_CHECKING:
    from spectra.adapters.training_adapter import Adapter
    from spectra.training.config import TrainConfig

_WORD = "[V1]"


def shift_file_bytes(adapter: Adapter, config: TrainConfig) -> int:
    """Bytes of the file that a training writes of what an adapter has, in the precision that the settings say."""
    ones = {key: torch.ones(parameter.shape) for key, parameter in adapter.by_key.items()}
    bindings = adapter._bindings
    deltas, outer, words = to_shift_parts(bindings, ones, adapter._forms, _WORD)
    metadata = ShiftMetadata(
        base=config.base or NAME,
        fingerprints=dict.fromkeys(deltas, "0" * FINGERPRINT_DIGITS),
        rounded={dtype: dict.fromkeys(deltas, "0" * ROUNDED_DIGITS) for dtype in ROUNDED},
        ndims={name: bindings[name].target.weight.ndim for name in deltas},
        subset=adapter.subset,
        settings=config.as_dict(),
        seed=config.seed,
        versions=versions(),
    )
    shift = SpectralShift(deltas, metadata, outer=outer, words=words)
    return len(encode_shift(shift, "float16" if config.file_dtype == "float16" else "float32"))
