"""Computes the leading directions of a weight by block Lanczos, and verifies them in float64 (docs/algebra.md, 3).

Products are taken in float32. The values and both sides' vectors come from a Rayleigh-Ritz step on what was found, and
what is stored is held against the weight itself in float64.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from spectra.errors import InputError
from spectra.spectrum.decomposition import canonical_signs, check_weight, decompose, peak_exponent
from spectra.spectrum.lanczos import BLOCK, leading_left_vectors
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.spectrum import Spectrum, matrix, other_side

TOLERANCE = 1e-5
"""The root of the sum of all directions' squared residuals, over the largest sigma, up to which they count as found."""

_EACH = 1e-6
"""The residual of each, over the largest sigma, at which the search ends; rounding to float32 leaves 1e-7 to 1e-6."""

SHARE = 8
"""A weight of fewer than this many times the wanted directions is decomposed in full: that is as quick."""

_SMALLEST = 1e-2
"""Of the largest sigma, the least that a product in float32 finds well."""

_EQUAL = 1e-4
"""Singular values this near to each other, relative to themselves, count as one that several directions share."""

_SAFE_EXPONENT = 30
"""Squares of values below 2**30 and above 2**-30, and their sums, are ordinary float32 numbers."""

_PROBES, _PANEL = 4, 512
"""Random combinations that are held against the weight, and columns of what is worked on at once."""


def decompose_leading(
    weight: Tensor, directions: int, *, start: PartialSpectrum | None = None, name: str = "weight"
) -> PartialSpectrum:
    """The largest singular values of a weight with both sides' vectors, on the weight's own device.

    The same ones, in the same order and with the same signs, as the first of `decompose`. Where they cannot be found
    to `TOLERANCE` alone, or that would take as long, they are cut from the full decomposition.

    Args:
        weight: as for `decompose`.
        directions: K; all if the weight has fewer.
        start: fewer directions of the same weight, from which to go on.
        name: how errors call it.

    Raises:
        WeightError: the weight has no spectrum, as for `decompose`.
        InputError: `directions` is negative, or `start` belongs to a weight of another shape.
    """
    check_weight(weight, name)
    if directions < 0:
        raise InputError(f"{name}: expected 0 or more directions, got {directions}")
    if start is not None and start.shape != tuple(weight.shape):
        raise InputError(f"{name}: expected a start of shape {tuple(weight.shape)}, got {start.shape}")
    # Apple's GPU has no float64: the work is done on the CPU there.
    weight = weight.detach().to("cpu") if weight.device.type == "mps" else weight.detach()
    exponent = _exponent(weight, name)
    rank = min(matrix(weight).shape)
    if 0 < directions <= rank // SHARE:
        found = _found(weight, directions, start, exponent)
        if found is not None:
            return found
    return cut(decompose(weight, name=name), weight, directions)


def cut(spectrum: Spectrum, weight: Tensor, directions: int) -> PartialSpectrum:
    """The first directions of a full spectrum, with both sides, verified; all if there are fewer."""
    k = min(directions, spectrum.rank)
    exponent = _exponent(weight)
    small = spectrum.basis[:, :k].T.contiguous().T
    other = other_side(weight, spectrum, torch.arange(k)).to(torch.float32).T
    left, right = (small, other) if spectrum.side == "left" else (other, small)
    made = PartialSpectrum(left, right, spectrum.sigma[:k].clone(), tuple(weight.shape), 0.0, 0.0, from_full=True)
    return _verified(made, weight, exponent)


def _found(weight: Tensor, directions: int, start: PartialSpectrum | None, exponent: int) -> PartialSpectrum | None:
    """The leading directions by block Lanczos; None where they are not found."""
    w = matrix(weight)
    on_left = w.shape[0] <= w.shape[1]
    a = _scaled(w if on_left else w.T, exponent, torch.float32)
    known = None
    if start is not None and start.directions:
        known = (start.left if on_left else start.right).T.to(a)
    basis = leading_left_vectors(a, directions, _EACH, known)
    if basis is None:
        return None
    # Rayleigh-Ritz: the small side's vectors and sigma within the span, and the other side's from the weight.
    q, _ = torch.linalg.qr(basis.T.to(torch.float64))
    through = (q.T.to(torch.float32) @ a).to(torch.float64)
    values, rotation = torch.linalg.eigh(through @ through.T)
    sigma = values.flip(0).clamp_min(0).sqrt()
    if not float(sigma[-1]) > _SMALLEST * float(sigma[0]):
        return None
    if bool((sigma[BLOCK - 1 :] >= (1 - _EQUAL) * sigma[: max(0, directions - BLOCK + 1)]).any()):
        return None  # there may be more that are equal
    rotation = rotation.flip(1)
    u = q @ rotation
    sign = canonical_signs(u)
    small = (u * sign).T.to(torch.float32).contiguous().T
    other = ((rotation * (sign / sigma)).T @ through).to(torch.float32).T
    left, right = (small, other) if on_left else (other, small)
    made = PartialSpectrum(left, right, _times_power(sigma, exponent), tuple(weight.shape), 0.0, 0.0)
    made = _verified(made, weight, exponent)
    return made if made.residual <= TOLERANCE else None


def _verified(found: PartialSpectrum, weight: Tensor, exponent: int) -> PartialSpectrum:
    """The same with its residual and orthogonality, from float64."""
    k = found.directions
    if not k:
        return found
    w, s = matrix(weight), _times_power(found.sigma, -exponent)
    u, v = found.left.to(torch.float64), found.right.to(torch.float64)
    # The root of the sum of all squares, which no direction's own exceeds, is estimated by sums of all with random
    # signs: without bias, and off only as far as residuals of different directions are parallel.
    generator = torch.Generator().manual_seed(k)
    signs = (torch.randint(0, 2, (_PROBES, k), generator=generator) * 2 - 1).to(u)
    x, y = signs @ v.T, signs @ u.T
    rest_left, rest_right = -(signs * s @ u.T), -(signs * s @ v.T)
    for start in range(0, w.shape[1], _PANEL):  # the weight never stands in memory in float64
        here = slice(start, start + _PANEL)
        panel = _scaled(w[:, here], exponent, torch.float64)
        rest_left += x[:, here] @ panel.T
        rest_right[:, here] += y @ panel
    residual = max(float(rest.square().sum().div(_PROBES).sqrt()) for rest in (rest_left, rest_right))
    unit = torch.eye(k, dtype=torch.float64, device=w.device)
    orthogonality = max(float((side.T @ side - unit).abs().max()) for side in (u, v))
    top = float(s[0])
    return replace(found, residual=residual / top if top else 0.0, orthogonality=orthogonality)


def _exponent(weight: Tensor, name: str = "weight") -> int:
    """The power of two by which a weight is to be divided first, so that its Gram matrix is one of float32 numbers."""
    exponent = peak_exponent(weight, name)
    return exponent if abs(exponent) > _SAFE_EXPONENT else 0


def _scaled(w: Tensor, exponent: int, dtype: torch.dtype) -> Tensor:
    """`w / 2**exponent` in another dtype."""
    return (_times_power(w, -exponent) if exponent else w).to(dtype)


def _times_power(x: Tensor, exponent: int) -> Tensor:
    """`x * 2**exponent` in two steps, neither of which overflows where the product does not."""
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)
