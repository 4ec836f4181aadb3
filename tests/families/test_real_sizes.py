"""The models as they are in full size, on the meta device: what of them a shift finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spectra.bases.published import PUBLISHED, Part
from spectra.bases.shapes import build
from spectra.families import targets
from spectra.naming.blocks import block_of, kind_of


def _published(name: str, **changed: object) -> Part:
    part = PUBLISHED[name].parts["transformer"]
    return replace(part, config={**part.config, **changed})


SIZES: dict[str, tuple[Part, float, int, int]] = {
    "SD3 medium": (_published("sd3"), 2.0e9, 23 * 14 + 11 + 8, 24),
    "SD3.5 large": (
        _published(
            "sd3", num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm"
        ),
        8.0e9, 37 * 18 + 15 + 8, 38,
    ),
    "Qwen-Image": (_published("qwen-image"), 20.4e9, 60 * 18 + 7, 60),
    "Z-Image": (_published("z-image"), 6.15e9, 32 * 14 + 2 * 13 + 7, 34),
    "FLUX.1": (_published("flux"), 11.9e9, 19 * 18 + 38 * 8 + 10, 57),
    "Chroma": (_published("chroma"), 8.9e9, 19 * 16 + 38 * 7 + 20, 57),
    "FLUX.2 dev": (_published("flux2-dev"), 32.2e9, 8 * 16 + 48 * 4 + 11, 56),
    "FLUX.2 klein 4B": (_published("flux2-klein"), 3.9e9, 5 * 16 + 20 * 4 + 9, 25),
    "FLUX.2 klein 9B": (
        _published(
            "flux2-klein", num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288
        ),
        9.1e9, 8 * 16 + 24 * 4 + 9, 32,
    ),
}  # fmt: skip
"""Shape, parameters, weights that a shift can act on (blocks times weights of each, the last block,
and those beside them), blocks."""


@pytest.mark.parametrize("name", SIZES)
def test_a_shift_finds_nearly_all_of_a_model(name: str) -> None:
    part, parameters, count, blocks = SIZES[name]
    model = build(part)
    found = targets({"transformer": model})
    total = sum(each.numel() for each in model.parameters())
    assert total == pytest.approx(parameters, rel=0.02)
    assert sum(each.weight.numel() for each in found) > 0.99 * total
    assert len(found) == count
    matrices = [each.name for each in found if each.weight.ndim > 1]
    assert not [each for each in matrices if kind_of(each) == "other"]
    main = [each for each in matrices if kind_of(each) != "modulation"]  # which may have a stack of its own
    assert len({block_of(each) for each in main}) == blocks + 1
    attention = {each.name for each in targets({"transformer": model}, "attention")}
    within = {".".join(each.split(".")[:3]) for each in attention}
    assert len(within) == blocks
    assert {kind_of(each) for each in attention} == {"joint attention"}
    assert {kind_of(each.name) for each in targets({"transformer": model}, "feed-forward")} == {"feed-forward"}
