"""One weight of a live model, bound to what a shift needs to change it and to what undoes the change.

A plain weight gets its changed values in place where one change serves all samples. A quantised one never does: there
the change is a term beside the module's own product, in a patched forward. So it is where that is asked for.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from spectra.adapters import known_fingerprints
from spectra.adapters.forward_patch import ForwardPatch, patch_forward, unpatch
from spectra.adapters.lazy_values import LazyValues
from spectra.adapters.live_weight import LiveWeight
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.errors import MismatchError, WeightError
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
Layer: TypeAlias = LowRankLayer | ShiftedLayer | ShiftedVector


class Binding:
    """A weight, what is known of its spectrum, and two ways to shift it: beside the module's own product, or in place.

    Attributes:
        spectrum: the weight's own, or that of the weight it is a rounded copy of: whole, or as many directions as the
            deltas have; None for a 1-D weight, and where no direction changes.
        fingerprints: of the frozen weight.
        live: the weight in the modules, where values are replaced in place.
        beside: the change that computes beside the weight, if `put` has put one there.
        layers: what computes in the modules' place, if they are patched.
    """

    def __init__(
        self, target: Target, spectrum: WeightSpectrum | None, fingerprints: Fingerprints | None = None
    ) -> None:
        self._target = target
        self.spectrum: WeightSpectrum | SomeDirections | None = spectrum
        self.live = LiveWeight(target.modules)
        prints = fingerprints or target_fingerprints(target, spectrum)
        self.fingerprints = prints.reading(LazyValues({target.name: self._values}))
        self.beside: Change | None = None
        self.layers: list[Layer] = []
        self._patches: list[ForwardPatch] = []
        self._offload: WeightOffload | None = None

    @property
    def target(self) -> Target:
        """Name, modules and frozen parameter, with the frozen values also while others are in force."""
        if self.live.frozen is not None:
            return replace(self._target, weight=self.live.frozen)
        current = self.live.parameter
        if current is not self._target.weight and not current.is_meta:  # a hook has made another one
            self._target = replace(self._target, weight=current)  # type: ignore[arg-type]
        return self._target

    def _values(self) -> Tensor:
        return self.target.values()

    def __deepcopy__(self, memo: dict[int, Any]) -> Binding:
        """For a copy of the model: what is never changed, and large, is shared."""
        for shared in (self.spectrum, self._target.full_precision):
            memo[id(shared)] = shared
        twin = Binding.__new__(Binding)
        memo[id(self)] = twin
        vars(twin).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return twin

    def check_present(self) -> None:
        """Raise a WeightError if another library has offloaded the weight since, so that it cannot be changed."""
        if self.live.parameter.is_meta:
            raise WeightError(
                f"{self.target.name}: the weight is offloaded; take the offloading out before shifts are changed "
                "(pipe.remove_all_hooks()), and turn it on again afterwards"
            )

    def check_unwritten(self) -> None:
        """Raise a MismatchError if another program has changed the values that were put in force."""
        if self.live.written_by_others:
            raise MismatchError(
                f"{self.target.name} was changed by another program while a shift was in force, as fuse_lora does; "
                "undo that first (pipe.unfuse_lora()), or load the pipeline again"
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
        return change.shortened(self.spectrum.sigma.shape[0])

    def take_over(self, other: Binding) -> None:
        """Take the place of another binding of the same weight: what it has put in force is this one's to undo."""
        self.fingerprints = other.fingerprints.reading(LazyValues({self._target.name: self._values}))
        self.live, self._patches, self.layers, self.beside = other.live, other._patches, other.layers, other.beside
        other._patches, other.layers, other.beside = [], [], None

    def changed(self, change: Change, out: Tensor | None = None) -> Tensor:
        """The weight with its change, in its own shape and dtype; the frozen parameter where nothing changes.

        Args:
            out: memory that may be used for the result.
        """
        weight = self.target.weight
        if weight.ndim > 1:
            return changed_weight(weight, self.spectrum and self.spectrum.to(weight.device), change, out)
        if change.delta is None or (not change.delta.requires_grad and not bool(change.delta.any())):
            return weight
        return shifted_vector(weight, change.delta)

    def put(self, change: Change | None, *, beside: bool = False) -> None:
        """Put a change for all samples in force, in place of whatever was; `restore` undoes it.

        Args:
            change: None for none.
            beside: compute it beside the weight's own product, where it is of low rank, instead of in the weight. A
                quantised weight's always is.
        """
        if change is None or change.changes_nothing:
            self.restore()
            return
        self.live.follow()
        device = self.live.parameter.device
        if next(change.tensors()).device != device:
            change = change.map(lambda tensor: tensor.to(device))
        if (beside and self._is_low_rank(change)) or self.target.quantised:
            if self.beside is None or not _copied(change, self.beside):
                self.restore()
                self.patch(change)
                self.beside = change
            return
        self.unpatch()
        self.beside = None
        self.live.keep()
        parameter = self.live.parameter
        with torch.no_grad():
            self.live.write(self.changed(change, None if parameter.is_inference() else parameter.detach()))

    def restore(self) -> None:
        """Give the modules their frozen values and their own forward back: the same objects, the same bits."""
        self.unpatch()
        self.beside = None
        if self.live.frozen is not None:
            same = self.live.frozen.dtype == self.live.parameter.dtype
            self.live.restore()
            if same:
                known_fingerprints.note(self.live.parameter, self.fingerprints.found)

    def _is_low_rank(self, change: Change) -> bool:
        """Whether it computes beside the weight at the cost of its rank, without the weight's other directions."""
        few = change.delta is None or not isinstance(self.spectrum, Spectrum)
        return self.target.weight.ndim > 1 and few

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


def _copied(change: Change, other: Change) -> bool:
    """Copy the numbers of a change into those of another of the same form, if it is: compiled graphs go on."""
    pairs = list(zip(change.parts(), other.parts(), strict=True))
    there = [(new, old) for new, old in pairs if new is not None and old is not None]
    if change.ids != other.ids or len(there) < sum(new is not None or old is not None for new, old in pairs):
        return False
    if any(new.shape != old.shape or new.device != old.device for new, old in there):
        return False
    with torch.no_grad():
        for new, old in there:
            old.copy_(new)
    return True


def target_fingerprints(target: Target, spectrum: WeightSpectrum | None = None) -> Fingerprints:
    """The fingerprints of what a weight is to a shift; its `spectrum`, if there is one, knows the first."""
    quantised = "" if target.has_original else target.quantised
    plain = not (target.quantised or target.weight.is_meta)
    found = known_fingerprints.recall(target.weight) if plain else {}
    if spectrum and spectrum.fingerprint:
        found[target.dtype] = spectrum.fingerprint
    return Fingerprints(LazyValues({target.name: target.values}), target.name, target.dtype, found, quantised)
