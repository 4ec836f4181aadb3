"""The inputs of one training step of each kind of denoiser: shapes that its forward takes, with random values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from spectra.errors import BaseError, InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CAPTION_TOKENS = 128
"""Of a long caption: what is assumed where a prompt has as many tokens as it needs."""


@dataclass(frozen=True)
class StepShape:
    """How large a step is.

    Attributes:
        latents: places of a side of the VAE's latents.
        samples: of the batch.
        tokens: of a prompt, as the denoiser gets it; 0 for as many as the family's prompts have at most, or
            `CAPTION_TOKENS` where that is not fixed.
    """

    latents: int
    samples: int
    tokens: int = 0


class StepInputs(NamedTuple):
    """Arguments of a denoiser's forward, and which of them is the noisy latents."""

    latents: str
    arguments: Mapping[str, Any]


def step_inputs(denoiser: nn.Module, shape: StepShape, *, device: str = "meta", dtype: Any = None) -> StepInputs:
    """What a denoiser's forward takes in one step of training.

    Args:
        device: "meta" for shapes alone.
        dtype: of the floating-point inputs, float32 by default.

    Raises:
        BaseError: a denoiser of another kind.
    """
    import torch

    make = next((MAKERS[each.__name__] for each in type(denoiser).__mro__ if each.__name__ in MAKERS), None)
    if make is None:
        raise BaseError(f"{type(denoiser).__name__}: expected one of {', '.join(MAKERS)}")
    with torch.device(device):
        made = make(denoiser.config, shape)
    return StepInputs(
        made.latents, {key: cast_inputs(value, dtype or torch.float32) for key, value in made.arguments.items()}
    )


def check_resolution(denoiser: nn.Module, resolution: int, pixels: int) -> None:
    """Check that a picture's side is of whole tokens of the denoiser.

    Args:
        resolution: pixels of the side.
        pixels: of a side of one place of the VAE's latents.

    Raises:
        InputError: it is not.
    """
    step = pixels * _places(denoiser.config)
    if resolution < step or resolution % step:
        raise InputError(f"resolution: this base takes positive multiples of {step} pixels, got {resolution}")


def _places(config: Any) -> int:
    """Places of a side of the latents that stand or fall together."""
    if "down_block_types" in config:
        return int(2 ** (len(config.down_block_types) - 1))
    return int(config.patch_size) if "sample_size" in config else 2


def assumed_tokens(denoiser: nn.Module) -> int:
    """Tokens that a prompt is assumed to have; 0 where all prompts have the same number."""
    return CAPTION_TOKENS if type(denoiser).__name__ in _CAPTIONED else 0


def cast_inputs(value: Any, dtype: torch.dtype) -> Any:
    """An argument with everything in it that is floating point in another precision."""
    import torch

    if isinstance(value, dict):
        return {key: cast_inputs(inner, dtype) for key, inner in value.items()}
    if isinstance(value, list):
        return [cast_inputs(inner, dtype) for inner in value]
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _timesteps(samples: int) -> Tensor:
    import torch

    return torch.full((samples,), 500)


def _unet(config: Any, shape: StepShape) -> StepInputs:
    import torch

    n, width = shape.samples, config.encoder_hid_dim or config.cross_attention_dim
    arguments: dict[str, Any] = {
        "sample": torch.randn(n, config.in_channels, shape.latents, shape.latents),
        "timestep": _timesteps(n),
        "encoder_hidden_states": torch.randn(n, shape.tokens or 77, width),
    }
    if config.addition_embed_type == "text_time":
        times = 6
        pooled = config.projection_class_embeddings_input_dim - times * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(n, pooled), "time_ids": torch.randn(n, times)}
        arguments["added_cond_kwargs"] = added
    return StepInputs("sample", arguments)


def _sd3(config: Any, shape: StepShape) -> StepInputs:
    """77 tokens of CLIP and 256 of T5."""
    import torch

    n = shape.samples
    arguments = {
        "hidden_states": torch.randn(n, config.in_channels, shape.latents, shape.latents),
        "encoder_hidden_states": torch.randn(n, shape.tokens or 333, config.joint_attention_dim),
        "pooled_projections": torch.randn(n, config.pooled_projection_dim),
        "timestep": _timesteps(n),
    }
    return StepInputs("hidden_states", arguments)


def _flux(config: Any, shape: StepShape) -> StepInputs:
    """512 tokens of T5; one token of the picture is 2 x 2 latents."""
    import torch

    from spectra.families.flux import GUIDANCE

    made = _with_positions(config, shape, 3, GUIDANCE)
    pooled = torch.randn(shape.samples, config.pooled_projection_dim)
    return StepInputs(made.latents, {**made.arguments, "pooled_projections": pooled})


def _flux2(config: Any, shape: StepShape) -> StepInputs:
    """512 tokens of the language model."""
    from spectra.families.flux2 import GUIDANCE

    return _with_positions(config, shape, 4, GUIDANCE)


def _with_positions(config: Any, shape: StepShape, axes: int, guidance: float | None = None) -> StepInputs:
    """Tokens of picture and prompt, each with its position on so many axes."""
    import torch

    n, tokens, words = shape.samples, (shape.latents // 2) ** 2, shape.tokens or 512
    arguments = {
        "hidden_states": torch.randn(n, tokens, config.in_channels),
        "encoder_hidden_states": torch.randn(n, words, config.joint_attention_dim),
        "timestep": torch.rand(n),
        "img_ids": torch.zeros(tokens, axes),
        "txt_ids": torch.zeros(words, axes),
    }
    if guidance is not None and config.guidance_embeds:
        arguments["guidance"] = torch.full((n,), guidance)
    return StepInputs("hidden_states", arguments)


def _chroma(config: Any, shape: StepShape) -> StepInputs:
    """512 tokens of T5 with a mask, which goes over the picture's too."""
    import torch

    made = _with_positions(config, shape, 3)
    tokens = sum(made.arguments[each].shape[0] for each in ("txt_ids", "img_ids"))
    return StepInputs(made.latents, {**made.arguments, "attention_mask": torch.ones(shape.samples, tokens)})


def _qwen_image(config: Any, shape: StepShape) -> StepInputs:
    """As many tokens as a prompt has."""
    import torch

    n, side = shape.samples, shape.latents // 2
    arguments = {
        "hidden_states": torch.randn(n, side**2, config.in_channels),
        "encoder_hidden_states": torch.randn(n, shape.tokens or CAPTION_TOKENS, config.joint_attention_dim),
        "timestep": torch.rand(n),
        "img_shapes": [[(1, side, side)]] * n,
    }
    return StepInputs("hidden_states", arguments)


def _z_image(config: Any, shape: StepShape) -> StepInputs:
    """As many tokens as a prompt has."""
    import torch

    arguments = {
        "x": [torch.randn(config.in_channels, 1, shape.latents, shape.latents) for _ in range(shape.samples)],
        "t": torch.rand(shape.samples),
        "cap_feats": [torch.randn(shape.tokens or CAPTION_TOKENS, config.cap_feat_dim) for _ in range(shape.samples)],
    }
    return StepInputs("x", arguments)


MAKERS: Mapping[str, Callable[[Any, StepShape], StepInputs]] = {
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "Flux2Transformer2DModel": _flux2,
    "ChromaTransformer2DModel": _chroma,
    "QwenImageTransformer2DModel": _qwen_image,
    "ZImageTransformer2DModel": _z_image,
}
"""By the class of the denoiser."""

_CAPTIONED = ("QwenImageTransformer2DModel", "ZImageTransformer2DModel")
"""Denoisers that take prompts without padding."""
