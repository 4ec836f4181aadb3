"""Shifts with outer terms and a special word, and the dense matrices that they change their weights by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

Q, CONV, TOKENS, NORM = "unet.mid_block.attn2.to_q", "unet.up_blocks.1.conv1", "text_encoder.tokens", "unet.norm"
SHAPES = {Q: (7, 10, 0), CONV: (6, 5, 9), TOKENS: (40, 8, 0), NORM: (8, 0, 0)}
"""Rows, columns and taps; a norm has only rows."""

Dense = npt.NDArray[np.float64]


def terms(seed: int, name: str, rank: int = 1, *, plain: bool = False) -> OuterTerms:
    """Normal terms for a weight of `SHAPES`; without a kernel if `plain`."""
    rng = np.random.default_rng([seed, sum(name.encode())])
    rows, columns, taps = SHAPES[name]

    def drawn(size: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal((rank, size)).astype(np.float32)

    return OuterTerms(
        drawn(rows), drawn(columns * taps if plain and taps else columns), drawn(taps) if taps and not plain else None
    )


def make(
    seed: int, rank: int = 1, *, ids: tuple[int, ...] = (3, 5), text: str = "sks", **outer: OuterTerms
) -> SpectralShift:
    """A shift of all weights of `SHAPES`, with terms of this rank on matrices and a word on the embedding."""
    rng = np.random.default_rng(seed)
    deltas = {name: rng.standard_normal(_length(name)).astype(np.float32) for name in SHAPES}
    words = {TOKENS: WordVectors(ids, rng.standard_normal((len(ids), SHAPES[TOKENS][1])).astype(np.float32), text)}
    return with_parts(deltas, {Q: terms(seed, Q, rank), CONV: terms(seed, CONV, rank)}, words if ids else {})


def with_parts(
    deltas: dict[str, Any], outer: dict[str, OuterTerms], words: dict[str, WordVectors] | None = None
) -> SpectralShift:
    """A shift of these parts; deltas of zeros where only terms are given."""
    whole = {name: np.zeros(_length(name), np.float32) for name in (*outer, *(words or {}))} | deltas
    metadata = ShiftMetadata(
        base="tiny",
        fingerprints={name: f"{list(SHAPES).index(name):08x}" for name in whole},
        ndims={name: {NORM: 1, CONV: 4}.get(name, 2) for name in whole},
    )
    return SpectralShift(whole, metadata, outer=outer, words=words or {})


def change(shift: SpectralShift, name: str) -> Dense:
    """What terms change of a weight: `[n0, columns]`."""
    rows, columns, taps = SHAPES[name]
    return shift.outer[name].change() if name in shift.outer else np.zeros((rows, columns * max(taps, 1)))


def rows_added(shift: SpectralShift, name: str = TOKENS) -> Dense:
    """What words add to an embedding: `[n0, columns]`."""
    found = np.zeros(SHAPES[name][:2])
    if name in shift.words:
        found[list(shift.words[name].ids)] += shift.words[name].vectors
    return found


def _length(name: str) -> int:
    rows, columns, taps = SHAPES[name]
    return min(rows, columns * max(taps, 1)) if columns else rows
