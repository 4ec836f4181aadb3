"""What a shift does to one weight, as a matrix or as factors of low rank.

Delta W = U diag(d) V^T + sum_j a_j (x) right_j + (a word's vectors, each on the row of its token)
        = up [rows, m] down [m, columns],     m = directions with d other than zero + terms + tokens of the word
        = left diag(s) right,                 the singular value decomposition of the factors' product
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from spectra.convert.projection import AnySpectrum, delta_weight, singular_vectors
from spectra.io.dtypes import computing_dtype
from spectra.layers.change import Change
from spectra.layers.changed_weight import changed_weight
from spectra.progress import SILENT, Progress
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.cache.workers import for_each
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.shifted_weight import shifted_vector, singular_value_change
from spectra.spectrum.spectrum import matrix

T = TypeVar("T")
Visitor: TypeAlias = "Callable[[WeightShift, Tensor, AnySpectrum | None], T]"


@dataclass(frozen=True, eq=False)
class WeightShift:
    """What a shift holds of one weight.

    Attributes:
        name: of the weight.
        delta: float64 `[r]`.
        outer: its outer terms, if there are any.
        word: vectors of a special word, if the weight is a token embedding that has some.
    """

    name: str
    delta: Tensor
    outer: OuterTerms | None = None
    word: WordVectors | None = None

    @classmethod
    def of(cls, shift: SpectralShift, name: str) -> WeightShift:
        """That of the weight `name`, one of the shift's."""
        delta = torch.from_numpy(shift[name].astype("float64"))
        return cls(name, delta, shift.outer.get(name), shift.words.get(name))

    @property
    def directions(self) -> int:
        """How many leading directions it takes: up to the last that delta is not zero on."""
        used = self.delta.nonzero()
        return int(used[-1]) + 1 if len(used) else 0

    @property
    def is_diagonal(self) -> bool:
        """Whether `Delta W = U diag(d) V^T` is all of it."""
        return self.outer is None and self.word is None

    def singular_value_change(self, spectrum: AnySpectrum | None) -> Tensor:
        """`d`, float64 `[r]`: with a spectrum `ReLU(sigma + delta) - sigma`, of a 1-D weight delta itself.

        The spectrum may hold the leading directions alone that `directions` asks for, and be None for none of them.
        """
        if spectrum is None:
            return self.delta
        known = len(spectrum.sigma)
        d = singular_value_change(spectrum.sigma, self.delta[:known])
        return torch.cat([d, self.delta.new_zeros(len(self.delta) - known)])

    def change(self, weight: Tensor, spectrum: AnySpectrum | None) -> Tensor:
        """`Delta W`, float32 or float64: the weight's matrix, or `[n]` where it has one dimension."""
        if weight.ndim == 1:
            return self.delta
        if spectrum is None:
            found = torch.zeros(matrix(weight).shape)
        else:
            found = delta_weight(weight, spectrum, self.singular_value_change(spectrum)[: len(spectrum.sigma)])
        if self.outer is not None:
            found = found + torch.from_numpy(self.outer.change())
        if self.word is not None:
            found = found.to(torch.float64)
            found[list(self.word.ids)] += torch.from_numpy(self.word.vectors.astype("float64"))
        return found

    def applied(self, weight: Tensor, spectrum: AnySpectrum | None) -> Tensor:
        """The shifted weight as serving makes it, of the weight's shape, in float32 or wider."""
        wide = weight.to(computing_dtype(weight.dtype))
        delta = self.delta.to(torch.float32)
        if weight.ndim == 1:
            return shifted_vector(wide, delta)
        change = Change.of_parts(None if spectrum is None else delta[: len(spectrum.sigma)], self.outer, self.word)
        return changed_weight(wide, spectrum, change)

    def best_factors(
        self, weight: Tensor, spectrum: AnySpectrum | None, d: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Up `[rows, k]` and down `[k, columns]`, float64, of some of the directions of `Delta W`, equally long each.

        Args:
            d: `singular_value_change`; with outer terms or a word, the singular values of the `principal_factors`.
            kept: `[k]` of places in it.
        """
        if self.is_diagonal:
            if spectrum is None:
                raise ValueError(f"{self.name}: nothing of it changes along its directions")
            left, right = singular_vectors(weight, spectrum, kept)
        else:
            near, _, far = principal_factors(*self.factors(weight, spectrum))
            left, right = near.T[kept], far[kept]
        root = d[kept, None].abs().sqrt()
        return (left * d[kept, None].sign() * root).T, right * root

    def factors(self, weight: Tensor, spectrum: AnySpectrum | None) -> tuple[Tensor, Tensor]:
        """Up `[rows, m]` and down `[m, columns]`, float64, whose product is `Delta W`."""
        rows, columns = matrix(weight).shape
        ups, downs = [torch.zeros(rows, 0, dtype=torch.float64)], [torch.zeros(0, columns, dtype=torch.float64)]
        if spectrum is not None:
            d = self.singular_value_change(spectrum)
            used = d.nonzero()[:, 0]
            left, right = singular_vectors(weight, spectrum, used)
            ups.append(left.T * d[used])
            downs.append(right)
        if self.outer is not None:
            ups.append(torch.from_numpy(self.outer.a.astype("float64")).T)
            downs.append(torch.from_numpy(self.outer.right))
        if self.word is not None:
            ups.append(_unit_columns(rows, self.word.ids))
            downs.append(torch.from_numpy(self.word.vectors.astype("float64")))
        return torch.cat(ups, dim=1), torch.cat(downs)


def visit_parts(
    weights: Mapping[str, Tensor],
    parts: Mapping[str, WeightShift],
    use: Visitor[T],
    label: str,
    *,
    cache: SpectrumCache,
    progress: Progress = SILENT,
) -> dict[str, T]:
    """Results of `use(part, weight, spectrum)` for each part of a shift, by weight name, in threads.

    A few weights at a time are in memory, each with as much of its spectrum as its part takes (`spectrum_for`).
    """

    def one(name: str) -> T:
        part, weight = parts[name], weights[name]
        return use(part, weight, spectrum_for(name, weight, part.directions, cache))

    return for_each(parts, one, label, progress)


def spectrum_for(name: str, weight: Tensor, directions: int, cache: SpectrumCache) -> AnySpectrum | None:
    """What a change of the first `directions` of a weight takes: those with both sides, or beyond half of all the whole
    spectrum, which is found sooner; None for no direction or a 1-D weight.
    """
    if weight.ndim < 2 or not directions:
        return None
    if 2 * directions > min(matrix(weight).shape):
        return cache.spectrum(weight, name=name)
    return cache.leading({name: weight}, directions)[name]


def known_spectrum(digits: str, shape: tuple[int, ...], directions: int, cache: SpectrumCache) -> AnySpectrum | None:
    """What the cache knows of the first `directions` of a weight that is not at hand, by its fingerprint; or None."""
    found = cache.leading_vectors(digits, directions)
    if found is None:
        return cache.find(digits)
    left, sigma, right = (torch.from_numpy(each.copy()) for each in found)
    return PartialSpectrum(left, right, sigma, shape, math.nan, math.nan, fingerprint=digits)


def principal_factors(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of `up [rows, m] down [m, columns]`, of which no matrix is formed.

    Returns:
        left `[rows, n]`, s `[n]`, descending, zero below the noise of float64, and right `[n, columns]`.
    """
    if not up.shape[1]:
        return up, up.new_zeros(0), down
    near, near_triangle = torch.linalg.qr(up)
    far, far_triangle = torch.linalg.qr(down.T)
    u, s, vt = torch.linalg.svd(near_triangle @ far_triangle.T, full_matrices=False)
    noise = torch.finfo(s.dtype).eps * sum(up.shape) * float(near_triangle.norm() * far_triangle.norm())
    return near @ u, torch.where(s > noise, s, 0.0), vt @ far.T


def product_square(up: Tensor, down: Tensor) -> Tensor:
    """`||up down||^2`, of which no matrix is formed."""
    return ((up.T @ up) * (down @ down.T)).sum()


def _unit_columns(rows: int, ids: Sequence[int]) -> Tensor:
    """The unit vectors of some rows, as columns: float64 `[rows, n]`."""
    found = torch.zeros(rows, len(ids), dtype=torch.float64)
    found[list(ids), range(len(ids))] = 1
    return found
