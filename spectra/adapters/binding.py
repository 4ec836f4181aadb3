"""One weight of a live model, bound to what a shift needs to change it and to what undoes the change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from spectra.compatibility.rounded_bases import Fingerprints
from spectra.errors import WeightError
from spectra.families import Target
from spectra.layers.low_memory import Spool, TwoSidedLayer
from spectra.layers.operators import operator_of
from spectra.layers.per_sample import SampledLayer, SampledVector, Samples
from spectra.layers.shifted_layer import ShiftedLayer, ShiftedVector
from spectra.progress import SILENT, Progress
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.shifted_weight import shifted_vector, shifted_weight
from spectra.spectrum.spectrum import Spectrum, placeholder, valueless


class Binding:
    """A weight, its spectrum (None for 1-D), and the two ways to shift it: route the forward, or replace the weight.

    Attributes:
        target: name, modules and frozen parameter.
        spectrum: the weight's own, or that of the weight it is a rounded copy of.
        fingerprints: of the frozen weight.
        applied: what `apply` put in force, None if nothing is.
        routes: the layers that compute in the modules' place, if they are routed.
        spool: where the weight's values are, if the modules compute without them.
    """

    def __init__(self, target: Target, spectrum: Spectrum | None, fingerprints: Fingerprints | None = None) -> None:
        self.target = target
        self.spectrum = spectrum
        self.fingerprints = fingerprints or Fingerprints.of(target.weight, target.name)
        self.applied: Tensor | None = None
        self._routed: list[tuple[nn.Module, Any]] = []
        self.routes: list[ShiftedLayer | ShiftedVector | TwoSidedLayer] = []
        self.spool: Spool | None = None

    def prepare(self, delta: Tensor) -> Tensor:
        """What `apply` will put in force for `delta` (float, `[r]`); nothing changes yet.

        A parameter: the shifted weight, made once, on the weight's device and in its dtype (the frozen parameter
        itself where delta is zero); it requires a gradient if that does, for which a compiled graph would be made
        again. A plain tensor: delta, for a table of which a forward gathers a few rows only.
        """
        weight = self.target.weight
        delta = delta.to(weight.device)
        if not bool(delta.any()):
            return weight
        if self.spectrum is None:
            return nn.Parameter(shifted_vector(weight.detach(), delta), weight.requires_grad)
        if self.spectrum.side == "right" and all(isinstance(module, nn.Embedding) for module in self.target.modules):
            return delta
        shifted = shifted_weight(weight.detach(), self.spectrum.to(weight.device), delta)
        return nn.Parameter(shifted, weight.requires_grad)

    def apply(self, prepared: Tensor) -> None:
        """Put what `prepare` made in force, in place of whatever was; `restore` undoes it."""
        self.restore()
        if prepared is self.target.weight:
            return
        if isinstance(prepared, nn.Parameter):
            self._put(prepared)
        else:
            self.route(prepared)
        self.applied = prepared

    def restore(self) -> None:
        """Give the modules their frozen parameter and their own forward back: the same objects, the same bits."""
        if isinstance(self.applied, nn.Parameter):
            frozen = self.target.weight
            if (frozen.device, frozen.dtype) != (self.applied.device, self.applied.dtype):
                # The model was moved or cast meanwhile; the frozen weight follows.
                frozen.data = frozen.data.to(self.applied.device, self.applied.dtype)
            self._put(frozen)
        self.unroute()
        self.applied = None

    def route(self, delta: Tensor, samples: Samples | None = None) -> None:
        """Let the modules compute with `delta` through the plans; `unroute` undoes it.

        Args:
            delta: `[r]`, or `[shifts, r]` with `samples`, which say the row that each sample of a batch takes.
        """
        for module in self.target.modules:
            layer: ShiftedLayer | ShiftedVector | TwoSidedLayer
            if samples is not None:
                layer = (
                    SampledVector(module, delta, samples)
                    if self.spectrum is None
                    else SampledLayer(module, self.spectrum, delta, samples)
                )
            elif self.spectrum is None:
                layer = ShiftedVector(module, delta)
            else:
                layer = ShiftedLayer(module, self.spectrum, delta)
            self.routes.append(layer)
            self._routed.append((module, module.__dict__.get("forward")))
            module.forward = layer.forward

    def route_both_sides(self, delta: Tensor, spool: Spool) -> None:
        """`route` by both sides of the spectrum, with the weight's values in the spool until `unroute`.

        Where a module is no plain operator, or the weight has one dimension, it is `route` itself.
        """
        if self.spectrum is None or any(operator_of(module) is None for module in self.target.modules):
            return self.route(delta)
        for module in self.target.modules:
            layer = TwoSidedLayer(module, self.spectrum, delta)
            self.routes.append(layer)
            self._routed.append((module, module.__dict__.get("forward")))
            module.forward = layer.forward
        if not valueless(self.target.weight):
            self.fingerprints.rounded()  # while the weight has its values: a shift file tells them
        self.spool = spool
        spool.take(self.target.weight)

    def pause(self, paused: bool) -> None:
        """Let the modules compute with the frozen weight for a while (True), or with delta again (False)."""
        for (module, previous), layer in zip(self._routed, self.routes, strict=True):
            if isinstance(layer, TwoSidedLayer):
                layer.paused = paused
            elif not paused:
                module.forward = layer.forward
            else:
                _reset_forward(module, previous)

    def unroute(self) -> None:
        """Give the modules their own forward back."""
        for module, previous in self._routed:
            _reset_forward(module, previous)
        self._routed, self.routes = [], []
        if self.spool is not None:
            self.spool.give_back(self.target.weight)
            self.spool = None

    def _put(self, parameter: nn.Parameter) -> None:
        for module in self.target.modules:
            module._parameters["weight"] = parameter


def _reset_forward(module: nn.Module, previous: Any) -> None:
    if previous is None:
        module.__dict__.pop("forward", None)
    else:
        module.forward = previous


def bind(
    targets: Iterable[Target],
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
    originals: Mapping[str, Spectrum] = MappingProxyType({}),
) -> dict[str, Binding]:
    """Bindings by name, with spectra from the cache (computed and stored where it lacks them).

    Args:
        targets: what to bind.
        cache: where spectra are kept; the user's by default.
        progress: told of each spectrum.
        originals: spectra to take in place of the weights' own, by name (`matching.original_spectra`).

    Raises:
        WeightError: a weight that is not plain floating point in memory, or not finite.
    """
    chosen = {target.name: target for target in targets}
    for name, target in chosen.items():
        check_plain(name, target.weight)
    matrices = {name: t.weight for name, t in chosen.items() if t.weight.ndim > 1 and name not in originals}
    spectra: Mapping[str, Spectrum] = (cache or default_cache()).spectra(matrices, progress) if matrices else {}
    return {
        name: Binding(
            target, originals.get(name, spectra.get(name)), Fingerprints.of(target.weight, name, spectra.get(name))
        )
        for name, target in chosen.items()
    }


def bind_shapes(targets: Iterable[Target], tail: float | None) -> dict[str, Binding]:
    """Bindings of weights without values, with spectra that have none either (`placeholder`), and no fingerprint."""
    return {
        target.name: Binding(target, placeholder(target.weight, tail) if target.weight.ndim > 1 else None)
        for target in targets
    }


def check_plain(name: str, weight: Tensor) -> None:
    """Refuse what cannot be shifted: meta tensors of an offloaded model, quantised weights."""
    if weight.device.type == "meta":
        raise WeightError(
            f"{name}: the weight is on the meta device and has no values; load the base first, and turn on "
            "sequential offloading after the shift is active"
        )
    if not weight.dtype.is_floating_point or type(weight.data) is not Tensor:
        raise WeightError(
            f"{name}: expected a plain floating-point weight, got {type(weight.data).__name__} of {weight.dtype}; "
            "load the base unquantised"
        )
