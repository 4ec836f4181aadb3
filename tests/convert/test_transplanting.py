"""Transplanting: what is carried over is `diag(U'^T Delta W V')`, and the score says how much that is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import plain_base
import pytest
import small_models
import tiny_base
import torch

import spectra
from spectra.bases.weight_files import base_weights
from spectra.convert.transplanting import transplant
from spectra.errors import BaseError, MismatchError
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.spectrum.cache.spectrum_cache import default_cache
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.shifted_weight import shifted_weight
from spectra.spectrum.spectrum import matrix, other_side


def near(pipe: Any, size: float) -> Any:
    """The pipeline, each weight moved by noise of `size` of its deviation."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(size * parameter.std() * torch.randn_like(parameter) if parameter.numel() > 1 else 0)
    return pipe


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    tiny_base.build().save_pretrained(folder / "old")
    near(tiny_base.build(), 0.01).save_pretrained(folder / "near")
    tiny_base.build(seed=1).save_pretrained(folder / "far")
    return folder


@pytest.fixture(scope="module")
def shift() -> SpectralShift:
    return small_models.mild_shift(tiny_base.build(), "unet", 1)


def test_to_its_own_base_it_is_what_it_was(bases: Path, shift: SpectralShift) -> None:
    done = transplant(shift, str(bases / "old"), source=str(bases / "old"))
    assert done.error < 1e-6
    assert done.shift.metadata.fingerprints == shift.metadata.fingerprints
    for name, delta in shift.items():
        assert np.abs(done.shift[name] - delta).max() <= 1e-6 * np.abs(delta).max() + 1e-7, name


def test_the_formula_and_the_error(bases: Path, shift: SpectralShift) -> None:
    done = transplant(shift, str(bases / "near"), source=str(bases / "old"))
    errors = {layer.name: layer.error for layer in done.layers}
    old, new = (base_weights(str(bases / base), ["unet"]) for base in ("old", "near"))
    for name in ("unet.conv_in", "unet.up_blocks.0.attentions.0.proj_in", "unet.down_blocks.1.resnets.0.conv1"):
        spectrum = default_cache().spectrum(old[name])
        shifted = shifted_weight(old[name].double(), spectrum, torch.from_numpy(shift[name].copy()))
        change = matrix(shifted - old[name])
        there = decompose(new[name])
        u, v = there.basis.double().T, other_side(new[name], there)
        u, v = (u, v) if there.side == "left" else (v, u)
        expected = ((u @ change) * v).sum(1).maximum(-there.sigma)
        assert torch.allclose(
            torch.from_numpy(done.shift[name].astype(float)), expected, atol=1e-5 * float(change.norm())
        )
        made = (u.T * expected) @ v
        assert errors[name] == pytest.approx(float((change - made).norm() / change.norm()), abs=1e-5)
    assert 0 < done.error < 0.7
    assert errors["unet.conv_norm_out"] == 0  # a norm takes any change
    pipe = near(tiny_base.build(), 0.01)
    spectra.load(pipe, done.shift, name="x")


def test_a_rounded_copy_keeps_nearly_all(bases: Path, shift: SpectralShift) -> None:
    half = transplant(shift, str(bases / "old"), source=str(bases / "old"), dtype="float16")
    coarse = transplant(shift, str(bases / "old"), source=str(bases / "old"), dtype="bfloat16")
    assert 0 < half.error < coarse.error < 0.3
    assert half.error < 0.03
    pipe = tiny_base.build()
    torch.nn.Module.to(pipe.unet, torch.float16)
    spectra.load(pipe, half.shift, name="x")


def test_to_a_base_that_lacks_weights(bases: Path, shift: SpectralShift, tmp_path: Path) -> None:
    pipe = tiny_base.build()
    other = small_models.build("unet")[0]
    other.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    pipe.unet.conv_in = torch.nn.Conv2d(5, 16, 3, padding=1)
    pipe.unet.save_pretrained(tmp_path / "wider" / "unet")
    (tmp_path / "wider" / "model_index.json").write_text("{}")
    done = transplant(shift, str(tmp_path / "wider"), source=str(bases / "old"))
    assert done.missing == ("unet.conv_in",)
    assert set(done.shift) == set(shift) - {"unet.conv_in"}
    assert {layer.name: layer.error for layer in done.layers}["unet.conv_in"] == 1
    assert done.error > 0.01


def test_outer_terms_and_words_are_carried_over_as_they_are(bases: Path) -> None:
    """They add the same change to the other base, so nothing of them is lost; few directions stay few."""
    old, new = (base_weights(str(bases / base)) for base in ("old", "near"))
    table = next(name for name in old if name.endswith("token_embedding"))
    shift = plain_base.mixed_shift(dict(old), 4, 2, [table])
    done = transplant(shift, str(bases / "near"), source=str(bases / "old"))
    assert done.shift.outer == shift.outer
    assert done.shift.words == shift.words
    there, here = plain_base.shifted(dict(new), done.shift), plain_base.shifted(dict(old), shift)
    found = {layer.name: layer for layer in done.layers}
    change = rest = 0.0
    for name, weight in old.items():
        delta = done.shift[name]
        if weight.ndim == 1:
            assert np.array_equal(delta, shift[name])
            continue
        assert not delta[4:].any()
        mine, theirs = here[name] - weight.double(), there[name] - new[name].double()
        size, missed = float(mine.square().sum()), float((theirs - mine).square().sum())
        assert found[name].change == pytest.approx(size, rel=1e-4), name
        assert found[name].rest == pytest.approx(missed, abs=1e-4 * size), name
        change, rest = change + size, rest + missed
    assert done.error == pytest.approx(math.sqrt(rest / change), abs=1e-4)
    alone = SpectralShift({n: 0 * d for n, d in shift.items()}, shift.metadata, outer=shift.outer, words=shift.words)
    assert transplant(alone, str(bases / "far"), source=str(bases / "old")).error == 0


def test_what_cannot_be_carried_over_is_said(bases: Path, shift: SpectralShift) -> None:
    with pytest.raises(MismatchError, match="--from"):
        transplant(shift, str(bases / "near"), source=str(bases / "far"))
    with pytest.raises(BaseError, match=r"trained on test, which is not there; its weights are needed.*--from"):
        transplant(shift, str(bases / "near"))
    with pytest.raises(MismatchError, match=r"has an error of \d.*--max-error"):
        transplant(shift, str(bases / "far"), source=str(bases / "old"), max_error=0.5)
    flux = small_models.random_shift(small_models.build("flux")[0], "transformer", 1)
    with pytest.raises(BaseError, match="no component"):
        transplant(flux, str(bases / "near"), source=str(bases / "old"))


def test_the_command(bases: Path, shift: SpectralShift, tmp_path: Path, spectra_cli: Any) -> None:
    write_shift(shift, tmp_path / "x.safetensors")
    given = ["transplant", tmp_path / "x.safetensors", "--from", bases / "old", "-o", tmp_path / "y.safetensors"]
    ran = spectra_cli(*given, "--to", bases / "near", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    done = read_shift(tmp_path / "y.safetensors")
    assert done.metadata.parents == (read_shift(tmp_path / "x.safetensors").metadata.content_hash,)
    assert done.precision == "float32"
    assert done.metadata.recipe == {"method": "transplant", "from": "test", "error": round(found["matrices_error"], 6)}
    shown = spectra_cli(*given, "--to", bases / "far", "--force")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines()[:-2])) <= 80
    assert shown.out.splitlines()[-1].startswith("next: spectra generate --base ")
    assert "little of this shift is left" in shown.err
    refused = spectra_cli(*given, "--to", bases / "far", "--force", "--max-error", "0.1")
    assert (refused.code, refused.err.count("\n")) == (1, 1)


def test_the_file_s_precision_is_kept(bases: Path, shift: SpectralShift, tmp_path: Path, spectra_cli: Any) -> None:
    write_shift(shift, tmp_path / "x.safetensors", dtype="float16")
    given = ["transplant", tmp_path / "x.safetensors", "--from", bases / "old", "--to", bases / "near"]
    for more, precision in (((), "float16"), (("--file-dtype", "float32"), "float32")):
        ran = spectra_cli(*given, *more, "-o", tmp_path / precision)
        assert ran.code == 0, ran.err
        assert read_shift(tmp_path / precision).precision == precision
