"""Parts that tiny pipelines of several families share: random weights, the real classes."""

from __future__ import annotations

from typing import Any

VOCABULARY = "abcdefghijklmnopqrstuvwxyz"


def vae(channels: int, scaling: float = 1.0, shift: float | None = None) -> Any:
    """An AutoencoderKL of so many latent channels; latents have a quarter of a picture's side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def clip(width: int, *, projected: bool) -> Any:
    """A CLIP text encoder for the tokenizer of `tiny_base`, with a projection to 12 or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=64, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=48, bos_token_id=0, eos_token_id=1, projection_dim=12,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5(width: int) -> Any:
    """A T5 encoder for `t5_tokenizer`."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=64, d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2)).eval()


def t5_tokenizer() -> Any:
    """A T5 tokenizer of single letters, with and without the mark of a word's beginning, and one word."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581sun", -1.0), ("\u2581", -3.0)]
    pieces += [(letter, -4.0) for letter in VOCABULARY]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=16)
