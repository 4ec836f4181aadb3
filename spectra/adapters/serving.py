"""Using shifts on a live model: load by name, activate at a scale, switch, unload.

    spectra.load(pipe, "dog.safetensors", name="dog")
    spectra.activate(pipe, {"dog": 1.0, "style": 0.4})   # ReLU(sigma + 1.0 * dog + 0.4 * style)
    with spectra.disabled(pipe): ...                      # the base
    spectra.unload(pipe)                                  # the base, bit for bit

While shifts are active each touched weight is replaced by its shifted value, made once: a forward costs what the
base's costs. The frozen weights are kept beside, and unloading puts the very same tensors back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from spectra.adapters.adapter import claim, release
from spectra.adapters.binding import Binding, bind
from spectra.adapters.matching import check_base, match, original_spectra, warn_of_rounding
from spectra.errors import MismatchError
from spectra.families import components
from spectra.layers.per_sample import Samples
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.shift.sums import scaled_sum
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

_SERVED: WeakKeyDictionary[nn.Module, Served] = WeakKeyDictionary()


class Served:
    """The shifts loaded into one model or pipeline.

    Attributes:
        shifts: by the name they were loaded under.
        active: scale by name, of those in force.
    """

    def __init__(self, models: dict[str, nn.Module]) -> None:
        self.models = models
        self.shifts: dict[str, SpectralShift] = {}
        self.active: dict[str, float] = {}
        self.bindings: dict[str, Binding] = {}

    def total(self, scales: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """The sum of scaled deltas by weight, float32 `[r]`."""
        summed = scaled_sum((scale, self.shifts[name]) for name, scale in scales.items())
        return {key: torch.from_numpy(total).to(torch.float32) for key, total in summed.items()}

    def activate(self, scales: Mapping[str, float]) -> None:
        """Put exactly these shifts in force; all of the new weights are made before the first is put in."""
        ready = {key: self.bindings[key].prepare(total) for key, total in self.total(scales).items()}
        for key, binding in self.bindings.items():
            if key in ready:
                binding.apply(ready[key])
            else:
                binding.restore()
        self.active = dict(scales)

    def route(self, scales: Sequence[Mapping[str, float]], images: int) -> None:
        """Let every sample of a batch take its own sum of shifts, through the factored plan."""
        wanted = [tuple(sorted(each.items())) for each in scales]
        distinct = list(dict.fromkeys(wanted))
        rows = torch.tensor([distinct.index(each) for each in wanted])
        samples, totals = Samples(rows, images), [self.total(dict(each)) for each in distinct]
        for key, binding in self.bindings.items():
            if not any(key in total for total in totals):
                continue
            if "relative_attention_bias" in key:
                raise MismatchError(
                    f"{key} is a table of relative positions, of which a batch has one for all samples; activate one "
                    "shift at a time, or train without that weight"
                )
            nothing = torch.zeros(binding.target.delta_length)
            deltas = torch.stack([total.get(key, nothing) for total in totals])
            binding.route(deltas.to(binding.target.weight.device), samples)

    def restore(self) -> None:
        """The base's own weights, everywhere."""
        for binding in self.bindings.values():
            binding.restore()


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
        pipe: a diffusers pipeline, a mapping of components, or a bare model, with plain weights in memory.
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
    served = _find(models)
    if served is not None and name in served.shifts:
        raise MismatchError(f"a shift named {name!r} is loaded already; choose another name or unload it first")
    known = {} if served is None else served.bindings
    chosen = match(shift, name, models, known)
    check = check_base(shift, name, chosen, known, strict)
    if served is None:
        touched = {part: model for part, model in models.items() if any(k.startswith(part + ".") for k in shift)}
        claim(touched, "serving")
        served = Served(touched)
    try:
        unbound = {key: target for key, target in chosen.items() if key not in known}
        originals = original_spectra(shift, unbound, check.matches, cache, progress)
        fresh = bind(unbound.values(), cache, progress, originals)
        warn_of_rounding(check, {**known, **fresh})
        missing = {key.split(".")[0] for key in fresh} - set(served.models)
        more = {part: models[part] for part in missing}
        claim(more, "serving")
    except BaseException:
        if not served.shifts:
            release(served.models)
        raise
    served.models |= more
    served.bindings |= fresh
    served.shifts[name] = shift
    _SERVED.update((model, served) for model in served.models.values())
    return name


def activate(pipe: Any, scales: Mapping[str, float] | str) -> None:
    """Put loaded shifts in force: `ReLU(sigma + sum of scale * delta)`, and no others. `{}` gives the base.

    Args:
        pipe: as given to `load`.
        scales: scale by name, or one name at scale 1.

    Raises:
        MismatchError: a name that is not loaded; nothing changes then.
    """
    served = _find(components(pipe))
    checked = _scales(served, scales)
    if served is not None:
        served.activate(checked)


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
        MismatchError: a name that is not loaded, a weight that a batch shares (T5's table of relative positions), or,
            by a forward, a batch that is no multiple of the samples.
    """
    served = _find(components(pipe))
    checked = [_scales(served, each) for each in scales]
    if not checked or images_per_prompt < 1:
        raise MismatchError(
            f"per_sample expects the shifts of at least one sample and images_per_prompt of at least 1, got "
            f"{len(checked)} samples and images_per_prompt={images_per_prompt}"
        )
    if served is None:
        yield
        return
    with disabled(pipe):
        try:
            served.route(checked, images_per_prompt)
            yield
        finally:
            served.restore()


def _scales(served: Served | None, scales: Mapping[str, float] | str) -> dict[str, float]:
    """Scale by name, each of a loaded shift and finite."""
    scales = {scales: 1.0} if isinstance(scales, str) else dict(scales)
    loaded = [] if served is None else sorted(served.shifts)
    for name, scale in scales.items():
        if name not in loaded:
            raise MismatchError(f"no shift named {name!r} is loaded; loaded: {', '.join(loaded) or 'none'}")
        if not torch.isfinite(torch.tensor(float(scale))):
            raise MismatchError(f"expected a finite scale for {name!r}, got {scale}")
    return scales


def loaded(pipe: Any) -> dict[str, float]:
    """The names of the loaded shifts, each with its scale; 0 if it is not active."""
    served = _find(components(pipe))
    return {} if served is None else {name: served.active.get(name, 0.0) for name in served.shifts}


@contextmanager
def disabled(pipe: Any) -> Iterator[None]:
    """The frozen base within the block; afterwards what was active before."""
    served = _find(components(pipe))
    if served is None:
        yield
        return
    held = [(binding, binding.applied) for binding in served.bindings.values()]
    served.restore()
    try:
        yield
    finally:
        for binding, applied in held:
            if applied is not None:
                binding.apply(applied)


def unload(pipe: Any, name: str | None = None) -> None:
    """Forget one shift, or all of them. With the last one gone the model is the base again, bit for bit.

    Raises:
        MismatchError: `name` is not loaded.
    """
    served = _find(components(pipe))
    if served is None or (name is not None and name not in served.shifts):
        if name is not None:
            known = "none" if served is None else ", ".join(sorted(served.shifts))
            raise MismatchError(f"no shift named {name!r} is loaded; loaded: {known}")
        return
    if name is not None and len(served.shifts) > 1:
        if name in served.active:
            served.activate({key: scale for key, scale in served.active.items() if key != name})
        del served.shifts[name]
        return
    served.restore()
    for model in served.models.values():
        _SERVED.pop(model, None)
    release(served.models)


def _find(models: Mapping[str, nn.Module]) -> Served | None:
    return next((_SERVED[model] for model in models.values() if model in _SERVED), None)
