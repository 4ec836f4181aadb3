"""Spectra of a model's matrices for what is counted or measured; of weights without values their shapes alone.

A matrix without values has no singular values; how many directions its tail has is taken from trained ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.spectrum.partial import PartialSpectrum
    from spectra.spectrum.spectrum import Spectrum

TYPICAL_TAIL = ((1, 0.18), (2, 0.09))
"""Share of a weight's directions that its tail holds, up to so many columns per row (or rows per column); none beyond.
Measured on the embedded base's UNet: .18 of its 70 square weights, .09 of 24 up to twice as long, none of 44 others."""


def typical_tail(rows: int, columns: int) -> int:
    """Directions in the tail of a trained matrix of this size, by `TYPICAL_TAIL`."""
    r, m = min(rows, columns), max(rows, columns)
    return round(next((share for ratio, share in TYPICAL_TAIL if m <= ratio * r), 0.0) * r)


def placeholder(weight: Tensor, tail: float | None = None) -> Spectrum:
    """A spectrum for a `weight` without values (on the meta device, or fake): for counting flops and bytes.

    Args:
        tail: share of the directions that the tail holds, 0 to 1; `TYPICAL_TAIL` by default.
    """
    import torch

    from spectra.spectrum.spectrum import Spectrum, matrix

    rows, columns = matrix(weight).shape
    r, m = min(rows, columns), max(rows, columns)
    count = typical_tail(rows, columns) if tail is None else round(tail * r)
    return Spectrum(
        side="left" if rows <= columns else "right",
        basis=weight.new_empty(r, r, dtype=torch.float32),
        sigma=weight.new_empty(r, dtype=torch.float64),
        tail=weight.new_empty(count, m, dtype=torch.float32),
        shape=tuple(weight.shape),
    )


def leading_placeholder(weight: Tensor, directions: int) -> PartialSpectrum:
    """The first directions of a `weight` without values."""
    import torch

    from spectra.spectrum.partial import PartialSpectrum
    from spectra.spectrum.spectrum import matrix

    rows, columns = matrix(weight).shape
    count = min(directions, rows, columns)
    return PartialSpectrum(
        left=weight.new_empty(rows, count, dtype=torch.float32),
        right=weight.new_empty(columns, count, dtype=torch.float32),
        sigma=weight.new_empty(count, dtype=torch.float64),
        shape=tuple(weight.shape),
        residual=0.0,
        orthogonality=0.0,
    )


class Spectra:
    """Spectra of a model's weights, made when they are asked for and kept; without values where a weight has none."""

    def __init__(self) -> None:
        self._known: dict[str, Spectrum] = {}
        self._whole: dict[str, Spectrum] = {}
        self._leading: dict[str, PartialSpectrum] = {}

    def of(self, path: str, weight: Tensor) -> Spectrum:
        """The spectrum of the module's weight at `path`."""
        from spectra.spectrum.decomposition import decompose
        from spectra.spectrum.spectrum import has_no_values

        if path not in self._known:
            self._known[path] = placeholder(weight) if has_no_values(weight) else decompose(weight)
        return self._known[path]

    def whole(self, path: str, weight: Tensor) -> Spectrum:
        """The spectrum of the module's weight at `path`, with both sides of every direction."""
        from spectra.spectrum.shifted_weight import with_full_tail

        if path not in self._whole:
            self._whole[path] = with_full_tail(self.of(path, weight), weight)
        return self._whole[path]

    def leading(self, path: str, weight: Tensor, directions: int) -> PartialSpectrum:
        """The first directions of the module's weight at `path`."""
        from spectra.spectrum.leading import decompose_leading
        from spectra.spectrum.spectrum import has_no_values

        known = self._leading.get(path)
        if known is None or known.directions < min(directions, known.rank):
            make = leading_placeholder if has_no_values(weight) else decompose_leading
            known = self._leading[path] = make(weight, directions)
        return known.first(directions)
