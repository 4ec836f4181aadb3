"""`spectra verify`: one line for each file, and whether it fits a base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.bases.weight_files import base_weights
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.fingerprint import fingerprint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in float32."""
    from tiny_base import build

    path: Path = tmp_path_factory.mktemp("bases") / "float32"
    build().save_pretrained(path)
    return path


@pytest.fixture
def path(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shift of it."""
    adapter = spectra.attach(load_pipeline(str(base)), "unet-ca,unet-1d")
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    target = tmp_path_factory.mktemp("shifts") / "fox.safetensors"
    write_shift(adapter.shift(base="tiny"), target)
    adapter.detach()
    return target


def changed(base: Path, target: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The base with another UNet."""
    (target / "unet").mkdir(parents=True)
    (target / "model_index.json").write_bytes((base / "model_index.json").read_bytes())
    name = "diffusion_pytorch_model.safetensors"
    weights = load_file(base / "unet" / name)
    save_file({key: change(weight) for key, weight in weights.items()}, target / "unet" / name)
    return target


def verdicts(ran: Any) -> dict[str, Any]:
    return {Path(each["file"]).name: each for each in json.loads(ran.out)["files"]}


def test_sound_files_of_every_kind(path: Path, tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    shift = read_shift(path)
    write_shift(shift, tmp_path / "full.safetensors")
    write_shift(shift, tmp_path / "half.safetensors", dtype="float16")
    write_shift(shift, tmp_path / "deeper" / "packed.safetensors", error=0.01)
    ran = spectra_cli("verify", tmp_path)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 3
    assert [line.rsplit(", ", 1)[1] for line in lines] == ["packed to 1 %", "float32", "float16"]


def test_damage_is_told_file_by_file(path: Path, tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    whole = path.read_bytes()
    (tmp_path / "sound.safetensors").write_bytes(whole)
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    (tmp_path / "bent.safetensors").write_bytes(whole[:-10] + bytes(10))
    ran = spectra_cli("verify", tmp_path, "--json")
    assert ran.code == 1
    assert ran.err == "error: 2 of 3 shifts failed\n"
    found = verdicts(ran)
    assert {name: each["ok"] for name, each in found.items()} == {
        "bent.safetensors": False,
        "cut.safetensors": False,
        "sound.safetensors": True,
    }
    assert "content hash" in found["bent.safetensors"]["said"]


def test_what_is_no_shift(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("verify", tmp_path)
    assert (ran.code, ran.err) == (1, f"error: {tmp_path}: no shift file in this folder\n")
    ran = spectra_cli("verify", tmp_path / "absent")
    assert ran.code == 1
    assert "no such file" in ran.out


def test_the_base_and_its_copies(
    path: Path, base: Path, tmp_path: Path, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = spectra_cli("verify", path, "--base", base)
    assert ran.code == 0
    assert f"fits the base, all {len(read_shift(path))} weights, in float32" in ran.out
    for dtype, error in ((torch.float16, "0.7 to 1.7 %"), (torch.bfloat16, "4 to 14 %")):
        name = str(dtype).removeprefix("torch.")
        copy = changed(base, tmp_path / name, lambda weight, dtype=dtype: weight.to(dtype))
        ran = spectra_cli("verify", path, "--base", copy, "--json")
        (found,) = verdicts(ran).values()
        assert ran.code == 0
        assert found["weights"] == {name: 16, "cast": len(read_shift(path)) - 16}  # a norm's weights are ones
        # The fixture attached the original, so its spectra are in the cache.
        assert f"a copy in {name}; with the original's singular vectors" in found["said"]
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("SPECTRA_CACHE", str(tmp_path / "empty"))
            (found,) = verdicts(spectra_cli("verify", path, "--base", copy, "--json")).values()
        assert error in found["said"]


def test_another_base_fails(path: Path, base: Path, tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    other = changed(base, tmp_path / "other", lambda weight: weight * 1.5)
    ran = spectra_cli("verify", path, "--base", other, "--json")
    (found,) = verdicts(ran).values()
    assert ran.code == 1
    assert "was trained on another base" in found["said"]
    ran = spectra_cli("verify", path, "--base", "spectra-base")
    assert ran.code == 1
    assert "failed" in ran.out
    assert "does not fit this model" in ran.out
    assert spectra_cli("verify", path, "--base", tmp_path / "nowhere").code == 1


def test_outer_terms_and_words_are_held_against_the_base(
    base: Path, tmp_path: Path, spectra_cli: Callable[..., Any]
) -> None:
    """Their sizes against the weights' shapes, and token ids against the vocabulary of 64."""
    known = base_weights(str(base))
    (tokens,) = (name for name in known if name.endswith("token_embedding"))
    conv = "unet.conv_in"
    weights = {name: known[name] for name in (tokens, conv)}
    metadata = ShiftMetadata("tiny", {name: fingerprint(weight)[:8] for name, weight in weights.items()})
    rows, columns = weights[conv].shape[0], weights[conv][0].numel()
    deltas = {tokens: np.zeros(24), conv: np.zeros(min(rows, columns))}

    # A copy: only what moves singular values would lose something.
    metadata = replace(metadata, ndims={tokens: 2, conv: 4}, rounded={"float16": _rounded(weights)})

    def write(name: str, columns: int, token: int) -> None:
        terms = OuterTerms(np.ones((1, rows)), np.ones((1, columns)))
        word = WordVectors((token,), np.ones((1, 24)), "fox")
        shift = SpectralShift(deltas, metadata, outer={conv: terms}, words={tokens: word})
        write_shift(shift, tmp_path / f"{name}.safetensors")

    write("fits", columns, 63)
    write("wide", columns + 1, 63)
    write("beyond", columns, 64)
    ran = spectra_cli("verify", tmp_path)
    assert ran.code == 0
    assert "2 weights, 1 outer term, the word 'fox', " in ran.out
    ran = spectra_cli("verify", tmp_path, "--base", base, "--json")
    found = {name.split(".")[0]: each for name, each in verdicts(ran).items()}
    assert {name: each["ok"] for name, each in found.items()} == {"fits": True, "wide": False, "beyond": False}
    assert f"its outer terms in the shift are of {rows} x {columns + 1}" in found["wide"]["said"]
    assert "has 64 tokens, the word 'fox' in the shift changes token 64" in found["beyond"]["said"]
    copy = changed(base, tmp_path / "copy", lambda weight: weight.to(torch.float16))
    shutil.copytree(base / "text_encoder", copy / "text_encoder")
    ran = spectra_cli("verify", tmp_path / "fits.safetensors", "--base", copy)
    assert ran.code == 0
    assert "with the original's singular vectors, only the rounding of the weights themselves is left" in ran.out


def _rounded(weights: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: fingerprint(weight.to(torch.float16))[:4] for name, weight in weights.items()}
