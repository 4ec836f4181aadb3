"""What of a live model a shift can act on: components, and weights chosen by subset names and patterns."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spectra.compatibility.base_check import delta_length
from spectra.errors import BaseError, TargetError, WeightError
from spectra.families.full_precision import FullPrecision, noted
from spectra.io.dtypes import dtype_name
from spectra.layers.frozen_operators import has_spectrum
from spectra.layers.quantised_weights import dequantised, quantised_kind, weight_shape
from spectra.naming.target_subsets import DENOISERS, TEXT_ENCODERS, matcher, path_of, weight_name


def components(pipe: Any) -> dict[str, nn.Module]:
    """The shiftable components of a pipeline, a mapping of components or a bare model, denoiser first.

    Raises:
        BaseError: there is none.
    """
    if isinstance(pipe, nn.Module):
        model = unwrapped(pipe)
        return {_component_name(model): model}
    parts: Mapping[str, Any] = pipe if isinstance(pipe, Mapping) else getattr(pipe, "components", {})
    found = {
        name: unwrapped(parts[name]) for name in (*DENOISERS, *TEXT_ENCODERS) if isinstance(parts.get(name), nn.Module)
    }
    if not found:
        raise BaseError(
            f"{type(pipe).__name__} has no component that can carry a shift; expected a diffusers pipeline or model "
            f"with one of {', '.join((*DENOISERS, *TEXT_ENCODERS))}"
        )
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that torch.compile or data-parallel training has wrapped; any other is itself."""
    while True:
        inner = model._modules.get("_orig_mod")
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _component_name(model: nn.Module) -> str:
    """The component that a bare model stands for, from its class: `unet`, `transformer` or `text_encoder`."""
    name = type(model).__name__
    if "UNet" in name:
        return "unet"
    # Text models are called CLIPTextModel, T5EncoderModel, ...; denoisers FluxTransformer2DModel, ...
    return "transformer" if "Transformer" in name else "text_encoder"


@dataclass(frozen=True, eq=False)
class Target:
    """One weight that a shift can act on.

    Attributes:
        name: `<component>.<module path>`, a shift file's key without `.delta`.
        modules: the modules that hold the weight; several where it is tied.
        weight: the parameter, frozen.
        full_precision: the weights of which this model is a quantised copy, if they are known.
    """

    name: str
    modules: tuple[nn.Module, ...]
    weight: nn.Parameter
    full_precision: FullPrecision | None = None

    @property
    def shape(self) -> torch.Size:
        """Of the weight, or of the one that a quantised weight stands for."""
        return weight_shape(self.weight)

    @property
    def delta_length(self) -> int:
        """Length of this weight's delta."""
        return delta_length(self.shape)

    @property
    def quantised(self) -> str:
        """How the weight is quantised, such as "nf4"; empty if it is not.

        Raises:
            WeightError: in a way that is not known.
        """
        try:
            return quantised_kind(self.weight)
        except WeightError as error:
            raise WeightError(f"{self.name}: {error}") from error

    @property
    def has_original(self) -> bool:
        """Whether a quantised weight's full-precision one is known."""
        return self.full_precision is not None and self.name in self.full_precision

    def values(self) -> Tensor:
        """What the weight is to a shift: itself; of a quantised one its original in float32, else what it stands for.

        Raises:
            MismatchError: what was given as its original is another weight.
        """
        if not self.quantised:
            return self.weight
        copy = dequantised(self.modules[0])
        if self.full_precision is None or self.name not in self.full_precision:
            return copy
        return self.full_precision.weight(self.name, copy)

    @property
    def dtype(self) -> str:
        """The name of the dtype of `values`."""
        return "float32" if self.quantised else dtype_name(self.weight.dtype)


def targets(pipe: Any, pattern: str = "denoiser") -> tuple[Target, ...]:
    """The weights of a pipeline or model that `pattern` names, sorted by name.

    Args:
        pipe: a pipeline, a mapping of components, or a bare model.
        pattern: subset names and glob patterns over `<component>.<module path>`, separated by commas
            (`unet-ca,text-encoder`, `unet.up_blocks.1.*`).

    Raises:
        TargetError: an unknown name, or one that holds no weight of this model.
    """
    found: dict[str, Target] = {}
    models = components(pipe)
    for item in (part.strip() for part in pattern.split(",")):
        holds = matcher(item)
        chosen = [target for name, model in models.items() for target in _targets(model, name, holds)]
        if not chosen:
            raise TargetError(
                f"target {item!r} holds no weight of this model, which has {', '.join(models)}; {_hint(item, models)}"
            )
        found.update((target.name, target) for target in chosen)
    return tuple(found[name] for name in sorted(found))


def _hint(item: str, models: dict[str, nn.Module]) -> str:
    names = [f"{name}.{path}" for name, model in models.items() for path, _ in model.named_modules() if path]
    near = difflib.get_close_matches(item, names, n=1)
    return f"the nearest module is {near[0]!r}" if near else "patterns match whole paths, such as 'unet.*attn2*'"


def _own_modules(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A model's modules by path, as if nothing stood around them: neither PEFT's layers nor compiled blocks.

    A module at several paths comes at each.
    """
    inner = model._modules.get("base_layer")  # of a LoRA's layer, whose other modules are its own
    if inner is None:
        inner = model._modules.get("_orig_mod")
    if inner is not None:
        yield from _own_modules(inner, path)
        return
    yield path, model
    for name, child in model._modules.items():
        if child is not None:
            yield from _own_modules(child, f"{path}.{name}" if path else name)


def _targets(model: nn.Module, component: str, holds: Callable[[str, str, int], bool]) -> list[Target]:
    """Every parameter called `weight` of a module that a shift knows, tied ones once, under their first path."""
    found: dict[nn.Parameter, tuple[str, list[nn.Module]]] = {}
    for path, module in _own_modules(model):
        weight = module._parameters.get("weight")
        if weight is not None and (weight.ndim == 1 or has_spectrum(module)):
            modules = found.setdefault(weight, (weight_name(component, path), []))[1]
            if module not in modules:
                modules.append(module)
    return [
        Target(name, tuple(modules), weight, noted(model))
        for weight, (name, modules) in found.items()
        if holds(component, path_of(name), weight.ndim)
    ]
