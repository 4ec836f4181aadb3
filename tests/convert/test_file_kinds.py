"""What a file is, by its keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectra.convert.file_kinds import header_of, holds_lora, svdiff_layout
from spectra.errors import FormatError


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", True),
        ("lora_unet_down_blocks_0_attn1_to_q.lora_up.weight", True),
        ("unet.down_blocks.0.attn1.to_q.lora.up.weight", True),
        ("unet.down_blocks.0.attn1.processor.to_q_lora.up.weight", True),
        ("lora_unet_conv_in.hada_w1_a", True),
        ("diffusion_model.input_blocks.0.0.diff", True),
        ("lora_te_text_model_final_layer_norm.w_norm", True),
        ("model.diffusion_model.input_blocks.0.0.weight", False),
        ("unet.conv_in.delta", False),
    ],
)
def test_changes_are_told_from_models(key: str, expected: bool) -> None:
    assert holds_lora([key]) is expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("conv_in.delta", "svdiff-pytorch"),
        ("conv_in.parametrizations.weight.0.delta", "dome272"),
        ("conv_in.parametrizations.weight.0.eigenvalues_delta", "phymhan"),
        ("conv_in.weight", ""),
    ],
)
def test_other_implementations_are_told_apart(key: str, expected: str) -> None:
    assert svdiff_layout([key]) == expected


def test_an_unknown_dtype_is_one_line(tmp_path: Path) -> None:
    header = json.dumps({"a.delta": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(FormatError, match="a.delta is in F8_E8M0, which is not read; expected float64"):
        header_of(tmp_path / "x.safetensors")
