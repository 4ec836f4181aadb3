"""Sums by block and kind."""

from __future__ import annotations

import numpy as np
import pytest

from spectra.analysis.inspection import block, grouped, kind, layers, total
from spectra.shift.shift import ShiftMetadata, SpectralShift

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
        ("unet.something_else", "other"),
    ],
)
def test_kind(name: str, expected: str) -> None:
    assert kind(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (UNET + "proj_in", "unet.down_blocks.1"),
        ("unet.mid_block.resnets.1.conv1", "unet.mid_block"),
        ("unet.conv_in", "unet"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc1", "text_encoder.text_model.encoder.layers.3"),
    ],
)
def test_block(name: str, expected: str) -> None:
    assert block(name) == expected


def shift_of(deltas: dict[str, list[float]]) -> SpectralShift:
    arrays = {name: np.array(values) for name, values in deltas.items()}
    return SpectralShift(arrays, ShiftMetadata("b", dict.fromkeys(arrays, "0" * 8)))


def test_the_parts_add_up() -> None:
    deltas = {UNET + "proj_in": [3.0, 0.0], UNET + "norm": [0.0, -4.0, 0.0], "unet.conv_in": [12.0]}
    shift = shift_of(deltas)
    whole = total(shift)
    assert (whole.tensors, whole.floats, whole.norm, whole.largest) == (3, 6, 13.0, 12.0)
    first, second = grouped(shift, block)
    assert (first.name, first.norm, second.name, second.norm, second.largest) == (
        "unet",
        12,
        "unet.down_blocks.1",
        5,
        4,
    )
    for parts in (grouped(shift, block), grouped(shift, kind), layers(shift)):
        assert sum(part.floats for part in parts) == whole.floats
        assert sum(part.norm**2 for part in parts) == pytest.approx(whole.norm**2)


def test_numbered_blocks_come_in_numerical_order() -> None:
    shift = shift_of({f"transformer.blocks.{i}.attn.to_q": [1.0] for i in (10, 9, 1)})
    assert [part.name.rsplit(".", 1)[1] for part in grouped(shift, block)] == ["1", "9", "10"]


def test_the_norm_is_that_of_the_weight_change() -> None:
    """`||delta|| = ||U diag(delta) V^T||_F`, in float64."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    right, _ = np.linalg.qr(rng.normal(size=(9, 6)))
    delta = rng.normal(size=6).astype(np.float32)
    change = left @ np.diag(delta.astype(np.float64)) @ right.T
    assert total(shift_of({"unet.a": delta.tolist()})).norm == pytest.approx(np.linalg.norm(change), rel=1e-12)
