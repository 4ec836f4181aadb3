"""Training on a live model: deltas that are parameters, with which the model computes.

    adapter = spectra.attach(pipe, "unet-ca")
    parameters = adapter.train()             # name -> nn.Parameter, all zero: the model is still the base
    ...                                      # any optimizer, any loop
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
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import register_optimizer_step_post_hook

from spectra.adapters.binding import Binding, bind
from spectra.compatibility.base_check import BaseCheck, compare
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.errors import MismatchError
from spectra.families import Target, components, targets
from spectra.io.dtypes import dtype_name
from spectra.layers.per_sample import Samples
from spectra.layers.saved_elsewhere import watch
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.value_watch import watch_values
from spectra.layers.weight_offload import WeightOffload
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

_ATTACHED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models whose forwards or weights are ours at the moment, and what for."""


def claim(models: Mapping[str, nn.Module], use: str) -> None:
    """Note that `models` are about to be changed for `use`; raise a MismatchError if another use has not ended."""
    for name, model in models.items():
        if model in _ATTACHED:
            end = "adapter.detach()" if _ATTACHED[model] == "training" else "spectra.unload(pipe)"
            raise MismatchError(f"{name} is already in use for {_ATTACHED[model]}; call {end} first")
    _ATTACHED.update((model, use) for model in models.values())


def release(models: Mapping[str, nn.Module]) -> None:
    """Note the end of the use that `claim` noted."""
    for model in models.values():
        _ATTACHED.pop(model, None)


def attach(
    pipe: Any,
    targets: str = "denoiser",
    *,
    low_memory: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Adapter:
    """Make the weights named by `targets` trainable through their spectral shifts.

    Args:
        pipe: a diffusers pipeline, a mapping of components, or a bare model. Its weights stay as they are.
        targets: subset names and patterns, see `spectra.families.target_modules`.
        low_memory: keep `U` and `V` instead of the weights, which go to a file until `detach`; the model then computes
            as the base up to rounding, not bit for bit, at delta = 0. See `spectra.layers.weight_offload`.
        cache: where spectra are kept; the user's by default.
        progress: told of each spectrum.

    Raises:
        TargetError, WeightError, MismatchError (the model is in use already), OutputError (no room for the file).
    """
    return Adapter(pipe, targets, lambda chosen: bind(chosen, cache, progress), low_memory)


class Adapter:
    """Deltas bound to a live model. The model computes with them until `detach`.

    Attributes:
        deltas: float32 parameters by weight name, zero at first.
        subset: the targets as they were given.
    """

    def __init__(
        self,
        pipe: Any,
        subset: str,
        bind: Callable[[Sequence[Target]], dict[str, Binding]],
        low_memory: bool = False,
    ) -> None:
        self.subset = subset
        parts = components(pipe)
        chosen = targets(pipe, subset)
        names = {component_of(target.name) for target in chosen}
        self._models = {name: model for name, model in parts.items() if name in names}
        self._required = [(p, p.requires_grad) for model in parts.values() for p in model.parameters()]
        self._bindings: dict[str, Binding] = {}
        self._watches = ExitStack()
        claim(self._models, "training")
        self._step_watch = weakref.finalize(self, _watch_steps(weakref.WeakMethod(self.changed)))
        try:
            self._bindings = bind(chosen)
            self.deltas = {
                name: nn.Parameter(torch.zeros(binding.target.delta_length, device=binding.target.weight.device))
                for name, binding in self._bindings.items()
            }
            self._in_use: Mapping[str, Tensor] = self.deltas
            for parameter, _ in self._required:
                parameter.requires_grad_(False)
            self._offload = WeightOffload() if low_memory else None
            self.patch()
        except BaseException:
            self.detach()
            raise

    def patch(self, deltas: Mapping[str, Tensor] | None = None, samples: Samples | None = None) -> None:
        """Let the model compute with `deltas`, the adapter's own by default.

        Args:
            deltas: by weight name, `[r]`, or `[shifts, r]` with `samples`.
            samples: which row each sample of a batch takes.
        """
        self._in_use = deltas or self.deltas
        self._watches.close()
        # A norm that asks whose sample it has cannot be called again later.
        self._watches.callback(watch(self._models.values(), norms=samples is None))
        by_model = {
            model: [delta for name, delta in self._in_use.items() if name.startswith(f"{part}.")]
            for part, model in self._models.items()
        }
        self._watches.callback(watch_values(by_model))
        for name, binding in self._bindings.items():
            binding.unpatch()
            binding.patch(self._in_use[name], samples, self._offload)

    def changed(self) -> None:
        """Say that deltas have other values. Fused optimizers need it: they leave a tensor's version as it is."""
        increment_version(list(self._in_use.values()))

    def train(self) -> dict[str, nn.Parameter]:
        """Turn gradients on, and let the cost model choose each layer's plan. Returns `deltas`."""
        self._mode(training=True)
        return self.deltas

    def eval(self) -> Adapter:
        """Turn gradients off, and make each shifted weight once instead of computing with delta in every forward."""
        self._mode(training=False)
        return self

    def layers(self) -> list[ShiftedLayer]:
        """The layers that compute with a delta and have a choice of plans."""
        return [
            layer for binding in self._bindings.values() for layer in binding.layers if isinstance(layer, ShiftedLayer)
        ]

    def _mode(self, *, training: bool) -> None:
        for delta in self.deltas.values():
            delta.requires_grad_(training)
        for layer in self.layers():
            # A table of thousands of rows is not made anew for the few that a prompt gathers.
            keep = training or isinstance(layer.module, nn.Embedding)
            layer.plan = None if keep else "materialized"
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
        """Copy the values of a shift (or of any mapping name -> `[r]`) into the deltas.

        Raises:
            MismatchError: other names or lengths than this adapter's; nothing is copied then.
        """
        odd = sorted(set(shift) ^ set(self.deltas))
        if odd:
            raise MismatchError(f"expected the {len(self.deltas)} weights of {self.subset!r}; {odd[0]} is not in both")
        values = {name: v if isinstance(v, Tensor) else torch.tensor(v) for name, v in shift.items()}
        for name, value in values.items():
            if value.shape != self.deltas[name].shape:
                raise MismatchError(f"{name}: expected {len(self.deltas[name])} floats, got shape {list(value.shape)}")
        with torch.no_grad():
            for name, value in values.items():
                self.deltas[name].copy_(value)

    def compare(self, shift: SpectralShift, label: str) -> BaseCheck:
        """How this model's weights compare with those that a shift was trained on, for the deltas that both have."""
        return compare(shift, label, {name: binding.fingerprints for name, binding in self._bindings.items()})

    def shift(self, **metadata: Any) -> SpectralShift:
        """The deltas as they are now, as plain data.

        Args:
            metadata: fields of `ShiftMetadata`: base, settings, seed, versions, licence, parents. Fingerprints,
                dtype and subset are filled in.
        """
        weights = {name: binding.target.weight for name, binding in self._bindings.items()}
        prints = {name: binding.fingerprints for name, binding in self._bindings.items()}
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            rounded = dict(zip(prints, pool.map(Fingerprints.rounded, prints.values()), strict=True))
        known = {
            "base": "",
            "fingerprints": {name: each.digits()[:FINGERPRINT_DIGITS] for name, each in prints.items()},
            "base_dtype": dtype_name(next(iter(weights.values())).dtype),
            "ndims": {name: weight.ndim for name, weight in weights.items()},
            "rounded": {dtype: {name: each[dtype] for name, each in rounded.items()} for dtype in ROUNDED},
            "subset": self.subset,
        }
        unknown = set(metadata) - {field.name for field in fields(ShiftMetadata)}
        if unknown:
            raise TypeError(f"unknown metadata: {', '.join(sorted(unknown))}")
        deltas = {name: delta.detach().cpu().numpy() for name, delta in self.deltas.items()}
        return SpectralShift(deltas, ShiftMetadata(**{**known, **metadata}))

    def detach(self) -> None:
        """Give the model back as it was: its own forwards, weights and gradient flags. Can be called twice."""
        for binding in self._bindings.values():
            binding.unpatch()
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        self._required = []
        self._step_watch()
        self._watches.close()
        release(self._models)
        self._models = {}  # detached again, it must not end the use that another has begun


def _watch_steps(changed: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Call `changed`, as long as it lives, after every optimizer's step, until what is returned is called."""

    def stepped(*_: Any) -> None:
        if (call := changed()) is not None:
            call()

    remove: Callable[[], None] = register_optimizer_step_post_hook(stepped).remove
    return remove
