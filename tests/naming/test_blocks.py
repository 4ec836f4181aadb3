"""The block and the kind of a weight, by its name."""

from __future__ import annotations

import pytest

from spectra.naming.blocks import block_of, kind_of

UNET = "unet.down_blocks.1.attentions.0."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (UNET + "transformer_blocks.0.attn2.to_q", "cross-attention"),
        (UNET + "transformer_blocks.0.attn1.to_out.0", "self-attention"),
        (UNET + "transformer_blocks.0.norm2", "norm"),
        (UNET + "transformer_blocks.0.ff.net.0.proj", "feed-forward"),
        (UNET + "proj_in", "projection"),
        (UNET + "norm", "norm"),
        ("unet.down_blocks.1.resnets.0.conv_shortcut", "convolution"),
        ("unet.down_blocks.1.resnets.0.time_emb_proj", "embedding"),
        ("unet.conv_norm_out", "norm"),
        ("unet.time_embedding.linear_1", "embedding"),
        ("text_encoder.text_model.encoder.layers.3.self_attn.q_proj", "self-attention"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc1", "feed-forward"),
        ("text_encoder.text_model.embeddings.token_embedding", "embedding"),
        ("transformer.single_transformer_blocks.12.attn.to_q", "joint attention"),
        ("transformer.single_transformer_blocks.12.proj_mlp", "feed-forward"),
        ("transformer.layers.3.attention.norm_q", "joint attention"),
        ("transformer.layers.3.feed_forward.w1", "feed-forward"),
        ("transformer.layers.3.attention_norm1", "norm"),
        ("transformer.layers.3.adaLN_modulation.0", "modulation"),
        ("transformer.all_final_layer.2-1.linear", "projection"),
        ("transformer.t_embedder.mlp.0", "embedding"),
        ("transformer.transformer_blocks.3.img_mod.1", "modulation"),
        ("transformer.transformer_blocks.3.norm1_context.linear", "modulation"),
        ("transformer.single_transformer_blocks.12.norm.linear", "modulation"),
        ("transformer.txt_in", "embedding"),
        ("unet.something_else", "other"),
    ],
)
def test_kind(name: str, expected: str) -> None:
    assert kind_of(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (UNET + "proj_in", "unet.down_blocks.1"),
        ("unet.mid_block.resnets.1.conv1", "unet.mid_block"),
        ("unet.conv_in", "unet"),
        ("transformer.noise_refiner.1.feed_forward.w1", "transformer.noise_refiner.1"),
        ("transformer.cap_embedder.1", "transformer"),
        ("transformer.all_final_layer.2-1.adaLN_modulation.1", "transformer"),
        ("transformer.transformer_blocks.10.img_mod.1", "transformer.transformer_blocks.10"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc1", "text_encoder.text_model.encoder.layers.3"),
    ],
)
def test_block(name: str, expected: str) -> None:
    assert block_of(name) == expected
