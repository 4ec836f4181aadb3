"""The weight of one layer with its change, made whole: for serving, and for modules that are no plain operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from spectra.io.dtypes import computing_dtype
from spectra.layers.change import Change
from spectra.spectrum.shifted_weight import shifted_weight, singular_value_change
from spectra.spectrum.spectrum import Spectrum, matrix


class Directions(Protocol):
    """K directions of a weight, with both sides: a `PartialSpectrum`, or some of its directions."""

    @property
    def left(self) -> Tensor: ...

    @property
    def right(self) -> Tensor: ...

    @property
    def sigma(self) -> Tensor: ...


class SomeDirections(NamedTuple):
    """Directions that were chosen among those of a partial spectrum."""

    left: Tensor
    right: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, directions: Directions, numbers: Sequence[int]) -> SomeDirections:
        """Those with these numbers."""
        chosen = list(numbers)
        left, right = (side.T[chosen].T for side in (directions.left, directions.right))
        return cls(left, right, directions.sigma[chosen])

    def to(self, device: torch.device | str) -> SomeDirections:
        """A copy on another device."""
        return SomeDirections(*(each.to(device) for each in self))


def changed_weight(
    weight: Tensor, directions: Spectrum | Directions | None, change: Change, out: Tensor | None = None
) -> Tensor:
    """The weight with its change, in its own shape and dtype, rounded once; differentiable in the change.

    Args:
        weight: the frozen weight, of two or more dimensions.
        directions: of its delta; a whole spectrum where it is of all directions.
        change: without samples. Where it changes nothing the frozen weight itself is returned.
        out: other memory for the result, used where that saves a pass over it; without gradients.
    """
    if not any(tensor.requires_grad for tensor in change.tensors()) and change.changes_nothing:
        return weight
    dtype = computing_dtype(weight.dtype)
    wide = weight.to(dtype)
    if change.delta is not None and isinstance(directions, Spectrum):
        wide = shifted_weight(wide, directions, change.delta)
    w = matrix(wide)
    sides: list[tuple[Tensor, Tensor]] = []
    if change.delta is not None and directions is not None and not isinstance(directions, Spectrum):
        left, right, sigma = (
            each.to(weight.device, dtype) for each in (directions.left, directions.right, directions.sigma)
        )
        d = singular_value_change(sigma, change.delta.to(dtype))
        # The long side takes d: its gradient is then summed over that side pairwise, not in one long product.
        sides.append((left * d, right.T) if len(left) > len(right) else (left, (right * d).T))
    if change.a is not None:
        sides.append((change.a.to(dtype).T, change.right.to(dtype)))
    if sides:  # in one product that begins with the weight: loading a shift is passes over memory
        columns, rows = zip(*sides, strict=True)
        fits = out is not None and change.word is None and out.dtype == weight.dtype == dtype and out.is_contiguous()
        w = torch.addmm(
            w, torch.cat(columns, 1), torch.cat(rows), out=matrix(out) if out is not None and fits else None
        )
    if change.word is not None:
        w = w.index_add(0, torch.tensor(change.ids, device=w.device), change.word.to(dtype))
    return w.reshape(weight.shape).to(weight.dtype)
