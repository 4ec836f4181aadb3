"""One weight of a live model, bound to what a shift needs to change it and to what undoes the change.

A plain weight is replaced by its changed value where one change serves all samples. A quantised one is never: there the
change is a term beside the module's own product, in a patched forward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from torch import Tensor, nn

from spectra.adapters.forward_patch import ForwardPatch, patch_forward, unpatch
from spectra.adapters.lazy_values import LazyValues
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.errors import WeightError
from spectra.families import Target
from spectra.layers.change import Change
from spectra.layers.changed_weight import SomeDirections, changed_weight
from spectra.layers.frozen_operators import operator_of
from spectra.layers.low_rank_layer import LowRankLayer
from spectra.layers.per_sample import SampledLayer, SampledVector, Samples
from spectra.layers.sampled_low_rank import SampledLowRankLayer
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.layers.weight_offload import WeightOffload
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.shifted_weight import shifted_vector
from spectra.spectrum.spectrum import Spectrum, has_no_values

WeightSpectrum: TypeAlias = Spectrum | PartialSpectrum
Prepared: TypeAlias = nn.Parameter | Change
Layer: TypeAlias = LowRankLayer | ShiftedLayer | ShiftedVector


class Binding:
    """A weight, what is known of its spectrum, and two ways to shift it: patch forwards, or replace the weight.

    Attributes:
        target: name, modules and frozen parameter.
        spectrum: the weight's own, or that of the weight it is a rounded copy of: whole, or as many directions as the
            deltas have; None for a 1-D weight, and where no direction changes.
        fingerprints: of the frozen weight.
        applied: what `apply` put in force, a parameter or, beside a quantised weight, a change; None if nothing.
        layers: what computes in the modules' place, if they are patched.
    """

    def __init__(
        self, target: Target, spectrum: WeightSpectrum | None, fingerprints: Fingerprints | None = None
    ) -> None:
        self.target = target
        self.spectrum: WeightSpectrum | SomeDirections | None = spectrum
        self.fingerprints = fingerprints or target_fingerprints(target, spectrum)
        self.applied: Prepared | None = None
        self.layers: list[Layer] = []
        self._patches: list[ForwardPatch] = []
        self._offload: WeightOffload | None = None

    def check_present(self) -> None:
        """Raise a WeightError if another library has offloaded the weight since, so that it cannot be changed."""
        if self.current.is_meta and not self.target.weight.is_meta:
            raise WeightError(
                f"{self.target.name}: the weight is offloaded; take the offloading out before shifts are changed "
                "(pipe.remove_all_hooks()), and turn it on again afterwards"
            )

    def choose(self, numbers: list[int] | None) -> None:
        """Let deltas be of these directions alone, where the spectrum is not whole and has others too."""
        spectrum = self.spectrum
        if (
            numbers is not None
            and isinstance(spectrum, PartialSpectrum)
            and numbers != list(range(len(spectrum.sigma)))
        ):
            self.spectrum = SomeDirections.of(spectrum, numbers)

    def fitted(self, change: Change) -> Change:
        """A change with a delta `[r]`, or as long as the directions that are known, which are all that it changes."""
        if change.delta is None or self.spectrum is None or isinstance(self.spectrum, Spectrum):
            return change
        return replace(change, delta=change.delta[: len(self.spectrum.sigma)])

    def take_over(self, other: Binding) -> None:
        """Know of the same weight what another binding has put in force: this one takes its place."""
        self.fingerprints = other.fingerprints
        self._patches, self.layers, self.applied = other._patches, other.layers, other.applied
        if isinstance(self.applied, Change) and self.applied.delta is not None:
            delta = self.applied.delta  # of the leading directions that the other one knew
            longer = delta.new_zeros(len(self.spectrum.sigma) if self.spectrum else 0)
            longer[: len(delta)] = delta
            self.applied = replace(self.applied, delta=longer)

    def changed(self, change: Change) -> Tensor:
        """The weight with its change, in its own shape and dtype; the frozen parameter where nothing changes."""
        weight = self.target.weight
        if weight.ndim > 1:
            return changed_weight(weight, self.spectrum and self.spectrum.to(weight.device), change)
        if change.delta is None or (not change.delta.requires_grad and not bool(change.delta.any())):
            return weight
        return shifted_vector(weight, change.delta)

    def prepare(self, change: Change) -> Prepared:
        """What `apply` will put in force for a change without samples; nothing changes yet.

        A parameter requires a gradient if the frozen one does, for which a compiled graph would be made again.
        """
        weight = self.target.weight
        if self.target.quantised:
            return weight if change.changes_nothing else change.map(lambda tensor: tensor.to(weight.device))
        changed = self.changed(change.map(lambda tensor: tensor.to(weight.device)))
        if changed is weight:
            return weight
        return nn.Parameter(changed.detach().to(self.current.device), weight.requires_grad)

    def apply(self, prepared: Prepared) -> None:
        """Put what `prepare` made in force, in place of whatever was; `restore` undoes it."""
        self.restore()
        if prepared is self.target.weight:
            return
        if isinstance(prepared, Change):
            self.patch(prepared)
        else:
            self._put(prepared)
        self.applied = prepared

    def restore(self) -> None:
        """Give the modules their frozen parameter and their own forward back: the same objects, the same bits."""
        if isinstance(self.applied, nn.Parameter):
            frozen, current = self.target.weight, self.current
            if (frozen.device, frozen.dtype) != (current.device, current.dtype):
                # The model was moved or cast meanwhile; the frozen weight follows.
                frozen.data = frozen.data.to(current.device, current.dtype)
            self._put(frozen)
        self.unpatch()
        self.applied = None

    def patch(self, change: Change, samples: Samples | None = None, offload: WeightOffload | None = None) -> None:
        """Let the modules compute with `change`; `unpatch` undoes it.

        Args:
            change: with `samples`, its tensors have a row for each shift, and these say which one a sample takes.
            offload: takes the weight's values until `unpatch`, if all modules can compute by both sides alone.
        """
        without_weight = (
            offload is not None
            and samples is None
            and isinstance(self.spectrum, Spectrum)
            and change.a is None
            and change.word is None
            and all(operator_of(module) is not None for module in self.target.modules)
        )
        lendable = samples is None and not without_weight and not self.target.quantised
        lent = (lambda: self.changed(change)) if lendable else None
        for module in self.target.modules:
            layers = self._layers(module, change, samples, without_weight)
            patch = patch_forward(module, layers[0].forward, lent)
            patch.offloaded = without_weight
            self.layers += layers
            self._patches.append(patch)
        if offload is not None and without_weight:
            if not has_no_values(self.target.weight):
                self.fingerprints.rounded()  # while the weight has its values: a shift file tells them
            self._offload = offload
            offload.offload(self.target.weight)

    def _layers(self, module: nn.Module, change: Change, samples: Samples | None, without_weight: bool) -> list[Layer]:
        """What computes in the module's place, and what that calls for a delta of all directions."""
        delta = change.delta
        if self.target.weight.ndim == 1:
            if delta is None:
                raise ValueError(f"{self.target.name}: expected a delta for a 1-D weight, got none")
            return [ShiftedVector(module, delta) if samples is None else SampledVector(module, delta, samples)]
        inner: list[ShiftedLayer] = []
        if delta is not None and isinstance(self.spectrum, Spectrum):
            if samples is None:
                inner = [ShiftedLayer(module, self.spectrum, delta, without_weight=without_weight)]
            else:
                inner = [SampledLayer(module, self.spectrum, delta, samples)]
            if change.a is None and change.word is None:
                return [*inner]
        spectrum = None if delta is None else self.spectrum
        shifted = inner[0] if inner else None
        if samples is None:
            return [LowRankLayer(module, change, spectrum, shifted), *inner]
        return [SampledLowRankLayer(module, change, samples, spectrum, shifted), *inner]

    def pause(self, paused: bool) -> None:
        """Let the modules compute with the frozen weight for a while (True), or with delta again (False)."""
        without_weight = [layer for layer in self.layers if isinstance(layer, ShiftedLayer) and layer.without_weight]
        for layer in without_weight:
            layer.paused = paused
        for patch in [] if without_weight else self._patches:
            patch.paused = paused

    def unpatch(self) -> None:
        """Give the modules their own forward back."""
        for patch in self._patches:
            unpatch(patch)
        self._patches, self.layers = [], []
        if self._offload is not None:
            self._offload.restore(self.target.weight)
            self._offload = None

    @property
    def current(self) -> Tensor:
        """The weight that the modules have now: another object than the frozen one where a hook has moved it."""
        weight: Tensor = self.target.modules[0].weight  # type: ignore[assignment]
        return weight

    def _put(self, parameter: nn.Parameter) -> None:
        for module in self.target.modules:
            module._parameters["weight"] = parameter


def target_fingerprints(target: Target, spectrum: WeightSpectrum | None = None) -> Fingerprints:
    """The fingerprints of what a weight is to a shift; its `spectrum`, if there is one, knows the first."""
    known = spectrum.fingerprint if spectrum else ""
    quantised = "" if target.has_original else target.quantised
    return Fingerprints(LazyValues({target.name: target.values}), target.name, target.dtype, known, quantised)
