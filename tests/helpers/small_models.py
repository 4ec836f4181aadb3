"""Small models of the real classes, with random weights: what a shift must work on, in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import spectra
from spectra.families import targets as targets_of
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import default_cache

Call = Callable[[], Tensor]


def unet() -> tuple[nn.Module, Call]:
    """Stable Diffusion's UNet, in small."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)
    return model, lambda: model(x, torch.tensor([3, 500]), text).sample


def sdxl_unet() -> tuple[nn.Module, Call]:
    """SDXL's: linear projections, transformers of depth, an embedding of time ids."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 10,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)
    added = {"text_embeds": torch.randn(2, 10), "time_ids": torch.randn(2, 6)}
    return model, lambda: model(x, torch.tensor([3, 500]), text, added_cond_kwargs=added).sample


def sd3_transformer() -> tuple[nn.Module, Call]:
    """SD3's joint transformer."""
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        out_channels=4,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    x, text, pooled = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12), torch.randn(2, 10)
    return model, lambda: model(x, text, pooled, torch.tensor([3, 500])).sample


def flux_transformer() -> tuple[nn.Module, Call]:
    """Flux's double and single blocks."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    x, text = torch.randn(1, 16, 8), torch.randn(1, 5, 12)
    arguments: dict[str, Any] = {
        "pooled_projections": torch.randn(1, 10),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.0]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }
    return model, lambda: model(x, text, **arguments).sample


def clip_text() -> tuple[nn.Module, Call]:
    """The text encoder of Stable Diffusion."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=9,
    )
    model = CLIPTextModel(config)
    tokens = torch.randint(0, 50, (2, 9))
    return model, lambda: model(tokens).last_hidden_state


def text_encoder(width: int, projected: bool = False) -> nn.Module:
    """A CLIP text encoder of SDXL's or SD3's kinds, with a projection or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=20, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=7, projection_dim=12,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_encoder() -> tuple[nn.Module, Call]:
    """SD3's and Flux's second text encoder; its embedding table is tied."""
    from transformers import T5Config, T5EncoderModel

    model = T5EncoderModel(T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2))
    tokens = torch.randint(0, 50, (2, 9))
    return model, lambda: model(tokens).last_hidden_state


MODELS = {
    "unet": unet,
    "sdxl": sdxl_unet,
    "sd3": sd3_transformer,
    "flux": flux_transformer,
    "clip": clip_text,
    "t5": t5_encoder,
}


def build(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Call]:
    """A model in evaluation mode, with norms and biases away from their initial ones and zeros, and a call of it."""
    torch.manual_seed(0)
    model, call = MODELS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().to(dtype), call


def random_shift(model: object, targets: str, seed: int, size: float = 0.2) -> SpectralShift:
    """A shift of normal deltas of deviation `size` for the model, which stays as it is."""
    adapter = spectra.attach(model, targets)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.copy_(size * torch.randn(delta.shape, generator=generator))
    shift = adapter.shift(base="test")
    adapter.detach()
    return shift


def mild_shift(model: object, targets: str, seed: int, size: float = 0.1) -> SpectralShift:
    """A shift that changes every singular value, and every entry of a norm, by up to `size` of itself: none clips."""
    adapter = spectra.attach(model, targets)
    cache, generator = default_cache(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for target in targets_of(model, targets):
            weight, delta = target.weight, adapter.deltas[target.name]
            sigma = weight if weight.ndim == 1 else cache.spectrum(weight).sigma
            delta.copy_(size * sigma * (2 * torch.rand(delta.shape, generator=generator) - 1))
    shift = adapter.shift(base="test")
    adapter.detach()
    return shift
