"""One weight of a live model, bound to what a shift needs to change it and to what undoes the change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor, nn

from spectra.adapters.forward_patch import ForwardPatch, patch_forward, unpatch
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
from spectra.progress import SILENT, Progress
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.shifted_weight import shifted_vector
from spectra.spectrum.spectrum import Spectrum, has_no_values

WeightSpectrum: TypeAlias = Spectrum | PartialSpectrum
Layer: TypeAlias = LowRankLayer | ShiftedLayer | ShiftedVector


class Binding:
    """A weight, what is known of its spectrum, and two ways to shift it: patch forwards, or replace the weight.

    Attributes:
        target: name, modules and frozen parameter.
        spectrum: the weight's own, or that of the weight it is a rounded copy of: whole, or as many directions as the
            deltas have; None for a 1-D weight, and where no direction changes.
        fingerprints: of the frozen weight.
        applied: the parameter that `apply` put in force, None if there is none.
        layers: what computes in the modules' place, if they are patched.
    """

    def __init__(
        self, target: Target, spectrum: WeightSpectrum | None, fingerprints: Fingerprints | None = None
    ) -> None:
        self.target = target
        self.spectrum: WeightSpectrum | SomeDirections | None = spectrum
        self.fingerprints = fingerprints or Fingerprints.of(target.weight, target.name)
        self.applied: nn.Parameter | None = None
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
        self.applied, self.fingerprints = other.applied, other.fingerprints

    def changed(self, change: Change) -> Tensor:
        """The weight with its change, in its own shape and dtype; the frozen parameter where nothing changes."""
        weight = self.target.weight
        if weight.ndim > 1:
            return changed_weight(weight, self.spectrum and self.spectrum.to(weight.device), change)
        if change.delta is None or (not change.delta.requires_grad and not bool(change.delta.any())):
            return weight
        return shifted_vector(weight, change.delta)

    def prepare(self, change: Change) -> nn.Parameter:
        """The parameter that `apply` will put in force for a change without samples; nothing changes yet.

        It requires a gradient if the frozen one does, for which a compiled graph would be made again.
        """
        weight = self.target.weight
        changed = self.changed(change.map(lambda tensor: tensor.to(weight.device)))
        if changed is weight:
            return weight
        return nn.Parameter(changed.detach().to(self.current.device), weight.requires_grad)

    def apply(self, prepared: nn.Parameter) -> None:
        """Put what `prepare` made in force, in place of whatever was; `restore` undoes it."""
        self.restore()
        if prepared is not self.target.weight:
            self._put(prepared)
            self.applied = prepared

    def restore(self) -> None:
        """Give the modules their frozen parameter and their own forward back: the same objects, the same bits."""
        if self.applied is not None:
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
        lent = (lambda: self.changed(change)) if samples is None and not without_weight else None
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


ALL = -1
"""Directions of a weight whose delta may be of any of them."""


def bind(
    targets: Iterable[Target],
    directions: Mapping[str, int] = MappingProxyType({}),
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
    originals: Mapping[str, WeightSpectrum] = MappingProxyType({}),
) -> dict[str, Binding]:
    """Bindings by name, with spectra from the cache, or with the `originals` where a weight is a rounded copy.

    Args:
        directions: how many of a weight's leading directions change, by name; `ALL` by default, 0 for none.

    Raises:
        WeightError: a weight that is not plain floating point in memory, or not finite.
    """
    chosen = {target.name: target for target in targets}
    for name, target in chosen.items():
        check_plain(name, target.weight)
    matrices = {name: t.weight for name, t in chosen.items() if t.weight.ndim > 1 and name not in originals}
    spectra = find_spectra(matrices, directions, cache, progress)
    prints = {name: Fingerprints.of(t.weight, name, spectra.get(name)) for name, t in chosen.items()}
    # Now, while each weight has the base's dtype; a spectrum knows its weight's.
    unknown = [prints[name] for name, target in chosen.items() if target.weight.ndim == 1 or name not in spectra]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Fingerprints.digits, unknown))
    return {
        name: Binding(target, originals.get(name, spectra.get(name)), prints[name]) for name, target in chosen.items()
    }


def find_spectra(
    weights: Mapping[str, Tensor],
    directions: Mapping[str, int],
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> dict[str, WeightSpectrum]:
    """Spectra by name, as much of each as `directions` ask for (see `bind`); weights that need none are left out."""
    cache = cache or default_cache()
    by_count: dict[int, list[str]] = {}
    for name in weights:
        by_count.setdefault(directions.get(name, ALL), []).append(name)
    found: dict[str, WeightSpectrum] = {}
    for count, names in sorted(by_count.items()):
        some = _Some(weights, names)
        if count == ALL:
            found |= cache.spectra(some, progress)
        elif count:
            found |= cache.leading(some, count, progress)
    return found


class _Some(Mapping[str, Tensor]):
    """Some of a mapping's tensors, each still taken when it is asked for."""

    def __init__(self, weights: Mapping[str, Tensor], names: list[str]) -> None:
        self._weights, self._names = weights, names

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
