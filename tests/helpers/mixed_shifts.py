"""Shifts that mix few directions, outer terms and a word, of a small base, and what they change, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]

EMBEDDING = "text_encoder.embeddings.token_embedding"
SHAPES = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q": (12, 20),
    "unet.down_blocks.0.resnets.0.conv1": (8, 6, 3, 3),
    "unet.down_blocks.0.resnets.0.norm1": (6,),
    "unet.mid_block.attentions.0.proj_in": (10, 7, 1, 1),
    "unet.up_blocks.0.resnets.0.conv2": (5, 4, 3, 3),
    EMBEDDING: (30, 9),
}


def weights(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, npt.NDArray[np.float32]]:
    """Normal weights of these shapes."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def digits_of(base: Weights) -> dict[str, str]:
    """The fingerprints of the weights, as a shift keeps them."""
    import torch

    from spectra.spectrum.fingerprint import fingerprint

    return {name: fingerprint(torch.from_numpy(weight))[:8] for name, weight in base.items()}


def make(base: Weights, seed: int, *, directions: int = 3, size: float = 1.0, **told: Any) -> SpectralShift:
    """A random shift of all weights: some have a delta, some terms, some both; convolutions with a kernel or none.

    Args:
        base: the weights.
        seed: of the values, and of what each weight has.
        directions: that delta moves at most, here and there further than their singular value goes.
        size: deviation of delta.
        told: of the metadata, beside what the weights tell.
    """
    rng = np.random.default_rng(seed)
    deltas: dict[str, Any] = {}
    outer: dict[str, OuterTerms] = {}
    for name, weight in base.items():
        deltas[name] = np.zeros(weight.size if weight.ndim == 1 else min(len(weight), weight[0].size))
        if weight.ndim == 1 or rng.random() < 0.7:
            deltas[name][:directions] = size * rng.standard_normal(deltas[name].size)[:directions]
        if weight.ndim > 1 and rng.random() < 0.8:
            outer[name] = _terms(weight.shape, rng)
    vectors = rng.standard_normal((2, base[EMBEDDING].shape[1]))
    words = {EMBEDDING: WordVectors(tuple(rng.permutation(6)[:2].tolist()), vectors, "a word")}
    metadata = ShiftMetadata(
        **{"base": "small", "fingerprints": digits_of(base), "ndims": {n: w.ndim for n, w in base.items()}} | told
    )
    return SpectralShift(deltas, metadata, outer=outer, words=words)


def _terms(shape: tuple[int, ...], rng: np.random.Generator) -> OuterTerms:
    k, taps = int(rng.integers(1, 4)), int(np.prod(shape[2:]))
    if taps > 1 and rng.random() < 0.7:
        return OuterTerms(*(rng.standard_normal((k, n)) for n in (shape[0], shape[1], taps)))
    return OuterTerms(rng.standard_normal((k, shape[0])), rng.standard_normal((k, shape[1] * taps)))


def changes(base: Weights, shift: SpectralShift) -> dict[str, npt.NDArray[np.float64]]:
    """What the shift adds to each weight by its definition, with numpy's SVD: float64, in the weight's shape."""
    found = {}
    for name, delta in shift.items():
        weight, d = base[name].astype(np.float64), delta.astype(np.float64)
        if weight.ndim == 1:
            found[name] = d
            continue
        u, sigma, vt = np.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
        change = ((u * (np.maximum(sigma + d, 0) - sigma)) @ vt).reshape(weight.shape)
        terms = shift.outer.get(name)
        if terms is not None and terms.kernel is not None:
            sides = (terms.a, terms.b, terms.kernel)
            change += np.einsum("kn,km,kt->nmt", *map(np.float64, sides)).reshape(weight.shape)
        elif terms is not None:
            change += np.einsum("kn,km->nm", *map(np.float64, (terms.a, terms.b))).reshape(weight.shape)
        if name in shift.words:
            for token, vector in zip(shift.words[name].ids, shift.words[name].vectors, strict=True):
                change[token] += vector
        found[name] = change
    return found


@dataclass(frozen=True)
class NumpyCache:
    """Stands in for a spectrum cache: the spectra of a base by numpy, in float64.

    Attributes:
        base: the weights.
        sigmas, vectors: whether it knows singular values, and vectors.
    """

    base: Weights
    sigmas: bool = True
    vectors: bool = True

    def sigma(self, digits: str) -> Any:
        return self._svd(digits)[1] if self.sigmas else None

    def leading_vectors(self, digits: str, directions: int) -> Any:
        from spectra.spectrum.cache.leading_entry import LeadingVectors

        u, sigma, vt = self._svd(digits)
        return LeadingVectors(u[:, :directions], sigma[:directions], vt[:directions].T) if self.vectors else None

    def _svd(self, digits: str) -> Any:
        (name,) = (name for name, known in digits_of(self.base).items() if known == digits)
        return np.linalg.svd(self.base[name].astype(np.float64).reshape(len(self.base[name]), -1), full_matrices=False)
