"""Weights meant by name: subsets, patterns, and errors that name the nearest."""

from __future__ import annotations

import pytest

from spectra.errors import TargetError
from spectra.naming.target_subsets import matching, may_name

NDIMS = {
    "unet.conv_in": 4,
    "unet.conv_norm_out": 1,
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": 2,
    "text_encoder.final_layer_norm": 1,
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("unet", {"unet.conv_in", "unet.conv_norm_out", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"}),
        ("unet-ca-kv", {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"}),
        ("unet-4d", {"unet.conv_in"}),
        ("attention", {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"}),
        ("*norm*", {"unet.conv_norm_out", "text_encoder.final_layer_norm"}),
        ("unet.mid_block", {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"}),
        ("unet-4d, text-encoder", {"unet.conv_in", "text_encoder.final_layer_norm"}),
    ],
)
def test_names_are_matched(pattern: str, expected: set[str]) -> None:
    assert matching(NDIMS, pattern, NDIMS) == tuple(sorted(expected))


@pytest.mark.parametrize(
    ("pattern", "ndims", "said"),
    [
        ("unet.conv_im", NDIMS, "matches none of 4 weights; the nearest is 'unet.conv_in'"),
        ("unet.mid_bloc", NDIMS, "matches none"),
        ("unett", NDIMS, "did you mean 'unet'"),
        ("unet-2d", {}, "goes by the dimensions of weights"),
        ("transformer", NDIMS, "matches none"),
    ],
)
def test_what_matches_nothing_is_refused(pattern: str, ndims: dict[str, int], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        matching(NDIMS, pattern, ndims)


@pytest.mark.parametrize(
    ("pattern", "component", "expected"),
    [
        ("unet-ca", "unet", True),
        ("unet-ca", "transformer", False),
        ("attention", "transformer", True),
        ("text-encoder", "text_encoder_2", True),
        ("transformer.*attn*", "transformer", True),
        ("transformer.*attn*", "transformer_2", False),
        ("unet.mid_block", "unet", True),
        ("*norm*", "vae", True),
        ("text*norm*", "text_encoder", True),
        ("text*norm*", "unet", False),
        ("unet.*norm*, text_encoder.*", "text_encoder", True),
    ],
)
def test_what_a_pattern_may_name(pattern: str, component: str, expected: bool) -> None:
    assert may_name(pattern, component) is expected
