"""A base of a few plain tensors in one file, and shifts of it: what code on weights must work on, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from spectra.compatibility.base_check import delta_length
from spectra.shift.metadata import FINGERPRINT_DIGITS, ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.fingerprint import fingerprint

SHAPES = {
    "unet.to_q": (12, 12),
    "unet.to_k": (12, 20),
    "unet.ff": (30, 12),
    "unet.conv": (8, 8, 3, 3),
    "unet.conv_shortcut": (10, 6, 1, 1),
    "unet.down": (16, 4, 3, 3),
    "unet.norm": (12,),
}


def tensors(shapes: Mapping[str, tuple[int, ...]] = SHAPES, seed: int = 0) -> dict[str, Tensor]:
    """Normal weights of these shapes; vectors are about 1, as norms are."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (0.1 if len(shape) == 1 else 1) + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def write(folder: Path, weights: Mapping[str, Tensor]) -> str:
    """The base as `unet.safetensors`, and its path: a file in no known layout is one component, called like it."""
    path = folder / "unet.safetensors"
    save_file({f"{name.removeprefix('unet.')}.weight": weight.contiguous() for name, weight in weights.items()}, path)
    return str(path)


def random_shift(weights: Mapping[str, Tensor], size: float = 0.2, seed: int = 1) -> SpectralShift:
    """A shift of normal deltas of deviation `size`."""
    generator = torch.Generator().manual_seed(seed)
    return SpectralShift(
        {
            name: size * torch.randn(delta_length(weight.shape), generator=generator).numpy()
            for name, weight in weights.items()
        },
        ShiftMetadata("test", {name: fingerprint(weight)[:FINGERPRINT_DIGITS] for name, weight in weights.items()}),
    )


def mixed_shift(
    weights: Mapping[str, Tensor], directions: int = 3, terms: int = 2, words: Sequence[str] = (), seed: int = 1
) -> SpectralShift:
    """A shift of the leading directions, the first of them clipped, of outer terms, and of a word in some embeddings.

    The terms of every other convolution are separable.
    """
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return 0.2 * random.standard_normal(shape).astype(np.float32)

    deltas, outer = {}, {}
    for number, (name, weight) in enumerate(sorted(weights.items())):
        length, flat = delta_length(weight.shape), weight.reshape(len(weight), -1)
        deltas[name] = normal(length)
        if weight.ndim == 1:
            continue
        deltas[name][directions:] = 0
        deltas[name][: min(directions, 1)] = -2 * float(torch.linalg.matrix_norm(flat.double(), 2))
        if terms:
            taps = weight.shape[2:].numel() if number % 2 else 1
            kernel = normal(terms, taps) if taps > 1 else None
            outer[name] = OuterTerms(normal(terms, len(weight)), normal(terms, flat.shape[1] // taps), kernel)
    return SpectralShift(
        deltas,
        ShiftMetadata("test", {name: fingerprint(weight)[:FINGERPRINT_DIGITS] for name, weight in weights.items()}),
        outer=outer,
        words={name: WordVectors((3, 1), normal(2, weights[name].shape[1]), "sks") for name in words},
    )


def shifted(weights: Mapping[str, Tensor], shift: SpectralShift) -> dict[str, Tensor]:
    """The weights as the shift's definition gives them, float64: by the paper's formula, with numpy's SVD."""
    found = {}
    for name, weight in weights.items():
        w, delta = weight.double().numpy(), np.asarray(shift[name], dtype=np.float64)
        if w.ndim == 1:
            found[name] = torch.from_numpy(w + delta)
            continue
        u, sigma, vt = np.linalg.svd(w.reshape(len(w), -1), full_matrices=False)
        m = (u * np.maximum(sigma + delta, 0)) @ vt
        if terms := shift.outer.get(name):
            kernel = np.ones((terms.rank, 1)) if terms.kernel is None else terms.kernel
            m += np.einsum("kn,km,kt->nmt", terms.a, terms.b, kernel, dtype=np.float64).reshape(m.shape)
        if word := shift.words.get(name):
            m[list(word.ids)] += word.vectors
        found[name] = torch.from_numpy(m.reshape(w.shape))
    return found
