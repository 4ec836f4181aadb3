"""Training on a live model: deltas that are parameters, with which the model computes.

    adapter = spectra.attach(pipe, "unet-ca", directions=32, outer=1)
    optimizer = AdamW(adapter.parameters())  # then any loop that calls the model; nothing changes before its first step
    shift = adapter.shift(subset="unet-ca")
    adapter.detach()                         # the base, bit for bit

For using shifts that exist, see `spectra.adapters.loaded_shifts`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from spectra.adapters.bind import bind, warn_of_quantised_spectra
from spectra.adapters.binding import Binding, Layer
from spectra.adapters.live_parameters import (
    Form,
    changes,
    leading,
    make_parameters,
    register,
    split_key,
    to_shift_parts,
    values_of,
)
from spectra.adapters.model_use import claim, release
from spectra.adapters.projections import check_unfused, refuse_fusing
from spectra.compatibility.base_check import BaseCheck, compare
from spectra.compatibility.rounded_bases import Fingerprints, base_dtype
from spectra.errors import InputError
from spectra.families import Target, components, targets
from spectra.layers.per_sample import Samples
from spectra.layers.saved_elsewhere import watch
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.layers.value_watch import watch_steps, watch_values
from spectra.layers.weight_offload import WeightOffload
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

Bind: TypeAlias = Callable[[Sequence[Target], Mapping[str, int]], dict[str, Binding]]
"""Makes bindings of targets, with as many directions of each weight as are asked for: `bind.bind`."""

ALL_DIRECTIONS = Form()


def attach(
    pipe: Any,
    targets: str = "denoiser",
    directions: int | Mapping[str, Sequence[int]] | None = None,
    outer: int | Mapping[str, int] = 0,
    words: Mapping[str, Sequence[int]] | None = None,
    *,
    low_memory: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Adapter:
    """Make the weights named by `targets` trainable through their spectral shifts.

    Args:
        pipe: a diffusers pipeline, a mapping of components, or a bare model. Its weights stay as they are.
        targets: subset names and patterns, see `spectra.families.target_modules`.
        directions: how many singular directions of each weight move, the leading ones; all by default. A mapping says
            by weight name which do.
        outer: how many outer terms each matrix and convolution gets; a mapping by name, 0 where it lacks one.
        words: token ids of the special word, by the name of the token embedding; each gets a vector.
        low_memory: keep `U` and `V` instead of the weights, which go to a file until `detach`; the model then computes
            as the base up to rounding, not bit for bit, at delta = 0. See `spectra.layers.weight_offload`. For shifts
            of all directions without terms.
        cache: where spectra are kept; the user's by default.
        progress: told of each spectrum.

    Raises:
        TargetError, WeightError, MismatchError (the model is in use already), OutputError (no room for the file),
        InputError (a form that no weight can have).
    """
    form = Form(directions, outer, words or {})
    return attach_form(pipe, targets, form, low_memory=low_memory, cache=cache, progress=progress)


def attach_form(
    pipe: Any,
    targets: str,
    form: Form,
    *,
    low_memory: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Adapter:
    """`attach` with all that can be said of what moves."""
    if low_memory and form != Form(vectors=form.vectors):
        raise InputError("low memory keeps both sides of all directions: leave it out, or directions, outer and words")
    return Adapter(pipe, targets, partial(bind, cache=cache, progress=progress), form, low_memory)


class Adapter(nn.Module):
    """Parameters bound to a live model. The model computes with them until `detach`.

    A module beside the model: `parameters()` and `state_dict()` are the deltas alone, under the names of a shift file.
    Called, it calls the model (a pipeline's denoiser), so that what wraps a module in training can wrap this one.

    Attributes:
        by_key: the parameters, float32, by `<weight name>.<part>` (see `live_parameters`); all change nothing at first.
        deltas: those of them that are deltas, by weight name.
        subset: the targets as they were given.
        apart: no weight is whole in one place, so that a model that draws computes beside it, too.
    """

    def __init__(
        self, pipe: Any, subset: str, bind: Bind, form: Form = ALL_DIRECTIONS, low_memory: bool = False
    ) -> None:
        super().__init__()
        self.apart = False
        self.subset = subset
        parts = components(pipe)
        by_subset = {target.name for target in targets(pipe, subset)}
        chosen = targets(pipe, ",".join([subset, *form.words]))
        self._forms = {each.name: form.of(each, word_only=each.name not in by_subset) for each in chosen}
        names = {component_of(target.name) for target in chosen}
        self._models = {name: model for name, model in parts.items() if name in names}
        self._required = [(p, p.requires_grad) for model in parts.values() for p in model.parameters()]
        self._bindings: dict[str, Binding] = {}
        self._watches = ExitStack()
        check_unfused(self._models.values())
        claim(self._models)
        self._step_watch = weakref.finalize(self, watch_steps(weakref.WeakMethod(self.changed)))
        try:
            self.by_key = make_parameters(chosen, self._forms)
            for key, parameter in self.by_key.items():
                register(self, key, parameter)
            trained = {split_key(key)[0] for key in self.by_key}
            self._bindings = bind([each for each in chosen if each.name in trained], leading(self._forms))
            for name, binding in self._bindings.items():
                binding.choose(self._forms[name].directions)
            warn_of_quantised_spectra(self._bindings)
            self._in_use: Mapping[str, Tensor] = self.by_key
            for parameter, _ in self._required:
                parameter.requires_grad_(False)
            self._offload = WeightOffload() if low_memory else None
            self.patch()
        except BaseException:
            self.detach()
            raise

    @property
    def deltas(self) -> dict[str, nn.Parameter]:
        """The deltas among the parameters, by weight name."""
        keys = {key: split_key(key) for key in self.by_key}
        return {name: self.by_key[key] for key, (name, part) in keys.items() if part == "delta"}

    def weight(self, name: str) -> Tensor:
        """The frozen weight of this name, as it is stored."""
        return self._bindings[name].target.weight

    def shape(self, name: str) -> torch.Size:
        """The shape of this weight."""
        return self._bindings[name].target.shape

    def patch(self, parameters: Mapping[str, Tensor] | None = None, samples: Samples | None = None) -> None:
        """Let the model compute with `parameters`, the adapter's own by default.

        Args:
            parameters: by key, shaped like the adapter's, or with a row for each shift and `samples`.
            samples: which row each sample of a batch takes.
        """
        self._in_use = parameters or self.by_key
        self._watches.close()
        # A norm that asks whose sample it has cannot be called again later.
        self._watches.callback(watch(self._models.values(), norms=samples is None))
        by_model = {
            model: [value for key, value in self._in_use.items() if key.startswith(f"{part}.")]
            for part, model in self._models.items()
        }
        self._watches.callback(watch_values(by_model))
        refuse_fusing(self._models.values(), True)
        for name, change in changes(self._in_use, self._forms).items():
            self._bindings[name].unpatch()
            self._bindings[name].patch(change, samples, self._offload)

    def changed(self) -> None:
        """Say that deltas have other values. Fused optimizers need it: they leave a tensor's version as it is."""
        increment_version(list(self._in_use.values()))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the first of the models, a pipeline's denoiser, returns."""
        return next(iter(self._models.values()))(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Turn gradients on, and let the cost model choose each layer's plan.

        With `mode` False, as `eval()` calls it, turn them off, and make each changed weight once instead of computing
        the change in every forward.
        """
        super().train(mode)
        self._mode(training=mode)
        return self

    def layers(self) -> list[ShiftedLayer]:
        """The layers that compute with a delta of all directions and have a choice of plans."""
        return [layer for layer in self._layers() if isinstance(layer, ShiftedLayer)]

    def _layers(self) -> list[Layer]:
        return [layer for binding in self._bindings.values() for layer in binding.layers]

    def _mode(self, *, training: bool) -> None:
        for parameter in self.by_key.values():
            parameter.requires_grad_(training)
        for layer in self._layers():
            if isinstance(layer, ShiftedVector):
                continue
            # A table of thousands of rows is not made anew for the few that a prompt gathers.
            keep = training or self.apart or isinstance(layer.module, nn.Embedding)
            if isinstance(layer, ShiftedLayer):
                layer.plan = None if keep else "materialized"
            else:
                layer.made_once = not keep
            layer.forget()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The frozen base, within the block."""
        for binding in self._bindings.values():
            binding.pause(True)
        try:
            yield
        finally:
            for binding in self._bindings.values():
                binding.pause(False)

    def set(self, shift: Mapping[str, Any]) -> None:
        """Copy the values of a shift, or of any mapping from names to deltas, into the parameters.

        Raises:
            MismatchError: other names or lengths than this adapter's, or parts that it has not; nothing is copied then.
        """
        self.copy(values_of(shift, self.by_key, self._bindings, self._forms, self.subset))

    def copy(self, values: Mapping[str, Tensor]) -> None:
        """Copy `values`, by key, into the parameters of these keys."""
        with torch.no_grad():
            for key, value in values.items():
                self.by_key[key].copy_(value)

    def compare(self, shift: SpectralShift, label: str) -> BaseCheck:
        """How this model's weights compare with those that a shift was trained on, for the deltas that both have."""
        return compare(shift, label, {name: binding.fingerprints for name, binding in self._bindings.items()})

    def shift(self, *, word: str = "", **metadata: Any) -> SpectralShift:
        """The parameters as they are now, as plain data.

        Args:
            word: the special word as it stands in prompts, where it has vectors.
            metadata: fields of `ShiftMetadata`: base, settings, seed, versions, licence, parents. Fingerprints,
                dtype and subset are filled in.
        """
        weights = {name: binding.target for name, binding in self._bindings.items()}
        prints = {name: binding.fingerprints for name, binding in self._bindings.items()}
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            rounded = dict(zip(prints, pool.map(Fingerprints.rounded, prints.values()), strict=True))
        known = {
            "base": "",
            "fingerprints": {name: each.digits()[:FINGERPRINT_DIGITS] for name, each in prints.items()},
            "base_dtype": base_dtype(prints.values()),
            "ndims": {name: target.weight.ndim for name, target in weights.items()},
            "rounded": {dtype: {name: each[dtype] for name, each in rounded.items()} for dtype in ROUNDED},
            "subset": self.subset,
        }
        unknown = set(metadata) - {field.name for field in fields(ShiftMetadata)}
        if unknown:
            raise TypeError(f"unknown metadata: {', '.join(sorted(unknown))}")
        deltas, outer, words = to_shift_parts(self._bindings, self.by_key, self._forms, word)
        return SpectralShift(deltas, ShiftMetadata(**{**known, **metadata}), outer=outer, words=words)

    def detach(self) -> None:
        """Give the model back as it was: its own forwards, weights and gradient flags. Can be called twice."""
        for binding in self._bindings.values():
            binding.unpatch()
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        self._required = []
        self._step_watch()
        self._watches.close()
        refuse_fusing(self._models.values(), False)
        release(self._models)
        self._models = {}  # detached again, it must not end the use that another has begun
