"""Published bases by name: the shapes of their parts, for what is counted without weights (plans and benchmarks).

Each part is a class of diffusers or transformers with the arguments that differ from its defaults. They are those of
the models' own config.json files; where they come from is said beside each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from spectra.bases.part import Part
from spectra.errors import BaseError


@dataclass(frozen=True)
class PublishedBase:
    """A base that is known by name.

    Attributes:
        hub_id: where it is published.
        pipeline: its class in diffusers.
        resolution: pixels of the side that it was made for.
        dtype: of the denoiser's published weights.
        parts: by component name.
    """

    hub_id: str
    pipeline: str
    resolution: int
    dtype: str
    parts: Mapping[str, Part]


def _diffusers(kind: str, **config: Any) -> Part:
    return Part("diffusers", kind, config)


def _transformers(kind: str, weights: int, **config: Any) -> Part:
    return Part("transformers", kind, config, weights)


_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
    "max_position_embeddings": 77,
}
"""CLIP ViT-L/14 and OpenCLIP ViT-bigG/14: SDXL's paper (arXiv:2307.01952), section 2.1, and transformers' defaults."""

_T5_XXL = _transformers(
    "T5EncoderModel",
    4_762_310_656,
    **{
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_heads": 64,
        "num_layers": 24,
        "feed_forward_proj": "gated-gelu",
    },
)
"""The encoder of T5 v1.1 XXL (github.com/google-research/text-to-text-transfer-transformer)."""

_QWEN3_4B = _transformers(
    "Qwen3ForCausalLM",
    4_022_468_096,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
"""huggingface.co/Qwen/Qwen3-4B."""

_MISTRAL_SMALL = _transformers(
    "Mistral3ForConditionalGeneration",
    24_011_361_280,
    text_config={
        "model_type": "mistral",
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
        "tie_word_embeddings": False,
    },
    vision_config={"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "patch_size": 14},
    spatial_merge_size=2,
    multimodal_projector_bias=False,
    tie_word_embeddings=False,
)
"""huggingface.co/mistralai/Mistral-Small-3.2-24B-Instruct-2506."""

_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
_VAE_4 = _diffusers("AutoencoderKL", **_VAE, latent_channels=4)
_VAE_16 = _diffusers("AutoencoderKL", **_VAE, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
"""Latent Diffusion's VAE, and that of SD3 and FLUX.1 with 16 channels, which Z-Image takes over."""

_SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""2,567,463,684 weights (arXiv:2307.01952, table 1)."""

PUBLISHED: Mapping[str, PublishedBase] = MappingProxyType(
    {
        # 859,520,964 weights in the UNet, 282 of them matrices: diffusers' defaults are nearly Stable Diffusion's.
        "sd15": PublishedBase(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "StableDiffusionPipeline",
            512,
            "float32",
            {
                "unet": _diffusers("UNet2DConditionModel", sample_size=64, cross_attention_dim=768),
                "text_encoder": _transformers("CLIPTextModel", 123_060_480, **_CLIP_L),
                "vae": _VAE_4,
            },
        ),
        "sdxl": PublishedBase(
            "stabilityai/stable-diffusion-xl-base-1.0",
            "StableDiffusionXLPipeline",
            1024,
            "float32",
            {
                "unet": _diffusers("UNet2DConditionModel", **_SDXL_UNET),
                "text_encoder": _transformers("CLIPTextModel", 123_060_480, **_CLIP_L),
                "text_encoder_2": _transformers("CLIPTextModelWithProjection", 694_659_840, **_CLIP_G),
                "vae": _VAE_4,
            },
        ),
        # Medium: 24 blocks of 24 heads (arXiv:2403.03206, section 5.3, depth 24).
        "sd3": PublishedBase(
            "stabilityai/stable-diffusion-3-medium-diffusers",
            "StableDiffusion3Pipeline",
            1024,
            "float16",
            {
                "transformer": _diffusers(
                    "SD3Transformer2DModel",
                    num_layers=24,
                    num_attention_heads=24,
                    caption_projection_dim=1536,
                    pos_embed_max_size=192,
                ),
                "text_encoder": _transformers(
                    "CLIPTextModelWithProjection", 123_650_304, **_CLIP_L, projection_dim=768
                ),
                "text_encoder_2": _transformers("CLIPTextModelWithProjection", 694_659_840, **_CLIP_G),
                "text_encoder_3": _T5_XXL,
                "vae": _VAE_16,
            },
        ),
        # dev: diffusers' defaults are schnell's, which is told no guidance. 11,901,408,320 weights.
        "flux": PublishedBase(
            "black-forest-labs/FLUX.1-dev",
            "FluxPipeline",
            1024,
            "bfloat16",
            {
                "transformer": _diffusers("FluxTransformer2DModel", guidance_embeds=True),
                "text_encoder": _transformers("CLIPTextModel", 123_060_480, **_CLIP_L),
                "text_encoder_2": _T5_XXL,
                "vae": _VAE_16,
            },
        ),
        # dev: diffusers' defaults, 32,223,281,152 weights; Mistral Small's layers 10, 20 and 30 side by side.
        "flux2-dev": PublishedBase(
            "black-forest-labs/FLUX.2-dev",
            "Flux2Pipeline",
            1024,
            "bfloat16",
            {
                "transformer": _diffusers("Flux2Transformer2DModel"),
                "text_encoder": _MISTRAL_SMALL,
                "vae": _diffusers("AutoencoderKLFlux2"),
            },
        ),
        # klein 4B: 5 double and 20 single blocks of 3072, Qwen3-4B's layers 9, 18 and 27 side by side (3 x 2560), no
        # guidance (github.com/black-forest-labs/flux2, Klein4BParams). 3,875,544,576 weights.
        "flux2-klein": PublishedBase(
            "black-forest-labs/FLUX.2-klein-4B",
            "Flux2KleinPipeline",
            1024,
            "bfloat16",
            {
                "transformer": _diffusers(
                    "Flux2Transformer2DModel",
                    num_layers=5,
                    num_single_layers=20,
                    num_attention_heads=24,
                    joint_attention_dim=7680,
                    guidance_embeds=False,
                ),
                "text_encoder": _QWEN3_4B,
                "vae": _diffusers("AutoencoderKLFlux2"),
            },
        ),
        # Defaults of diffusers, 8,899,983,424 weights; T5 and the VAE are FLUX.1's.
        "chroma": PublishedBase(
            "lodestones/Chroma1-HD",
            "ChromaPipeline",
            1024,
            "bfloat16",
            {"transformer": _diffusers("ChromaTransformer2DModel"), "text_encoder": _T5_XXL, "vae": _VAE_16},
        ),
        # Defaults of diffusers, 20,430,401,088 weights; Qwen2.5-VL-7B-Instruct (arXiv:2502.13923, table 1) reads.
        "qwen-image": PublishedBase(
            "Qwen/Qwen-Image",
            "QwenImagePipeline",
            1024,
            "bfloat16",
            {
                "transformer": _diffusers("QwenImageTransformer2DModel"),
                "text_encoder": _transformers(
                    "Qwen2_5_VLForConditionalGeneration",
                    8_292_166_656,
                    text_config={
                        "hidden_size": 3584,
                        "intermediate_size": 18944,
                        "num_hidden_layers": 28,
                        "num_attention_heads": 28,
                        "num_key_value_heads": 4,
                        "vocab_size": 152064,
                    },
                    vision_config={
                        "depth": 32,
                        "hidden_size": 1280,
                        "intermediate_size": 3420,
                        "num_heads": 16,
                        "out_hidden_size": 3584,
                    },
                ),
                "vae": _diffusers("AutoencoderKLQwenImage"),
            },
        ),
        # Defaults of diffusers, 6,154,908,736 weights.
        "z-image": PublishedBase(
            "Tongyi-MAI/Z-Image",
            "ZImagePipeline",
            1024,
            "bfloat16",
            {
                "transformer": _diffusers("ZImageTransformer2DModel"),
                "text_encoder": _QWEN3_4B,
                "vae": _VAE_16,
            },
        ),
    }
)
"""Their shapes, by the name that a user gives."""


def find_published(name: str) -> PublishedBase:
    """The published base of that name.

    Raises:
        BaseError: there is none.
    """
    if name not in PUBLISHED:
        raise BaseError(f"family: expected one of {', '.join(PUBLISHED)}, got {name!r}")
    return PUBLISHED[name]
