"""Carrying a shift over to a related base: `delta'_i = u'_i^T U diag(d) V^T v'_i`, the closest diagonal there.

That needs both sides of the old singular vectors. The cache keeps one of a whole spectrum, the other follows from the
old weights: so the old base's files are needed. As many leading directions have a delta as before.

An outer term has no basis: the same vectors add the same change to any weight of the shape, and nothing of it is lost.
So it is carried over as it is, and so are norms and the vectors of special words.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from spectra.bases.pipeline import BaseLocation, find_base
from spectra.bases.weight_files import base_weights
from spectra.convert.closest_shift import Captured, ClosestPart, ShiftForm, closest_part, shift_of_parts, summed
from spectra.convert.shifted_base import ShiftedBase
from spectra.convert.weight_change import WeightShift, product_square, spectrum_for
from spectra.errors import BaseError, MismatchError
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.cache.workers import for_each


@dataclass(frozen=True)
class Transplanted:
    """A shift on its new base, and how much of it is left.

    Attributes:
        layers: what is captured of each weight's `Delta W`; nothing of a weight that is missing.
        missing: weights that the new base lacks, or has in another shape.
        error: `||Delta W there - Delta W here|| / ||Delta W here||` over the matrices; vectors (norms) are carried over
            as they are.
    """

    shift: SpectralShift
    layers: tuple[Captured, ...]
    missing: tuple[str, ...]
    error: float


def transplant(
    shift: SpectralShift | str | os.PathLike[str],
    to: str,
    *,
    source: str | None = None,
    dtype: str = "",
    variant: str | None = None,
    max_error: float | None = None,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Transplanted:
    """The shift of another base whose `Delta W` is closest to that of `shift`.

    Args:
        shift: a shift or its file.
        to: the new base, as `find_base` takes it.
        source: the base it was trained on; by default the one that it names.
        dtype: in which the new base will be loaded; by default the shift's.
        variant: of the new base's weight files.
        max_error: refuse a result of a larger error, such as .5.

    Raises:
        BaseError: a base is missing or damaged.
        MismatchError: `source` is not the shift's base, no weight is in both bases, or the error is too large.
    """
    label = "given"
    if not isinstance(shift, SpectralShift):
        label, shift = Path(shift).name, read_shift(shift)
    cache, metadata = cache or default_cache(), shift.metadata
    old_location = _named_base(metadata.base, label) if source is None else find_base(source)
    components = sorted({component_of(name) for name in shift})
    remedy = f"{old_location.name} is not that base in {metadata.base_dtype}: name it with --from"
    old = ShiftedBase(shift, old_location, components, label=label, remedy=remedy, cache=cache, progress=progress)
    location = find_base(to)
    dtype = dtype or metadata.base_dtype
    new = base_weights(location, variant=variant, dtype=dtype)
    kept = [name for name in shift if name in new and new.shape(name) == old.weights.shape(name)]
    missing = tuple(name for name in shift if name not in kept)
    if not kept:
        raise MismatchError(
            f"shift {label!r} cannot be carried over: {location.name} has none of its {len(shift)} weights in their "
            f"shapes, such as {missing[0]}; expected a base of the same architecture"
        )
    parts = {name: WeightShift.of(shift, name) for name in kept}

    def carry(name: str) -> ClosestPart:
        return _carried(parts[name], old.weights[name], new[name], cache)

    found = for_each(kept, carry, "projecting", progress)
    layers = {name: each.captured for name, each in found.items()}
    if missing:
        layers |= {name: Captured(name, lost.energy, lost.energy) for name, lost in old.changes(missing).items()}
    error = summed("matrices", (layers[name] for name in shift if len(old.weights.shape(name)) > 1)).error
    if max_error is not None and error > max_error:
        raise MismatchError(
            f"shift {label!r} has an error of {error:.1%} of Delta W on {location.name}, more than the allowed "
            f"{max_error:.1%}; train it there, or raise --max-error"
        )
    carried = shift_of_parts(
        found,
        {name: word for name, word in shift.words.items() if name in found},
        base=location.name,
        base_dtype=dtype,
        subset=metadata.subset,
        licence=metadata.licence,
        parents=(metadata.content_hash,) if metadata.content_hash else metadata.parents,
        recipe={"method": "transplant", "from": metadata.base, "error": round(error, 6)},
    )
    return Transplanted(carried, tuple(layers[name] for name in shift), missing, error)


def _carried(part: WeightShift, weight: Tensor, new_weight: Tensor, cache: SpectrumCache) -> ClosestPart:
    """What a shift has of one weight of its old base, for one of the same shape in the new."""
    directions = part.directions
    spectrum = spectrum_for(part.name, weight, directions, cache)
    if weight.ndim == 1:
        return ClosestPart.of(new_weight, None, part.delta, Captured(part.name, float(part.delta @ part.delta), 0.0))
    change = float(product_square(*part.factors(weight, spectrum)))
    if not directions:
        made = ClosestPart.of(new_weight, None, part.delta, Captured(part.name, change, 0.0))
    else:
        diagonal = WeightShift(part.name, part.delta).change(weight, spectrum)
        made = closest_part(part.name, diagonal, new_weight, ShiftForm(directions), 0, cache)
    return replace(made, outer=part.outer, captured=replace(made.captured, change=change))


def _named_base(name: str, label: str) -> BaseLocation:
    """The base that a shift names as the one that it was trained on."""
    with contextlib.suppress(BaseError):
        if name:
            return find_base(name)
    raise BaseError(
        f"shift {label!r} was trained on {name or 'an unnamed base'}, which is not there; its weights are needed "
        "(the cache keeps one side of each spectrum only): give that base with --from"
    )
