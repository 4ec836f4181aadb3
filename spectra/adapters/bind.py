"""Bindings of a live model's weights: what of each spectrum is needed, and which weights can be bound at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType

from torch import Tensor

from spectra.adapters.binding import Binding, WeightSpectrum, target_fingerprints
from spectra.adapters.lazy_values import LazyValues
from spectra.compatibility.rounded_bases import Fingerprints, expected_error
from spectra.errors import RoundedCopyWarning, WeightError
from spectra.families import Target
from spectra.layers.frozen_operators import operator_of
from spectra.progress import SILENT, Progress
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache

ALL = -1
"""Directions of a weight whose delta may be of any of them."""


def bind(
    targets: Iterable[Target],
    directions: Mapping[str, int] = MappingProxyType({}),
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
    originals: Mapping[str, WeightSpectrum] = MappingProxyType({}),
    known: Mapping[str, Fingerprints] = MappingProxyType({}),
) -> dict[str, Binding]:
    """Bindings by name, with spectra from the cache, or with the `originals` where a weight is a rounded copy.

    Args:
        directions: how many of a weight's leading directions change, by name; `ALL` by default, 0 for none.
        known: fingerprints of weights, by name, where they are known.

    Raises:
        WeightError: a weight that is not plain floating point in memory, or not finite.
    """
    chosen = {target.name: target for target in targets}
    for name, target in chosen.items():
        check_target(target, directions.get(name, ALL))
    matrices = {name: t.values for name, t in chosen.items() if t.weight.ndim > 1 and name not in originals}
    digits = {name: each.digits() for name, each in known.items() if name in matrices}
    spectra = find_spectra(LazyValues(matrices), directions, cache, progress, digits)
    prints = {name: known.get(name) or target_fingerprints(t, spectra.get(name)) for name, t in chosen.items()}
    # Now, while each weight has the base's dtype; a spectrum knows its weight's.
    unknown = [prints[name] for name, target in chosen.items() if target.weight.ndim == 1 or name not in spectra]
    if unknown:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Fingerprints.digits, unknown))
    return {
        name: Binding(target, originals.get(name, spectra.get(name)), prints[name]) for name, target in chosen.items()
    }


def find_spectra(
    weights: Mapping[str, Tensor],
    directions: Mapping[str, int],
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
    digits: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, WeightSpectrum]:
    """Spectra by name, as much of each as `directions` ask for (see `bind`); weights that need none are left out.

    Those that the cache has under their `digits` are found without reading the weight.
    """
    cache = cache or default_cache()
    by_count: dict[int, list[str]] = {}
    found: dict[str, WeightSpectrum] = {}
    for name in weights:
        count, known = directions.get(name, ALL), None
        if name in digits and count:
            known = cache.find(digits[name]) if count == ALL else cache.find_leading(digits[name], count)
        if known:
            found[name] = known
        else:
            by_count.setdefault(count, []).append(name)
    for count, names in sorted(by_count.items()):
        some = LazyValues({name: partial(weights.__getitem__, name) for name in names})
        if count == ALL:
            found |= cache.spectra(some, progress)
        elif count:
            found |= cache.leading(some, count, progress)
    return found


def check_target(target: Target, directions: int = 0) -> None:
    """Refuse a weight of which no shift, or not this many directions, can act.

    Raises:
        WeightError: it is on the meta device, quantised in a way that is not known, or so that all its directions
            cannot move.
    """
    name, weight = target.name, target.weight
    if weight.device.type == "meta":
        raise WeightError(
            f"{name}: the weight is on the meta device and has no values; load the base first, and turn on "
            "sequential offloading after the shift is active"
        )
    kind = target.quantised
    if kind and any(operator_of(module) is None for module in target.modules):
        raise WeightError(
            f"{name}: expected a linear layer where a weight is quantised ({kind}), got "
            f"{type(target.modules[0]).__name__}; leave it out of the quantisation, or out of the targets"
        )
    if kind and directions == ALL:
        raise WeightError(
            f"{name}: all directions of a quantised weight ({kind}) cannot move, since they need the weight itself; "
            "move a few (--directions K) or train outer terms (--preset balanced), or load the base unquantised"
        )


def warn_of_quantised_spectra(bindings: Mapping[str, Binding]) -> None:
    """Say, once for all, that directions are those of quantised weights, not of their originals, and what it costs."""
    kinds = [
        binding.target.quantised
        for binding in bindings.values()
        if binding.spectrum is not None and not binding.target.has_original and binding.target.quantised
    ]
    if kinds:
        warnings.warn(
            f"the singular vectors of {len(kinds)} weights are those of the quantised copy ({kinds[0]}): on the "
            f"original, Delta W of a shift in them is another by about {expected_error(kinds[0])}; give the "
            "full-precision base (--spectra-from FOLDER) to have the original's",
            RoundedCopyWarning,
            stacklevel=3,
        )
