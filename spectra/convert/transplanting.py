"""Carrying a shift over to a related base: `delta'_i = u'_i^T Delta W v'_i`, the closest shift there.

`Delta W` needs both sides of the old singular vectors. The cache keeps one, the other follows from the old weights: so
the old base's files are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spectra.bases.pipeline import BaseLocation, find_base
from spectra.bases.weight_files import FileWeights, base_weights
from spectra.compatibility.base_check import check_weights, compare, delta_length
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.convert.closest_shift import Captured, delta_weight, find_closest, summed
from spectra.convert.extraction import shift_of
from spectra.errors import BaseError, MismatchError
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.shifted_weight import singular_value_change
from spectra.version import versions


@dataclass(frozen=True)
class Transplanted:
    """A shift on its new base, and how much of it is left.

    Attributes:
        shift: for the new base.
        layers: of each weight's `Delta W`, what the new one holds; nothing of a weight that was left behind.
        missing: weights that the new base lacks, or has in another shape.
        score: the energy that is kept of the matrices, 0 to 1; vectors (norms) are carried over as they are.
    """

    shift: SpectralShift
    layers: tuple[Captured, ...]
    missing: tuple[str, ...]
    score: float


def transplant(
    shift: SpectralShift,
    to: str,
    *,
    source: str | None = None,
    dtype: str = "",
    variant: str | None = None,
    min_score: float = 0.0,
    called: str = "given",
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Transplanted:
    """The shift of another base whose `Delta W` is closest to that of `shift`.

    Args:
        shift: to carry over.
        to: the new base, as `find_base` takes it.
        source: the base it was trained on; by default the one that it names.
        dtype: in which the new base will be loaded; by default the shift's.
        variant: of the new base's weight files.
        min_score: refuse a result of a lower score, 0 to 1.
        called: how messages call the shift.

    Raises:
        BaseError: a base is missing or damaged.
        MismatchError: `source` is not the shift's base, no weight is in both bases, or the score is too low.
    """
    cache = cache or default_cache()
    metadata = shift.metadata
    old = _old_weights(shift, source, called)
    location = find_base(to)
    dtype = dtype or metadata.base_dtype
    new = base_weights(location, variant=variant, dtype=dtype)
    kept = [name for name in shift if name in new and new.shape(name) == old.shape(name)]
    missing = tuple(name for name in shift if name not in kept)
    if not kept:
        raise MismatchError(
            f"shift {called!r} cannot be carried over: {location.name} has none of its {len(shift)} weights in their "
            f"shapes, such as {missing[0]}; expected a base of the same architecture"
        )
    changes = {name: _ShiftChange(old, shift, name, cache) for name in kept}
    found = find_closest(new.only(changes.__contains__), changes, cache=cache, progress=progress)
    layers = {name: each.captured for name, each in found.items()}
    for name in missing:
        square = float(_ShiftChange(old, shift, name, cache).d().square().sum())
        layers[name] = Captured(name, square, square)
    score = summed("matrices", (layers[name] for name in shift if len(old.shape(name)) > 1)).energy
    if score < min_score:
        raise MismatchError(
            f"shift {called!r} keeps {score:.1%} of its energy on {location.name}, less than the asked "
            f"{min_score:.1%}; train it there, or lower --min-score"
        )
    carried = shift_of(
        found,
        base=location.name,
        base_dtype=dtype,
        subset=metadata.subset,
        licence=metadata.licence,
        versions=versions(),
        parents=(metadata.content_hash,) if metadata.content_hash else metadata.parents,
        recipe={"method": "transplant", "from": metadata.base, "score": round(score, 6)},
    )
    return Transplanted(carried, tuple(layers[name] for name in shift), missing, score)


class _ShiftChange:
    """A shift's change of one weight of its own base, for the new base's weight."""

    def __init__(self, old: FileWeights, shift: SpectralShift, name: str, cache: SpectrumCache) -> None:
        self._old, self._name, self._cache = old, name, cache
        self._delta = torch.from_numpy(shift[name].astype("float64"))

    def __call__(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return self._delta
        mine = self._old[self._name]
        spectrum = self._cache.spectrum(mine, name=self._name)
        return delta_weight(mine, spectrum, singular_value_change(spectrum.sigma, self._delta))

    def d(self) -> Tensor:
        """The change of each singular value, or of each entry of a 1-D weight."""
        if len(self._old.shape(self._name)) == 1:
            return self._delta
        return singular_value_change(self._cache.spectrum(self._old[self._name], name=self._name).sigma, self._delta)


def _old_weights(shift: SpectralShift, source: str | None, called: str) -> FileWeights:
    """The weights that the shift was trained on."""
    metadata = shift.metadata
    location = _old_base(metadata.base, called) if source is None else find_base(source)
    components = sorted({name.partition(".")[0] for name in shift})
    old = base_weights(location, components, dtype=metadata.base_dtype).only(shift.__contains__)
    check_weights(shift, called, {name: delta_length(old.shape(name)) for name in old})
    check = compare(shift, called, {name: Fingerprints(old, name, metadata.base_dtype) for name in shift})
    remedy = f"{location.name} is not that base in {metadata.base_dtype}: name it with --from"
    check.require_base(remedy)
    check.require_original(remedy)
    return old


def _old_base(named: str, called: str) -> BaseLocation:
    try:
        if named:
            return find_base(named)
    except BaseError:
        pass
    raise BaseError(
        f"shift {called!r} was trained on {named or 'an unnamed base'}, which is not there; its weights are needed "
        "(the cache keeps one side of each spectrum only): give that base with --from"
    )
