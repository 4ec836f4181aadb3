"""Which full-precision base a live model's quantised weights are copies of."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from spectra.bases.pipeline import BaseLocation
from spectra.bases.weight_files import base_weights
from spectra.errors import BaseError
from spectra.families import components, targets
from spectra.families.full_precision import FullPrecision, note
from spectra.layers.quantised_weights import is_quantised
from spectra.naming.target_subsets import component_of


def spectra_from(pipe: Any, base: str | BaseLocation) -> None:
    """Take spectra and fingerprints of a model's quantised weights from the base that they are copies of.

    A shift that is trained then is one of that base, and one of that base is held against it. Each weight is read when
    it is needed, and held against its copy.

    Args:
        pipe: a pipeline, a mapping of components, or a bare model.
        base: the full-precision base, as `spectra.bases.pipeline.find_base` takes it.

    Raises:
        BaseError: the base is missing or damaged, or lacks a quantised weight.
    """
    missing = _note(pipe, base, str(base.name if isinstance(base, BaseLocation) else base))
    if missing:
        raise BaseError(f"{base}: has no {missing}, of which the model has a quantised copy; give the original")


def find_originals(pipe: Any, base: BaseLocation, given: str = "") -> None:
    """Take spectra of a pipeline's quantised weights from the base that is `given`, else from its own, if it has them.

    Raises:
        BaseError: as `spectra_from`, of what is given.
    """
    if given:
        spectra_from(pipe, given)
        return
    with suppress(BaseError):  # the denoiser came from elsewhere
        _note(pipe, base, base.name)


def _note(pipe: Any, base: str | BaseLocation, source: str) -> str:
    """Note where the originals of all quantised weights are; if one is not there, return its name and note nothing."""
    parts = components(pipe)
    quantised = [
        target for target in targets(parts, ",".join(f"{part}.*" for part in parts)) if is_quantised(target.weight)
    ]
    if not quantised:
        return ""
    named = sorted({component_of(target.name) for target in quantised})
    weights = base_weights(base, named, dtype="float32")
    for target in quantised:
        if target.name not in weights:
            return target.name
    for name in named:
        note(parts[name], FullPrecision(weights, source))
    return ""
