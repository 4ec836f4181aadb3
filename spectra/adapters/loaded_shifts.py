"""Using shifts on a live model: load by name, activate at a scale, switch, unload.

    spectra.load(pipe, "dog.safetensors", name="dog")
    spectra.activate(pipe, {"dog": 1.0, "style": 0.4})   # ReLU(sigma + 1.0 * dog + 0.4 * style)
    with spectra.disabled(pipe): ...                      # the base
    spectra.unload(pipe)                                  # the base, bit for bit

While shifts are active each touched weight is replaced by its shifted value, made once: a forward costs what the
base's costs. The frozen weights are kept beside, and unloading puts the very same tensors back. Beside a quantised
weight, which stays as it is, the shift is a term of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import nn

from spectra.adapters.bind import bind
from spectra.adapters.binding import Binding
from spectra.adapters.matching import check_base, match, original_spectra, warn_of_rounding
from spectra.adapters.model_use import claim, release
from spectra.adapters.served_changes import has_directions, needed_directions, stacked, total_changes
from spectra.errors import MismatchError
from spectra.families import components
from spectra.layers.change import Change
from spectra.layers.per_sample import Samples
from spectra.naming.blocks import sees_one_sequence
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

_LOADED: WeakKeyDictionary[nn.Module, LoadedShifts] = WeakKeyDictionary()


class LoadedShifts:
    """The shifts loaded into one model or pipeline.

    Attributes:
        models: in use, by component; not kept alive.
        shifts: by the name they were loaded under.
        active: scale by name, of those in force.
        bindings: of every weight that a shift has, by name.
    """

    def __init__(self) -> None:
        self.models: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self.shifts: dict[str, SpectralShift] = {}
        self.active: dict[str, float] = {}
        self.bindings: dict[str, Binding] = {}

    def check_loaded(self, name: str) -> None:
        """Raise a MismatchError if no shift of that name is loaded."""
        if name not in self.shifts:
            loaded = ", ".join(sorted(self.shifts)) or "none"
            raise MismatchError(f"no shift named {name!r} is loaded; loaded: {loaded}")

    def scales(self, scales: Mapping[str, float] | str) -> dict[str, float]:
        """Scale by name, each of a loaded shift and finite; `scales` may be one name at scale 1."""
        scales = {scales: 1.0} if isinstance(scales, str) else dict(scales)
        for name, scale in scales.items():
            self.check_loaded(name)
            if not math.isfinite(scale):
                raise MismatchError(f"expected a finite scale for {name!r}, got {scale}")
        return scales

    def total(self, scales: Mapping[str, float]) -> dict[str, Change]:
        """The sum of scaled shifts by weight, its deltas as long as the bindings have directions."""
        changes = total_changes((scale, self.shifts[name]) for name, scale in scales.items())
        return {name: self.bindings[name].fitted(change) for name, change in changes.items()}

    def activate(self, scales: Mapping[str, float]) -> None:
        """Put exactly these shifts in force; all of the new weights are made before the first is put in."""
        self.check_present()
        ready = {name: self.bindings[name].prepare(change) for name, change in self.total(scales).items()}
        for name, binding in self.bindings.items():
            if name in ready:
                binding.apply(ready[name])
            else:
                binding.restore()
        self.active = dict(scales)

    def patch(self, scales: Sequence[Mapping[str, float]], images: int) -> None:
        """Let every sample of a batch take its own sum of shifts, through the factored plan."""
        wanted = [tuple(sorted(each.items())) for each in scales]
        distinct = list(dict.fromkeys(wanted))
        numbers = torch.tensor([distinct.index(each) for each in wanted])
        samples, totals = Samples(numbers, images), [self.total(dict(each)) for each in distinct]
        for name, binding in self.bindings.items():
            if not any(name in total for total in totals):
                continue
            if sees_one_sequence(name):
                raise MismatchError(
                    f"{name} computes once for all samples of a batch, none of which can have its own change there; "
                    "activate one shift at a time, or train without that weight"
                )
            rows = [total.get(name, Change()) for total in totals]
            change = stacked(rows, binding.current.device)
            if next(change.tensors(), None) is not None:
                binding.patch(change, samples)

    def restore(self) -> None:
        """Give every module its own weight and forward back."""
        self.check_present()
        for binding in self.bindings.values():
            binding.restore()

    def check_present(self) -> None:
        """Check that no weight is offloaded, before any is changed; see `Binding.check_present`."""
        for binding in self.bindings.values():
            binding.check_present()


def load(
    pipe: Any,
    shift: SpectralShift | str | os.PathLike[str],
    name: str | None = None,
    *,
    strict: bool = True,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> str:
    """Check a shift against a model and keep it ready under a name; `activate` puts it in force.

    Args:
        pipe: a diffusers pipeline, a mapping of components, or a bare model, with its weights in memory, plain or
            quantised.
        shift: a shift or its file.
        name: to call it by; the file's stem by default.
        strict: refuse a shift whose fingerprints are not this model's. False warns instead. A copy of the shift's
            base in another precision is never refused: a `RoundedCopyWarning` says what it changes.

    Returns:
        The name.

    Raises:
        ShiftFileError: the file cannot be read.
        MismatchError: weights that this model lacks, other lengths, another base, or a name that is taken. The
            model and what was loaded before stay as they are.
    """
    if not isinstance(shift, SpectralShift):
        name = name or Path(shift).stem
        shift = read_shift(shift)
    if not name:
        raise MismatchError("a shift that does not come from a file needs a name: spectra.load(pipe, shift, name=...)")
    models = components(pipe)
    loaded = _loaded(models)
    if name in loaded.shifts:
        raise MismatchError(f"a shift named {name!r} is loaded already; choose another name or unload it first")
    chosen = match(shift, name, models, loaded.bindings)
    check = check_base(shift, name, chosen, loaded.bindings, strict, cache)
    parts = dict.fromkeys(component_of(key) for key in shift)
    fresh_models = {part: models[part] for part in parts if part not in loaded.models}
    claim(fresh_models, "serving")
    try:
        needed = needed_directions(shift)
        unbound = {key: t for key, t in chosen.items() if not has_directions(loaded.bindings.get(key), needed[key])}
        originals = original_spectra(shift, unbound, check.matches, needed, cache, progress)
        bindings = loaded.bindings | bind(unbound.values(), needed, cache, progress, originals)
        for key in unbound.keys() & loaded.bindings.keys():
            bindings[key].take_over(loaded.bindings[key])
        warn_of_rounding(check, bindings)
    except BaseException:
        release(fresh_models)
        raise
    loaded.models.update(fresh_models)
    loaded.bindings = bindings
    loaded.shifts[name] = shift
    _LOADED.update((model, loaded) for model in loaded.models.values())
    return name


def activate(pipe: Any, scales: Mapping[str, float] | str) -> None:
    """Put loaded shifts in force: `ReLU(sigma + sum of scale * delta)`, and no others. `{}` gives the base.

    Args:
        pipe: as given to `load`.
        scales: scale by name, or one name at scale 1.

    Raises:
        MismatchError: a name that is not loaded; nothing changes then.
    """
    loaded = _loaded(components(pipe))
    loaded.activate(loaded.scales(scales))


@contextmanager
def per_sample(pipe: Any, scales: Sequence[Mapping[str, float] | str], *, images_per_prompt: int = 1) -> Iterator[None]:
    """Within the block every sample of a batch has shifts of its own; afterwards what was active before.

        with spectra.per_sample(pipe, ["dog", {"cat": 0.8, "style": 0.4}, {}]):
            pipe(["a [V1] dog", "a [V2] cat", "a house"])

    The frozen weights compute once for the whole batch, and each sample takes its own row of deltas: one model in
    memory serves any number of shifts, and none is merged into a weight.

    Args:
        pipe: as given to `load`.
        scales: for each prompt of the batch, scale by name, or one name at scale 1; `{}` is the base.
        images_per_prompt: as the pipeline's `num_images_per_prompt`.

    Raises:
        MismatchError: a name that is not loaded, a weight that a batch shares (T5's table of relative positions,
            Z-Image's embedders), or, by a forward, a batch that is no multiple of the samples.
    """
    loaded = _loaded(components(pipe))
    checked = [loaded.scales(each) for each in scales]
    if not checked or images_per_prompt < 1:
        raise MismatchError(
            f"per_sample expects the shifts of at least one sample and images_per_prompt of at least 1, got "
            f"{len(checked)} samples and images_per_prompt={images_per_prompt}"
        )
    with disabled(pipe):
        try:
            loaded.patch(checked, images_per_prompt)
            yield
        finally:
            loaded.restore()


def loaded(pipe: Any) -> dict[str, float]:
    """The names of the loaded shifts, each with its scale; 0 if it is not active."""
    loaded = _loaded(components(pipe))
    return {name: loaded.active.get(name, 0.0) for name in loaded.shifts}


@contextmanager
def disabled(pipe: Any) -> Iterator[None]:
    """The frozen base within the block; afterwards what was active before."""
    loaded = _loaded(components(pipe))
    applied = [(binding, binding.applied) for binding in loaded.bindings.values()]
    loaded.restore()
    try:
        yield
    finally:
        for binding, parameter in applied:
            if parameter is not None:
                binding.apply(parameter)


def unload(pipe: Any, name: str | None = None) -> None:
    """Forget one shift, or all of them. What no other shift changes is the base again, bit for bit.

    Raises:
        MismatchError: `name` is not loaded.
    """
    loaded = _loaded(components(pipe))
    if name is not None:
        loaded.check_loaded(name)
    gone = set(loaded.shifts) if name is None else {name}
    if name is None or name in loaded.active:
        loaded.activate({key: scale for key, scale in loaded.active.items() if key not in gone})
    loaded.shifts = {key: shift for key, shift in loaded.shifts.items() if key not in gone}
    for key in loaded.bindings.keys() - {key for shift in loaded.shifts.values() for key in shift}:
        loaded.bindings.pop(key).restore()
    unused = set(loaded.models) - {component_of(key) for key in loaded.bindings}
    models = {part: loaded.models.pop(part) for part in unused}
    for model in models.values():
        del _LOADED[model]
    release(models)


def _loaded(models: Mapping[str, nn.Module]) -> LoadedShifts:
    """What is loaded into one of the models; nothing yet, by default."""
    return next((_LOADED[model] for model in models.values() if model in _LOADED), LoadedShifts())
