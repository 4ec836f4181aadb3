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
from torch import Tensor, nn

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

_LOADED: WeakKeyDictionary[nn.Module, LoadedShifts] = WeakKeyDictionary()


class LoadedShifts:
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

    def total(self, scales: Mapping[str, float]) -> dict[str, Tensor]:
        """The sum of scaled deltas by weight, float32 `[r]`."""
        deltas = scaled_sum((scale, self.shifts[name]) for name, scale in scales.items())
        return {name: torch.from_numpy(delta).to(torch.float32) for name, delta in deltas.items()}

    def activate(self, scales: Mapping[str, float]) -> None:
        """Put exactly these shifts in force; all of the new weights are made before the first is put in."""
        self.check_present()
        ready = {name: self.bindings[name].prepare(delta) for name, delta in self.total(scales).items()}
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
        rows = torch.tensor([distinct.index(each) for each in wanted])
        samples, totals = Samples(rows, images), [self.total(dict(each)) for each in distinct]
        for name, binding in self.bindings.items():
            if not any(name in total for total in totals):
                continue
            if "relative_attention_bias" in name:
                raise MismatchError(
                    f"{name} is a table of relative positions, of which a batch has one for all samples; activate one "
                    "shift at a time, or train without that weight"
                )
            nothing = torch.zeros(binding.target.delta_length)
            deltas = torch.stack([total.get(name, nothing) for total in totals])
            binding.patch(deltas.to(binding.target.weight.device), samples)

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
    shifts_in = _find(models)
    if shifts_in is not None and name in shifts_in.shifts:
        raise MismatchError(f"a shift named {name!r} is loaded already; choose another name or unload it first")
    known = {} if shifts_in is None else shifts_in.bindings
    chosen = match(shift, name, models, known)
    check = check_base(shift, name, chosen, known, strict)
    if shifts_in is None:
        touched = {part: model for part, model in models.items() if any(k.startswith(part + ".") for k in shift)}
        claim(touched, "serving")
        shifts_in = LoadedShifts(touched)
    try:
        unbound = {key: target for key, target in chosen.items() if key not in known}
        originals = original_spectra(shift, unbound, check.matches, cache, progress)
        fresh = bind(unbound.values(), cache, progress, originals)
        warn_of_rounding(check, {**known, **fresh})
        missing = {key.split(".")[0] for key in fresh} - set(shifts_in.models)
        more = {part: models[part] for part in missing}
        claim(more, "serving")
    except BaseException:
        if not shifts_in.shifts:
            release(shifts_in.models)
        raise
    shifts_in.models |= more
    shifts_in.bindings |= fresh
    shifts_in.shifts[name] = shift
    _LOADED.update((model, shifts_in) for model in shifts_in.models.values())
    return name


def activate(pipe: Any, scales: Mapping[str, float] | str) -> None:
    """Put loaded shifts in force: `ReLU(sigma + sum of scale * delta)`, and no others. `{}` gives the base.

    Args:
        pipe: as given to `load`.
        scales: scale by name, or one name at scale 1.

    Raises:
        MismatchError: a name that is not loaded; nothing changes then.
    """
    shifts_in = _find(components(pipe))
    checked = _scales(shifts_in, scales)
    if shifts_in is not None:
        shifts_in.activate(checked)


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
    shifts_in = _find(components(pipe))
    checked = [_scales(shifts_in, each) for each in scales]
    if not checked or images_per_prompt < 1:
        raise MismatchError(
            f"per_sample expects the shifts of at least one sample and images_per_prompt of at least 1, got "
            f"{len(checked)} samples and images_per_prompt={images_per_prompt}"
        )
    if shifts_in is None:
        yield
        return
    with disabled(pipe):
        try:
            shifts_in.patch(checked, images_per_prompt)
            yield
        finally:
            shifts_in.restore()


def _scales(shifts_in: LoadedShifts | None, scales: Mapping[str, float] | str) -> dict[str, float]:
    """Scale by name, each of a loaded shift and finite."""
    scales = {scales: 1.0} if isinstance(scales, str) else dict(scales)
    loaded = [] if shifts_in is None else sorted(shifts_in.shifts)
    for name, scale in scales.items():
        if name not in loaded:
            raise MismatchError(f"no shift named {name!r} is loaded; loaded: {', '.join(loaded) or 'none'}")
        if not torch.isfinite(torch.tensor(float(scale))):
            raise MismatchError(f"expected a finite scale for {name!r}, got {scale}")
    return scales


def loaded(pipe: Any) -> dict[str, float]:
    """The names of the loaded shifts, each with its scale; 0 if it is not active."""
    shifts_in = _find(components(pipe))
    return {} if shifts_in is None else {name: shifts_in.active.get(name, 0.0) for name in shifts_in.shifts}


@contextmanager
def disabled(pipe: Any) -> Iterator[None]:
    """The frozen base within the block; afterwards what was active before."""
    shifts_in = _find(components(pipe))
    if shifts_in is None:
        yield
        return
    held = [(binding, binding.applied) for binding in shifts_in.bindings.values()]
    shifts_in.restore()
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
    shifts_in = _find(components(pipe))
    if shifts_in is None or (name is not None and name not in shifts_in.shifts):
        if name is not None:
            known = "none" if shifts_in is None else ", ".join(sorted(shifts_in.shifts))
            raise MismatchError(f"no shift named {name!r} is loaded; loaded: {known}")
        return
    if name is not None and len(shifts_in.shifts) > 1:
        if name in shifts_in.active:
            shifts_in.activate({key: scale for key, scale in shifts_in.active.items() if key != name})
        del shifts_in.shifts[name]
        return
    shifts_in.restore()
    for model in shifts_in.models.values():
        _LOADED.pop(model, None)
    release(shifts_in.models)


def _find(models: Mapping[str, nn.Module]) -> LoadedShifts | None:
    return next((_LOADED[model] for model in models.values() if model in _LOADED), None)
