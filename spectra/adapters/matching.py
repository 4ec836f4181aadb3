"""A shift beside a live model: whether it fits, and in which singular vectors it acts there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from spectra.adapters.bind import ALL, check_target, find_spectra
from spectra.adapters.binding import Binding, WeightSpectrum, target_fingerprints
from spectra.adapters.lazy_values import LazyValues
from spectra.compatibility.base_check import BaseCheck, check_weights, compare
from spectra.compatibility.rounded_bases import EXPECTED_ERROR, BaseMatch, Fingerprints, cast
from spectra.errors import RoundedCopyWarning
from spectra.families import Target, targets
from spectra.families.full_precision import MOST_ERROR
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.spectrum import matrix


def match(
    shift: SpectralShift, name: str, models: Mapping[str, nn.Module], known: Mapping[str, Binding]
) -> dict[str, Target]:
    """The model's weights that the shift names; a MismatchError if it lacks one, or has one of another length."""
    available = {key: binding.target for key, binding in known.items()}
    if not available.keys() >= shift.keys():
        found = targets(dict(models), ",".join(f"{part}.*" for part in models))
        available = {target.name: target for target in found} | available
    check_weights(shift, name, {key: target.shape for key, target in available.items()})
    return {key: available[key] for key in shift}


def check_base(
    shift: SpectralShift,
    name: str,
    chosen: Mapping[str, Target],
    known: Mapping[str, Binding],
    strict: bool,
    cache: SpectrumCache | None = None,
) -> tuple[BaseCheck, dict[str, Fingerprints]]:
    """Compare the weights with those that the shift was trained on, quantised ones with what the cache knows of these.

    Returns the comparison, and the fingerprints by name.

    If some are others, rounding aside, `strict` makes that a MismatchError; otherwise a warning says so.
    """
    prints = {}
    for key, target in chosen.items():
        if key not in known:
            check_target(target)
        prints[key] = known[key].fingerprints if key in known else target_fingerprints(target)
    unknown = [each for each in prints.values() if not each.found]
    if unknown:
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            list(pool.map(Fingerprints.digits, unknown))
    check, trained = compare(shift, name, prints), shift.metadata.base_dtype
    check = replace(check, matches={**check.matches, **_told_by_spectra(check, chosen, cache or default_cache())})
    if strict:
        load = "load that base" if check.dtype == trained else f"load that base in {trained}"
        check.require_base(f"{load}, or carry the shift over to this one (spectra transplant)")
    elif check.wrong_base:
        warnings.warn(check.wrong_base, stacklevel=3)
    return check, prints


def original_spectra(
    shift: SpectralShift,
    chosen: Mapping[str, Target],
    matches: Mapping[str, BaseMatch],
    directions: Mapping[str, int] = MappingProxyType({}),
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> dict[str, WeightSpectrum]:
    """The spectra, by name, of the weights that the shift was trained on, where those of the model are rounded copies.

    A weight that is the original once it is cast is decomposed so; of other copies the cache may know the original.
    """
    cache = cache or default_cache()
    matrices = {key: target for key, target in chosen.items() if target.weight.ndim > 1}

    def known(key: str) -> WeightSpectrum | None:
        digits, few = shift.metadata.fingerprints[key], directions.get(key, ALL)
        whole = None if matrices[key].quantised else cache.find(digits)
        return (cache.find_leading(digits, few) if few > 0 else None) or whole

    rounded = {key: known(key) for key in matrices if matches[key] in (*EXPECTED_ERROR, "quantised")}
    found: dict[str, WeightSpectrum] = {
        key: each for key, each in rounded.items() if each and each.shape == tuple(matrices[key].shape)
    }
    dtype = shift.metadata.base_dtype
    casts = {key: partial(cast, t.values(), dtype) for key, t in matrices.items() if matches[key] == "cast"}
    return found | find_spectra(LazyValues(casts), directions, cache, progress)


def _told_by_spectra(check: BaseCheck, chosen: Mapping[str, Target], cache: SpectrumCache) -> dict[str, BaseMatch]:
    """What weights of which no fingerprint tells are to the shift's, by name, where the cache knows those' spectra."""
    told: dict[str, BaseMatch] = {}
    for key, target in chosen.items():
        if check.matches[key] == "unknown" and target.weight.ndim > 1:
            digits = check.metadata.fingerprints[key]
            spectrum = cache.find_leading(digits, 1) or cache.find(digits)
            if spectrum is not None and spectrum.shape == tuple(target.shape):
                told[key] = "quantised" if _holds(spectrum, target.values()) else "other"
    return told


def _holds(spectrum: WeightSpectrum, weight: Tensor) -> bool:
    """Whether a weight has, nearly, the singular value of the first direction of a spectrum there."""
    w, sigma = matrix(weight.detach()).to(torch.float64), float(spectrum.sigma[0])
    left = isinstance(spectrum, PartialSpectrum) or spectrum.side == "left"
    vector = (spectrum.left if isinstance(spectrum, PartialSpectrum) else spectrum.basis)[:, 0].to(w)
    through = w.T @ vector if left else w @ vector
    if isinstance(spectrum, PartialSpectrum):
        return abs(float(through @ spectrum.right[:, 0].to(w)) - sigma) <= MOST_ERROR * sigma
    return abs(float(through.norm()) - sigma) <= MOST_ERROR * sigma


def warn_of_rounding(check: BaseCheck, bindings: Mapping[str, Binding]) -> None:
    """Say that the model is a rounded copy of the shift's base, if it is, and how much of Delta W that costs."""
    used = {key: bindings[key].spectrum for key, match in check.matches.items() if match != "other"}
    originals = check.metadata.fingerprints
    message = check.rounded_copy(
        [
            key
            for key, spectrum in used.items()
            if isinstance(spectrum, WeightSpectrum) and not spectrum.fingerprint.startswith(originals[key])
        ]
    )
    if message:
        warnings.warn(message, RoundedCopyWarning, stacklevel=3)
