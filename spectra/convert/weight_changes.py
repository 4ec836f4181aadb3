"""A shift beside the base it belongs to: what it does to each weight, and what of it another format can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectra.bases.weight_files import FileWeights
from spectra.compatibility.base_check import BaseCheck, check_weights, delta_length
from spectra.compatibility.rounded_bases import BaseMatch, Fingerprints
from spectra.progress import Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.shifted_weight import singular_value_change
from spectra.spectrum.spectrum import Spectrum

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """What a shift does to one weight.

    Attributes:
        d: float64 `[r]`, the change of each singular value; of a 1-D weight `[n]`, what is added to it.
        shape: of the weight.
    """

    d: npt.NDArray[np.float64]
    shape: tuple[int, ...]

    @property
    def energy(self) -> float:
        """`||Delta W||_F^2`."""
        return float(self.d @ self.d)


@dataclass(frozen=True)
class LeftOut:
    """Weights whose change another format cannot hold.

    Attributes:
        why: in a few words.
        weights: how many.
        energy: their share of `||Delta W||^2` of the whole shift, 0 to 1.
    """

    why: str
    weights: int
    energy: float


def visit_shifted(
    shift: SpectralShift,
    weights: FileWeights,
    use: Callable[[str, Tensor, Spectrum | None], T],
    label: str,
    cache: SpectrumCache,
    progress: Progress,
) -> dict[str, T]:
    """What `use` makes of each weight that a shift changes, by name, if they are those that it was trained on.

    Args:
        use: given name, weight and spectrum (None for a 1-D weight); called in threads.
        label: how the progress is called.

    Raises:
        MismatchError: they are not.
    """
    check_weights(shift, "given", {name: delta_length(weights.shape(name)) for name in weights})

    def both(name: str, weight: Tensor, spectrum: Spectrum | None) -> tuple[BaseMatch, T]:
        prints = Fingerprints.of(weight, name, spectrum)
        return prints.base_match(shift.metadata, name), use(name, weight, spectrum)

    found = cache.visit(weights.only(shift.__contains__), both, label, progress)
    matches = {name: match for name, (match, _) in found.items()}
    check = BaseCheck(shift.metadata, "given", matches, shift.metadata.base_dtype)
    check.require_base("give that base, or carry the shift over to this one (spectra transplant)")
    check.require_original(f"give the original ({shift.metadata.base}), and what is written will do for the copy too")
    return {name: value for name, (_, value) in found.items()}


def measure(shift: SpectralShift, weights: FileWeights, cache: SpectrumCache, progress: Progress) -> dict[str, Change]:
    """What a shift does to each weight; nothing of that depends on singular vectors.

    Raises:
        MismatchError: the weights are not those that it was trained on.
    """

    def one(name: str, weight: Tensor, spectrum: Spectrum | None) -> Change:
        delta = torch.from_numpy(shift[name].astype(np.float64))
        d = delta if spectrum is None else singular_value_change(spectrum.sigma, delta)
        return Change(d.numpy(), tuple(weight.shape))

    return visit_shifted(shift, weights, one, "measuring", cache, progress)


def left_out(changes: Mapping[str, Change], reasons: Mapping[str, str]) -> tuple[LeftOut, ...]:
    """The weights that have a reason to be left out, by reason.

    Args:
        changes: of the whole shift.
        reasons: by weight name.
    """
    total = sum(each.energy for each in changes.values()) or 1.0
    found = []
    for why in dict.fromkeys(reasons.values()):
        names = [name for name, reason in reasons.items() if reason == why]
        found.append(LeftOut(why, len(names), sum(changes[name].energy for name in names) / total))
    return tuple(found)
