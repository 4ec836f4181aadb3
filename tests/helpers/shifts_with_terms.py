"""Shifts with outer terms and a word, and the weights that they change, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

SHAPES = {
    "text_encoder.embeddings": (40, 6),
    "unet.conv": (8, 3, 3, 3),
    "unet.linear": (7, 9),
    "unet.norm": (5,),
    "unet.plain": (12, 12),
}
EMBEDDING, CONV, LINEAR, NORM, PLAIN = SHAPES


def matrix_shape(name: str) -> tuple[int, int]:
    """Rows and columns of a weight of two or more dimensions."""
    shape = SHAPES[name]
    return shape[0], int(np.prod(shape[1:]))


def spectra(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """U, sigma and V^T of random weights, float64."""
    rng = np.random.default_rng(seed)
    matrices = {name: rng.standard_normal(matrix_shape(name)) for name in SHAPES if name != NORM}
    return {name: np.linalg.svd(matrix, full_matrices=False) for name, matrix in matrices.items()}


def shift_with_terms(seed: int = 0, *, kernel: bool = True, **described: Any) -> SpectralShift:
    """Deltas on 2 directions (all of the norm's), two terms on conv and linear, a word of two tokens."""
    rng = np.random.default_rng(seed)
    deltas: dict[str, np.ndarray] = {NORM: rng.standard_normal(5)}
    for name in SHAPES:
        if name != NORM:
            deltas[name] = np.zeros(min(matrix_shape(name)))
    deltas[PLAIN][:2], deltas[CONV][:2] = rng.standard_normal((2, 2))
    sides = (2, 8), (2, 3), (2, 9)
    terms = [rng.standard_normal(shape).astype(np.float32) for shape in sides]
    conv = OuterTerms(*terms) if kernel else OuterTerms(terms[0], rng.standard_normal((2, 27)).astype(np.float32))
    linear = OuterTerms(*(rng.standard_normal((2, n)).astype(np.float32) for n in SHAPES[LINEAR]))
    word = WordVectors((3, 39), rng.standard_normal((2, 6)).astype(np.float32), "owl")
    told: dict[str, Any] = {
        "base": "tiny",
        "fingerprints": {name: f"{i:08x}" for i, name in enumerate(SHAPES)},
        "ndims": {name: len(shape) for name, shape in SHAPES.items()},
    }
    metadata = ShiftMetadata(**(told | described))
    return SpectralShift(deltas, metadata, outer={CONV: conv, LINEAR: linear}, words={EMBEDDING: word})


def shift_with_mask() -> SpectralShift:
    """The same, with a delta whose few directions do not lead."""
    shift, sparse = shift_with_terms(), np.zeros(12)
    sparse[[3, 7, 11]] = 1
    return SpectralShift({**shift, PLAIN: sparse}, shift.metadata, outer=shift.outer, words=shift.words)


def change(shift: SpectralShift, name: str) -> np.ndarray:
    """What the shift adds to a weight's matrix where nothing is clipped, float64, straight from the formulas."""
    if name == NORM:
        return shift[name].astype(np.float64)
    left, _, right = spectra()[name]
    total = left * shift[name].astype(np.float64) @ right
    if name in shift.outer:
        terms = shift.outer[name]
        a, b = terms.a.astype(np.float64), terms.b.astype(np.float64)
        kernel = np.ones((terms.rank, 1)) if terms.kernel is None else terms.kernel.astype(np.float64)
        total = total + np.einsum("kn,km,kt->nmt", a, b, kernel).reshape(total.shape)
    if name in shift.words:
        np.add.at(total, list(shift.words[name].ids), shift.words[name].vectors.astype(np.float64))
    return total
