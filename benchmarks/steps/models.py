"""The denoisers that a training step is measured on: their shapes are the published models', their weights are not.

On the meta device a model has shapes without values: FLOPs and bytes are counted on it, and SDXL or Flux fits anywhere.
On a real device its weights are random, or those of the embedded base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from spectra.bases.published import PUBLISHED
from spectra.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Denoiser:
    """A UNet or transformer with the inputs of one training step.

    Attributes:
        module: the model, all weights frozen.
        component: what a pipeline calls it, "unet" or "transformer".
        latents: name of the noisy input among `inputs`.
        inputs: arguments of its forward.
    """

    module: nn.Module
    component: str
    latents: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """Batch and size of a training step.

    Attributes:
        resolution: pixels of a side.
        batch: samples.
    """

    resolution: int
    batch: int


def denoiser(
    name: str,
    *,
    resolution: int = 0,
    batch: int = 1,
    device: str = "meta",
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> tuple[Denoiser, Shape]:
    """The model called `name` of `MODELS` with inputs for one step.

    Args:
        resolution: pixels of a side, a multiple of 64; 0 is the size that the model was made for.
        batch: samples.
        device: "meta" for shapes alone.
        dtype: of weights and inputs, float32 by default.
        seed: of random weights and inputs.

    Raises:
        InputError: an unknown model, or a resolution or batch that it cannot take.
    """
    import torch

    from spectra.planning.step_inputs import cast_inputs

    if name not in MODELS:
        raise InputError(f"no model is called {name!r}; there are: {', '.join(MODELS)}")
    own, make = MODELS[name]
    shape = Shape(resolution or own, batch)
    if shape.resolution < 64 or shape.resolution % 64:
        raise InputError(f"resolution takes a positive multiple of 64, got {resolution}")
    if batch < 1:
        raise InputError(f"batch takes 1 or more, got {batch}")
    torch.manual_seed(seed)
    with torch.device(device):
        made = make(shape)
    torch.nn.Module.to(made.module.eval().requires_grad_(False), dtype or torch.float32)  # without diffusers' advice
    inputs = {key: cast_inputs(value, dtype or torch.float32) for key, value in made.inputs.items()}
    return Denoiser(made.module, made.component, made.latents, inputs), shape


def matrices(model: Denoiser) -> list[tuple[str, nn.Module]]:
    """Every module with a weight of two or more dimensions that a shift can act on, by its path."""
    from spectra.families import targets

    chosen = {id(module) for t in targets({model.component: model.module}) for module in t.modules}
    return [
        (path, module)
        for path, module in model.module.named_modules()
        if id(module) in chosen and module.weight.ndim > 1
    ]


def _published(name: str, shape: Shape) -> Denoiser:
    """The denoiser of a published base, on the device in force."""
    import torch

    from spectra.bases.shapes import build
    from spectra.naming.target_subsets import DENOISERS
    from spectra.planning.step_inputs import StepShape, step_inputs

    parts, device = PUBLISHED[name].parts, str(torch.empty(0).device)
    component = next(each for each in DENOISERS if each in parts)
    module = build(parts[component], device)
    made = step_inputs(module, StepShape(shape.resolution // 8, shape.batch), device=device)
    return Denoiser(module, component, made.latents, made.arguments)


def _embedded(shape: Shape) -> Denoiser:
    """The UNet of the embedded base, with its own weights where the device holds values."""
    import torch
    from diffusers import UNet2DConditionModel

    from spectra.bases.pipeline import find_base
    from spectra.planning.step_inputs import StepShape, step_inputs

    loader: Any = UNet2DConditionModel
    folder = f"{find_base('').target}/unet"
    if torch.empty(0).is_meta:
        module = loader.from_config(loader.load_config(folder))
    else:
        module = loader.from_pretrained(folder)
    made = step_inputs(module, StepShape(shape.resolution // 4, shape.batch, 24), device=str(torch.empty(0).device))
    return Denoiser(module, "unet", made.latents, made.arguments)


MODELS: Mapping[str, tuple[int, Callable[[Shape], Denoiser]]] = {
    **{name: (PUBLISHED[name].resolution, partial(_published, name)) for name in ("sd15", "sdxl", "sd3", "flux")},
    "embedded": (64, _embedded),
}
"""Name to the resolution it was made for and how it is built."""
