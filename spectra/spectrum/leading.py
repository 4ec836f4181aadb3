"""Computes the leading directions of a weight, and verifies them in float64 (docs/algebra.md, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from spectra.errors import InputError
from spectra.spectrum.decomposition import check_weight, decompose, scale_exponent
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.spectrum import Spectrum, matrix, other_side


def decompose_leading(
    weight: Tensor, directions: int, *, start: PartialSpectrum | None = None, name: str = "weight"
) -> PartialSpectrum:
    """The `directions` largest singular values of a weight with both sides' vectors, on the weight's own device.

    Args:
        weight: as for `decompose`.
        directions: K; as many as the weight has if it has fewer.
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
    return cut(decompose(weight, name=name), weight, directions, name=name)


def cut(spectrum: Spectrum, weight: Tensor, directions: int, *, name: str = "weight") -> PartialSpectrum:
    """The first directions of a full spectrum, with both sides, verified.

    Args:
        spectrum: of the weight, on its device.
        weight: that the spectrum belongs to.
        directions: K; all if the weight has fewer.
        name: how errors call it.
    """
    k = min(directions, spectrum.rank)
    small = spectrum.basis[:, :k].T.contiguous().T
    other = other_side(weight, spectrum, torch.arange(k)).to(torch.float32).T
    left, right = (small, other) if spectrum.side == "left" else (other, small)
    return verified(weight, left, spectrum.sigma[:k].clone(), right, from_full=True, name=name)


def verified(
    weight: Tensor, left: Tensor, sigma: Tensor, right: Tensor, *, from_full: bool, name: str
) -> PartialSpectrum:
    """These vectors and values with their residual and orthogonality, both from float64."""
    w = matrix(weight.detach())
    k, exponent = len(sigma), scale_exponent(w, name)
    residual = orthogonality = 0.0
    if k:
        scale = torch.tensor(-exponent, device=w.device)
        w, s = torch.ldexp(w.to(torch.float64), scale), torch.ldexp(sigma, scale)
        u, v = left.to(torch.float64), right.to(torch.float64)
        rest = torch.cat([(w @ v - u * s).norm(dim=0), (w.T @ u - v * s).norm(dim=0)])
        residual = float(rest.max() / s[0]) if s[0] else 0.0
        unit = torch.eye(k, dtype=torch.float64, device=w.device)
        orthogonality = max(float((side.T @ side - unit).abs().max()) for side in (u, v))
    return PartialSpectrum(left, right, sigma, tuple(weight.shape), residual, orthogonality, from_full)
