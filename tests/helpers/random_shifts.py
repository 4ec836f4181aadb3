"""Shifts with random deltas, of any names and lengths, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import Precision, SpectralShift
from spectra.shift.shift_file import read_shift, write_shift

LENGTHS = {
    "unet.conv_in": 4,
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q": 16,
    "unet.down_blocks.0.resnets.0.norm1": 8,
    "unet.up_blocks.1.attentions.0.proj_in": 33,
    "text_encoder.encoder.layers.0.mlp.fc1": 5,
}
NORM = "unet.down_blocks.0.resnets.0.norm1"


def make(seed: int, *names: str, size: float = 1.0, **described: Any) -> SpectralShift:
    """Normal deltas of deviation `size` for these names of `LENGTHS`, or for all."""
    chosen = names or tuple(LENGTHS)
    rng = np.random.default_rng(seed)
    told: dict[str, Any] = {
        "base": "tiny",
        "fingerprints": {name: f"{list(LENGTHS).index(name):08x}" for name in chosen},
        "ndims": {name: 1 if name == NORM else 2 for name in chosen},
    }
    deltas = {name: (size * rng.standard_normal(LENGTHS[name])).astype(np.float32) for name in sorted(chosen)}
    return SpectralShift(deltas, ShiftMetadata(**(told | described)))


def saved(shift: SpectralShift, path: Path, dtype: Precision = "float32") -> SpectralShift:
    """The shift as read from the file it was written to."""
    write_shift(shift, path, dtype=dtype)
    return read_shift(path)
