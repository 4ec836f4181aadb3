"""One weight of a live model, bound to what a shift needs to change it and to what undoes the change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor, nn

from spectra.adapters.forward_patch import ForwardPatch, patch_forward, unpatch
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.errors import WeightError
from spectra.families import Target
from spectra.layers.frozen_operators import operator_of
from spectra.layers.per_sample import SampledLayer, SampledVector, Samples
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.layers.weight_offload import WeightOffload
from spectra.progress import SILENT, Progress
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.shifted_weight import shifted_vector, shifted_weight
from spectra.spectrum.spectrum import Spectrum, has_no_values

Layer: TypeAlias = ShiftedLayer | ShiftedVector


class Binding:
    """A weight, its spectrum (None for 1-D), and two ways to shift it: patch forwards, or replace the weight.

    Attributes:
        target: name, modules and frozen parameter.
        spectrum: the weight's own, or that of the weight it is a rounded copy of.
        fingerprints: of the frozen weight.
        applied: the parameter that `apply` put in force, None if there is none.
        layers: what computes in the modules' place, if they are patched.
    """

    def __init__(self, target: Target, spectrum: Spectrum | None, fingerprints: Fingerprints | None = None) -> None:
        self.target = target
        self.spectrum = spectrum
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

    def shifted(self, delta: Tensor) -> Tensor:
        """The weight shifted by `delta [r]`, in its own shape and dtype; the frozen parameter where delta is zero."""
        weight = self.target.weight
        if self.spectrum is None:
            return shifted_vector(weight, delta)
        return shifted_weight(weight, self.spectrum.to(weight.device), delta)

    def prepare(self, delta: Tensor) -> nn.Parameter:
        """The parameter that `apply` will put in force for `delta` (float, `[r]`); nothing changes yet.

        It requires a gradient if the frozen one does, for which a compiled graph would be made again.
        """
        weight = self.target.weight
        if not bool(delta.any()):
            return weight
        shifted = self.shifted(delta.to(weight.device)).detach()
        return nn.Parameter(shifted.to(self.current.device), weight.requires_grad)

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

    def patch(self, delta: Tensor, samples: Samples | None = None, offload: WeightOffload | None = None) -> None:
        """Let the modules compute with `delta` through the plans; `unpatch` undoes it.

        Args:
            delta: `[r]`, or `[shifts, r]` with `samples`, which say the row that each sample of a batch takes.
            offload: takes the weight's values until `unpatch`, if all modules can compute by both sides alone.
        """
        without_weight = (
            offload is not None
            and samples is None
            and self.spectrum is not None
            and all(operator_of(module) is not None for module in self.target.modules)
        )
        lent = (lambda: self.shifted(delta)) if samples is None and not without_weight else None
        for module in self.target.modules:
            layer: Layer
            if self.spectrum is None:
                layer = ShiftedVector(module, delta) if samples is None else SampledVector(module, delta, samples)
            elif samples is None:
                layer = ShiftedLayer(module, self.spectrum, delta, without_weight=without_weight)
            else:
                layer = SampledLayer(module, self.spectrum, delta, samples)
            patch = patch_forward(module, layer.forward, lent)
            patch.offloaded = without_weight
            self.layers.append(layer)
            self._patches.append(patch)
        if offload is not None and without_weight:
            if not has_no_values(self.target.weight):
                self.fingerprints.rounded()  # while the weight has its values: a shift file tells them
            self._offload = offload
            offload.offload(self.target.weight)

    def pause(self, paused: bool) -> None:
        """Let the modules compute with the frozen weight for a while (True), or with delta again (False)."""
        for patch, layer in zip(self._patches, self.layers, strict=True):
            if isinstance(layer, ShiftedLayer) and layer.without_weight:
                layer.paused = paused
            else:
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


def bind(
    targets: Iterable[Target],
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
    originals: Mapping[str, Spectrum] = MappingProxyType({}),
) -> dict[str, Binding]:
    """Bindings by name, with spectra from the cache, or with the `originals` where a weight is a rounded copy.

    Raises:
        WeightError: a weight that is not plain floating point in memory, or not finite.
    """
    chosen = {target.name: target for target in targets}
    for name, target in chosen.items():
        check_plain(name, target.weight)
    matrices = {name: t.weight for name, t in chosen.items() if t.weight.ndim > 1 and name not in originals}
    spectra: Mapping[str, Spectrum] = (cache or default_cache()).spectra(matrices, progress) if matrices else {}
    bindings = {}
    for name, target in chosen.items():
        prints = Fingerprints.of(target.weight, name, spectra.get(name))
        if target.weight.ndim == 1:
            prints.digits()  # now, while the weight has the base's dtype; of others the spectrum knows them
        bindings[name] = Binding(target, originals.get(name, spectra.get(name)), prints)
    return bindings


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
