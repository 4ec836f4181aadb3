"""Content from one shift, style from another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.combine.mixing import mix
from spectra.errors import MismatchError, TargetError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.word_vectors import WordVectors

BLOCKS = ("down_blocks.1.attentions.0", "down_blocks.2.attentions.0", "mid_block.attentions.0",
          "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "up_blocks.1.attentions.0",
          "up_blocks.1.attentions.1")  # fmt: skip
GEOMETRY = {f"unet.{block}.proj" for block in BLOCKS[1:3]}
NDIMS = {f"unet.{block}.proj": 2 for block in BLOCKS} | {f"unet.{block}.norm": 1 for block in BLOCKS} | {"unet.time": 2}


def shift(value: float, names: Any = NDIMS, digits: str = "0123abcd") -> SpectralShift:
    """A shift of the embedded base's shape whose deltas all have one value."""
    metadata = ShiftMetadata("tiny", dict.fromkeys(names, digits), ndims={name: NDIMS[name] for name in names})
    return SpectralShift({name: np.full(3, float(value)) for name in names}, metadata)


def test_geometry_is_the_contents_and_all_else_the_styles() -> None:
    mixed = mix(shift(1), shift(2))
    assert set(mixed.shift) == {name for name, ndim in NDIMS.items() if ndim == 2}
    assert {name for name, delta in mixed.shift.items() if delta[0] == 1} == GEOMETRY
    assert {layer.name for layer, own, _ in mixed.layers if own} == {"4,down,0", "4,mid,0"}
    assert all(weights == 1 for _, _, weights in mixed.layers)
    assert (mixed.elsewhere, mixed.left_out) == (1, len(BLOCKS))
    recipe: Any = mixed.shift.metadata.recipe
    assert (recipe["method"], recipe["layers"], recipe["target"]) == ("mix", "4,down,0:4,mid,0", "unet-2d")
    assert len(recipe["shifts"]) == 2


def test_a_shift_mixed_with_itself_is_itself() -> None:
    one = shift(1)
    assert dict(mix(one, one, target="unet").shift).keys() == one.keys()
    assert all(np.array_equal(delta, one[name]) for name, delta in mix(one, one, target="unet").shift.items())


def test_terms_and_words_go_with_their_weights() -> None:
    tokens = "text_encoder.tokens"
    names = [*NDIMS, tokens]
    content, style = (
        SpectralShift(
            {name: np.zeros(3) for name in names},
            ShiftMetadata("tiny", dict.fromkeys(names, "0123abcd"), ndims={name: NDIMS.get(name, 2) for name in names}),
            outer={name: OuterTerms(np.full((1, 3), value), np.ones((1, 4))) for name in names if NDIMS.get(name) == 2},
            words={tokens: WordVectors((1,), np.full((1, 4), value), f"word{value:g}")},
        )
        for value in (1.0, 2.0)
    )
    mixed = mix(content, style, target="unet-2d,text_encoder*").shift
    assert {name for name, each in mixed.outer.items() if each.a[0, 0] == 1} == GEOMETRY
    assert mixed.outer.keys() == {name for name, ndim in NDIMS.items() if ndim == 2}
    assert mixed.words == {tokens: content.words[tokens]}


def test_layers_and_targets_can_be_chosen() -> None:
    mixed = mix(shift(1), shift(2), layers="8,up,0:8,up,1", target="unet.*.norm")
    assert {name for name, delta in mixed.shift.items() if delta[0] == 1} == {
        f"unet.{block}.norm" for block in BLOCKS[-2:]
    }


def test_the_text_encoder_is_the_contents() -> None:
    named = {**NDIMS, "text_encoder.fc": 2}
    metadata = ShiftMetadata("tiny", dict.fromkeys(named, "0123abcd"), ndims=named)
    content, style = (SpectralShift({name: np.full(3, v) for name in named}, metadata) for v in (1.0, 2.0))
    mixed = mix(content, style, target="unet,text-encoder")
    assert mixed.shift["text_encoder.fc"][0] == 1
    assert mixed.shift["unet.time"][0] == 2
    assert (mixed.text, mixed.elsewhere, mixed.left_out) == (1, 1, 0)
    assert mix(content, style).text == 0


def test_what_cannot_be_mixed() -> None:
    with pytest.raises(MismatchError, match="different bases"):
        mix(shift(1), shift(2, digits="ffffffff"))
    elsewhere = [name for name in NDIMS if name not in GEOMETRY]
    with pytest.raises(MismatchError, match="content shift has none of the weights"):
        mix(shift(1, elsewhere), shift(2))
    with pytest.raises(TargetError):
        mix(shift(1), shift(2), target="text-encoder")


def test_the_command(spectra_cli: Callable[..., Any], tmp_path: Path) -> None:
    for name, value in (("content", 1.0), ("style", 2.0)):
        write_shift(shift(value), tmp_path / f"{name}.safetensors", dtype="float16")
    files = [tmp_path / "content.safetensors", tmp_path / "style.safetensors", "-o", tmp_path / "mixed.safetensors"]
    ran = spectra_cli("mix", *files, "--json")
    assert (ran.code, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert report["family"] == "embedded"
    assert [row["layer"] for row in report["layers"] if row["from"] == "content"] == ["4,down,0", "4,mid,0"]
    mixed = read_shift(tmp_path / "mixed.safetensors")
    assert mixed.precision == "float16"
    assert mixed.metadata.parents == tuple(read_shift(path).metadata.content_hash for path in files[:2])
    again = spectra_cli("mix", *files)
    assert again.code == 1
    assert "exists already" in again.err
    shown = spectra_cli("mix", *files, "--force")
    assert shown.code == 0
    assert "4,mid,0" in shown.out
    assert max(len(line) for line in shown.out.splitlines() if str(tmp_path) not in line) <= 80
