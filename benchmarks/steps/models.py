"""The denoisers that a training step is measured on: their shapes are the published models', their weights are not.

On the meta device a model has shapes without values: FLOPs and bytes are counted on it, and SDXL or Flux fits anywhere.
On a real device its weights are random, or those of the embedded base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectra.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


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
    inputs = {key: _cast(value, dtype or torch.float32) for key, value in made.inputs.items()}
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


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: _cast(inner, dtype) for key, inner in value.items()}
    return value.to(dtype) if value.is_floating_point() else value


def _sd15(shape: Shape) -> Denoiser:
    """859,520,964 parameters, 282 matrices."""
    return _unet(shape, tokens=77, cross_attention_dim=768)


def _sdxl(shape: Shape) -> Denoiser:
    """2,567,463,684 parameters."""
    import torch

    made = _unet(
        shape,
        tokens=77,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    added = {"text_embeds": torch.randn(shape.batch, 1280), "time_ids": torch.randn(shape.batch, 6)}
    return Denoiser(made.module, made.component, made.latents, {**made.inputs, "added_cond_kwargs": added})


def _unet(shape: Shape, *, tokens: int, **config: Any) -> Denoiser:
    import torch
    from diffusers import UNet2DConditionModel

    make: Any = UNet2DConditionModel  # diffusers is untyped here
    module: nn.Module = make(**config)
    side = shape.resolution // 8
    inputs = {
        "sample": torch.randn(shape.batch, 4, side, side),
        "timestep": _timesteps(shape.batch),
        "encoder_hidden_states": torch.randn(shape.batch, tokens, config["cross_attention_dim"]),
    }
    return Denoiser(module, "unet", "sample", inputs)


def _sd3(shape: Shape) -> Denoiser:
    """Stable Diffusion 3 medium; 77 tokens of CLIP and 256 of T5."""
    import torch
    from diffusers import SD3Transformer2DModel

    make: Any = SD3Transformer2DModel
    module = make(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=192,
    )
    side = shape.resolution // 8
    inputs = {
        "hidden_states": torch.randn(shape.batch, 16, side, side),
        "encoder_hidden_states": torch.randn(shape.batch, 333, 4096),
        "pooled_projections": torch.randn(shape.batch, 2048),
        "timestep": _timesteps(shape.batch),
    }
    return Denoiser(module, "transformer", "hidden_states", inputs)


def _flux(shape: Shape) -> Denoiser:
    """FLUX.1-dev, 11,901,408,320 parameters; 512 tokens of T5."""
    import torch
    from diffusers import FluxTransformer2DModel

    make: Any = FluxTransformer2DModel
    module = make(guidance_embeds=True)  # the defaults are FLUX.1's
    tokens = (shape.resolution // 16) ** 2
    inputs = {
        "hidden_states": torch.randn(shape.batch, tokens, 64),
        "encoder_hidden_states": torch.randn(shape.batch, 512, 4096),
        "pooled_projections": torch.randn(shape.batch, 768),
        "timestep": torch.rand(shape.batch),
        "guidance": torch.full((shape.batch,), 3.5),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(512, 3),
    }
    return Denoiser(module, "transformer", "hidden_states", inputs)


def _embedded(shape: Shape) -> Denoiser:
    """The UNet of the embedded base, with its own weights where the device holds values."""
    import torch
    from diffusers import UNet2DConditionModel

    from spectra.bases.pipeline import find_base

    loader: Any = UNet2DConditionModel
    folder = f"{find_base('').target}/unet"
    if torch.empty(0).is_meta:
        module = loader.from_config(loader.load_config(folder))
    else:
        module = loader.from_pretrained(folder)
    side = shape.resolution // 4
    inputs = {
        "sample": torch.randn(shape.batch, 4, side, side),
        "timestep": _timesteps(shape.batch),
        "encoder_hidden_states": torch.randn(shape.batch, 24, module.config.encoder_hid_dim),
    }
    return Denoiser(module, "unet", "sample", inputs)


def _timesteps(batch: int) -> Tensor:
    import torch

    return torch.full((batch,), 500)


MODELS: Mapping[str, tuple[int, Callable[[Shape], Denoiser]]] = {
    "sd15": (512, _sd15),
    "sdxl": (1024, _sdxl),
    "sd3": (1024, _sd3),
    "flux": (1024, _flux),
    "embedded": (64, _embedded),
}
"""Name to the resolution it was made for and how it is built."""
