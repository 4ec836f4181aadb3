"""The paper's layers, mapped to the modules of each family."""

from __future__ import annotations

from functools import cache

import pytest

from spectra.errors import InputError
from spectra.naming.unet_layers import LAYOUTS, Layout, find_layout

SD, SDXL, EMBEDDED = LAYOUTS


@cache
def unet_names(layout: Layout) -> list[str]:
    """Every weight of a UNet of that family, from diffusers itself, on the meta device."""
    import torch
    from diffusers import UNet2DConditionModel

    last = len(layout.resolutions) - 1
    config = {
        "sample_size": layout.resolutions[0],
        "block_out_channels": tuple(32 * 2**n for n in range(last + 1)),
        "layers_per_block": layout.layers,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in layout.attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(layout.attention)),
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)  # type: ignore[arg-type]
    names = {name.removesuffix(".weight") for name, _ in unet.named_parameters() if name.endswith(".weight")}
    return [f"unet.{name}" for name in sorted(names)]


def test_the_papers_range_in_stable_diffusion() -> None:
    names = unet_names(SD)
    assert SD.geometry == "16,down,1:8,down,0"
    held = [name for name in names if any(layer.holds(name) for layer in SD.between("(16, down, 1):(8, down, 0)"))]
    attention = {name.split(".transformer_blocks")[0] for name in held if "attn2" in name}
    # Two cross-attentions, as P+ counts its sixteen: the last on the way down, and the middle block's.
    assert attention == {"unet.down_blocks.2.attentions.1", "unet.mid_block.attentions.0"}
    assert "unet.down_blocks.2.resnets.1.time_emb_proj" in held
    assert "unet.down_blocks.3.resnets.0.time_emb_proj" in held
    assert "unet.down_blocks.2.resnets.0.time_emb_proj" not in held
    assert len(SD.all_layers) == 16


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_block_weight_belongs_to_exactly_one_layer(layout: Layout) -> None:
    for name in unet_names(layout):
        layers = [layer.name for layer in layout.all_layers if layer.holds(name)]
        inside = "_block" in name
        assert len(layers) == inside, (name, layers)
    for layer in layout.all_layers:
        assert sum("attn2.to_k" in name for name in unet_names(layout) if layer.holds(name)) == 1


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("part", ["", "attn2", "up_blocks", "down_blocks"])
def test_a_family_is_known_by_its_weights(layout: Layout, part: str) -> None:
    assert find_layout(name for name in unet_names(layout) if part in name) is layout


@pytest.mark.parametrize("names", [[], ["unet.conv_in"], ["unet.down_blocks.7.attentions.0.proj_in"]])
def test_other_weights_tell_no_family(names: list[str]) -> None:
    with pytest.raises(InputError, match="cannot tell"):
        find_layout(names)


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ("16,down,7", "has no '16,down,7'"),
        ("8,down,0:16,down,1", "expected FIRST:LAST such as 16,down,1:8,down,0"),
        ("64,down,0:64,down,1:32,down,0", "expected FIRST:LAST"),
    ],
)
def test_bad_ranges(span: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SD.between(span)


def test_where_the_lowest_resolution_has_attention() -> None:
    assert SDXL.geometry == "32,down,1:32,mid,0"
    assert EMBEDDED.geometry == "4,down,0:4,mid,0"
    assert [layer.name for layer in EMBEDDED.between("4,mid,0")] == ["4,mid,0"]
