"""What is played is what is kept: a blend that is drawn by activating, and its merge, change the weights alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.errors import InputError
from spectra.studio.blend import Part, between, merge_command, write_blend


@pytest.fixture(scope="module")
def shifts(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shifts")
    pipe = load_pipeline(str(tiny_base))
    paths = []
    for seed, targets in enumerate(("unet", "unet-ca,text-encoder")):
        adapter = spectra.attach(pipe, targets, directions=0, outer=1)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(torch.randn(parameter.shape))
        paths.append(folder / f"{'ab'[seed]}.safetensors")
        spectra.write_shift(adapter.shift(base="tiny"), paths[-1])
        adapter.detach()
    return paths


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    parts = {name: getattr(pipe, name) for name in ("unet", "text_encoder")}
    return {f"{n}.{key}": value.clone() for n, part in parts.items() for key, value in part.state_dict().items()}


@pytest.mark.parametrize(
    "texts",
    [
        ("0.5", "1.5"),
        ("0.8;unet.down_blocks=0.5;unet=0", "1;unet.up_blocks=2;text_encoder.text_model.encoder.layers=0"),
    ],
)
def test_a_blend_that_is_kept_does_what_it_did(
    texts: tuple[str, str], shifts: list[Path], tiny_base: Path, tmp_path: Path
) -> None:
    parts = [Part.of(path, text) for path, text in zip(shifts, texts, strict=True)]
    assert [Part.of(part.path, part.text("a").partition(";")[2]) for part in parts] == parts
    pipe = load_pipeline(str(tiny_base))
    for part in parts:
        spectra.load(pipe, part.path, activate=False)
    spectra.activate(pipe, {part.path.stem: part.weights for part in parts})
    played = weights(pipe)
    spectra.unload(pipe)
    base = weights(pipe)
    out = tmp_path / "kept.safetensors"
    write_blend(parts, out)
    spectra.load(pipe, out)
    kept = weights(pipe)
    assert any(not torch.equal(played[name], base[name]) for name in base)
    for name in base:
        torch.testing.assert_close(kept[name], played[name], rtol=1e-4, atol=1e-5)
    recipe = spectra.read_shift(out).metadata.recipe
    assert isinstance(recipe, dict) and recipe["method"] == "add"


def test_the_command_writes_the_same_file(shifts: list[Path], tmp_path: Path, spectra_cli: Any) -> None:
    import shlex

    parts = [Part.of(shifts[0], "0.5;unet.up_blocks=2"), Part.of(shifts[1], "1")]
    write_blend(parts, tmp_path / "here.safetensors")
    command = shlex.split(merge_command(parts, tmp_path / "there.safetensors"))
    assert spectra_cli(*command[1:]).code == 0
    assert (tmp_path / "here.safetensors").read_bytes() == (tmp_path / "there.safetensors").read_bytes()


def test_a_strip_leads_from_one_to_the_other(shifts: list[Path]) -> None:
    strip = between(Part(shifts[0], 2.0), Part(shifts[1], 1.0), 5)
    assert [(a.scale, b.scale) for a, b in strip] == [(2.0, 0.0), (1.5, 0.25), (1.0, 0.5), (0.5, 0.75), (0.0, 1.0)]


@pytest.mark.parametrize("text", ["x", "nan", "1e9", "unet.up_blocks=much"])
def test_wrong_numbers_of_an_address_are_told(text: str, shifts: list[Path]) -> None:
    with pytest.raises(InputError, match="scale: expected a number"):
        Part.of(shifts[0], text)
    with pytest.raises(InputError, match="nothing to save"):
        write_blend([], shifts[0])
