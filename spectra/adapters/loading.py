"""Loading a shift into a live model: found, checked against the model, bound, and put in force."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Unpack

from spectra.adapters.adapter_weights import Weights, weights_of
from spectra.adapters.bind import bind
from spectra.adapters.binding import Binding
from spectra.adapters.matching import check_base, match, original_spectra, warn_of_rounding
from spectra.adapters.model_use import check_not_training
from spectra.adapters.others_work import check_no_fused_lora
from spectra.adapters.served_changes import has_directions, needed_directions
from spectra.adapters.served_model import ServedModel
from spectra.adapters.served_pipeline import Served
from spectra.errors import MismatchError
from spectra.hub.fetching import HubOptions, find_shift_file
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache


class LoadOptions(HubOptions, total=False):
    """What else `load` takes, beside what says where a repository's shift is.

    Attributes:
        cache: where spectra are kept; the user's by default.
        progress: told of each spectrum.
    """

    cache: SpectrumCache | None
    progress: Progress


def load(
    pipe: Any,
    shift: SpectralShift | str | os.PathLike[str],
    name: str | None = None,
    *,
    adapter_name: str | None = None,
    strict: bool = True,
    activate: bool = True,
    hotswap: bool = False,
    **options: Unpack[LoadOptions],
) -> str:
    """Check a shift against a model, keep it ready under a name, and put it in force, alone, at scale 1.

    Args:
        pipe: a diffusers pipeline, a mapping of components, or a bare model, with its weights in memory, plain or
            quantised.
        shift: a shift, its file, a folder with one, or the id of a repository of the hub (owner/name).
        name: to call it by; the file's stem by default.
        adapter_name: the same, as diffusers calls it.
        strict: refuse a shift whose fingerprints are not this model's. False warns instead. A copy of the shift's
            base in another precision is never refused: a `RoundedCopyWarning` says what it changes.
        activate: False leaves in force what is, as for several shifts that `activate` will put in force together.
        hotswap: take the place of the shift of that name, at its scale. A compiled model is not compiled again.
        options: see `LoadOptions`.

    Returns:
        The name.

    Raises:
        ShiftFileError: the file cannot be found, fetched or read.
        MismatchError: weights that this model lacks, other lengths, another base, a name that is taken, or, with
            `hotswap`, is not. The model and what was loaded before stay as they are.
        WeightError: weights are offloaded so that they cannot be changed.
    """
    where = {key: value for key, value in options.items() if key in HubOptions.__annotations__}
    if unknown := options.keys() - LoadOptions.__annotations__.keys():
        raise TypeError(f"load() got an unexpected keyword argument {min(unknown)!r}")
    name = name or adapter_name
    if not isinstance(shift, SpectralShift):
        file = find_shift_file(shift, **where)  # type: ignore[arg-type]
        name = name or file.stem
        shift = read_shift(file)
    if not name:
        raise MismatchError("a shift that does not come from a file needs a name: spectra.load(pipe, shift, name=...)")
    parts = {component_of(key) for key in shift}
    served = Served(pipe, make=parts.__contains__).checked()
    check_not_training(served.models)
    if hotswap:
        served.check_loaded(name)
    elif name in served.shifts:
        raise MismatchError(f"a shift named {name!r} is loaded already; choose another name or unload it first")
    fresh = _bind(served, shift, name, strict, options.get("cache"), options.get("progress", SILENT))
    with served.unchanged_by_failure():
        for model, state in served:
            changed = _admit(state, shift, name, fresh, hotswap=hotswap, activate=activate)
            if changed is not None and (activate or state.enabled):
                state.put(model, changed)
            elif changed is not None:
                state.active = changed
            state.forget(model, set())
    return name


def _bind(
    served: Served,
    shift: SpectralShift,
    name: str,
    strict: bool,
    cache: SpectrumCache | None,
    progress: Progress,
) -> dict[str, Binding]:
    """Bindings of the weights that the shift changes and that are not bound yet, or with too few directions."""
    known = {key: binding for _, state in served for key, binding in state.bindings.items()}
    chosen = match(shift, name, served.models, known)
    touched = {module for key, target in chosen.items() if key not in known for module in target.modules}
    for model in served.models.values():
        check_no_fused_lora(model, touched)
    check, prints = check_base(shift, name, chosen, known, strict, cache)
    needed = needed_directions(shift)
    unbound = {key: t for key, t in chosen.items() if not has_directions(known.get(key), needed[key])}
    originals = original_spectra(shift, unbound, check.matches, needed, cache, progress)
    fresh = bind(unbound.values(), needed, cache, progress, originals, prints)
    warn_of_rounding(check, known | fresh)
    return fresh


def _admit(
    state: ServedModel,
    shift: SpectralShift,
    name: str,
    fresh: Mapping[str, Binding],
    *,
    hotswap: bool,
    activate: bool,
) -> dict[str, Weights] | None:
    """Make a shift one of a model's, with its bindings. Returns what is to be active; None where that is as before."""
    own = {key: binding for key, binding in fresh.items() if component_of(key) == state.component}
    for key in own.keys() & state.bindings.keys():
        own[key].take_over(state.bindings[key])
    state.bindings |= own
    before, replaced = dict(state.active), state.shifts.pop(name, None) is not None
    if any(component_of(key) == state.component for key in shift):
        state.shifts[name] = shift
    if hotswap:
        given = before.pop(name, None)
        if given is not None and name in state.shifts:
            before[name] = weights_of(given.given, name, shift)
        return before if replaced or own else None
    if activate:
        return {name: weights_of(None, name, shift)} if name in state.shifts else {}
    return before if own and before else None
