"""`spectra diff`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mixed_shifts
import numpy as np
import pytest
import torch

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.bases.weight_files import base_weights
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import write_shift
from spectra.spectrum.cache.spectrum_cache import default_cache

LONG = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
DELTAS = {
    "unet.mid_block.attentions.0.norm": [[1.0, 2.0], [1.0, -2.0], [0.0, 0.0]],
    LONG: [[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]],
}


def write(path: Path, number: int, digits: str = "0123abcd", **told: Any) -> Path:
    described = ShiftMetadata("sd15", dict.fromkeys(DELTAS, digits), **told)
    write_shift(SpectralShift({name: np.array(rows[number]) for name, rows in DELTAS.items()}, described), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{name}.safetensors", i) for i, name in enumerate(("fox", "wolf", "car"))]


def test_two_files_as_json(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("diff", *files[:2], "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert found["total"]["distance"] == pytest.approx(np.sqrt(16 + 9 + 16))
    assert (found["total"]["moved"], found["total"]["opposed"]) == (2, 1)
    assert [part["name"] for part in found["layers"]] == sorted(DELTAS)
    assert {part["name"] for part in found["kinds"]} == {"cross-attention", "norm"}
    assert (found["exact"], found["unknown_sigmas"]) == (False, 2)
    assert [Path(file["file"]).stem for file in found["files"]] == ["fox", "wolf"]


def test_people_see_tables_in_80_columns(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("diff", *files[:2])
    assert ran.code == 0
    for text in ("||A - B||", "opposed", "spectra decompose", "unet.mid_block", "furthest apart", "to_out.0"):
        assert text in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "weight" in spectra_cli("diff", *files[:2], "--layers").out


def test_clipping_counts_where_the_cache_knows_sigma(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    from spectra.spectrum.fingerprint import fingerprint

    weight = torch.diag(torch.tensor([5.0, 1.0]))
    default_cache().fill({"unet.a": weight})
    told = ShiftMetadata("b", {"unet.a": fingerprint(weight)[:8]}, ndims={"unet.a": 2})
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file, delta in zip(files, ([1.0, -1.0], [1.0, -9.0]), strict=True):
        write_shift(SpectralShift({"unet.a": np.array(delta)}, told), file)
    found = json.loads(spectra_cli("diff", *files, "--json").out)
    assert (found["exact"], found["unknown_sigmas"]) == (True, 0)
    assert found["total"]["distance"] == pytest.approx(0.0, abs=1e-12)  # both take the second direction away
    assert found["total"]["second"] == pytest.approx(np.sqrt(2))


def test_several_files_give_a_matrix(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    found = json.loads(spectra_cli("diff", *files, "--json").out)
    matrix = found["mean_cosine"]
    assert matrix[0][0] == pytest.approx(1.0)
    assert matrix[0][1] == pytest.approx((-3 / 5 + 0) / 2)
    assert matrix[0][2] == matrix[2][0] == pytest.approx(1 / np.sqrt(2))  # the third does not change the norm
    assert found["distance"][0][1] == pytest.approx(np.sqrt(41))
    ran = spectra_cli("diff", *files)
    assert "0.707" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    many = spectra_cli("diff", *files, *files, *files)
    assert "most alike of 36 pairs" in many.out


def test_what_cannot_be_compared_is_one_line(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    other = write(files[0].with_name("other.safetensors"), 0, digits="f" * 8)
    for arguments in ([files[0], other], [*files, other], [files[0], files[0].with_name("absent")]):
        ran = spectra_cli("diff", *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "fox.safetensors and " in spectra_cli("diff", *files, other).err
    assert "spectra transplant" in spectra_cli("diff", files[0], other).err


def test_wrong_usage_is_2(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    assert spectra_cli("diff", files[0]).code == 2
    assert spectra_cli("diff", *files, "--layers").code == 2


def test_pictures(files: list[Path], tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    for name, some in (("two.png", files[:2]), ("three.svg", files)):
        ran = spectra_cli("diff", *some, "--plot", tmp_path / name, "--json")
        assert (ran.code, json.loads(ran.out)["exact"]) == (0, False)
        assert (tmp_path / name).stat().st_size > 1000
    again = spectra_cli("diff", *files, "--plot", tmp_path / "three.svg")
    assert (again.code, again.out) == (1, "")
    assert "--force" in again.err
    assert spectra_cli("diff", *files * 21, "--plot", tmp_path / "many.svg").code == 1
    assert not (tmp_path / "many.svg").exists()


def test_every_part_is_compared(
    tmp_path: Path, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the weights by their definition, with the singular vectors of the cache."""
    base = mixed_shifts.weights()
    default_cache().leading({name: torch.from_numpy(weight) for name, weight in base.items()}, 3)
    files = [tmp_path / "fox.safetensors", tmp_path / "wolf.safetensors"]
    shifts = [mixed_shifts.make(base, seed, size=4.0) for seed in (3, 7)]
    for file, shift in zip(files, shifts, strict=True):
        write_shift(shift, file)
    dense = [mixed_shifts.changes(base, shift) for shift in shifts]
    found = json.loads(spectra_cli("diff", *files, "--json").out)
    assert (found["exact"], found["unknown_vectors"]) == (True, 0)
    gaps = {name: float(np.linalg.norm(dense[0][name] - dense[1][name])) for name in base}
    assert {layer["name"]: layer["distance"] for layer in found["layers"]} == pytest.approx(gaps, rel=1e-6)
    assert found["total"]["distance"] == pytest.approx(np.linalg.norm(list(gaps.values())), rel=1e-6)
    flat = [np.concatenate([each[name].ravel() for name in base]) for each in dense]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert found["total"]["cosine"] == pytest.approx(cosine, abs=1e-6)
    assert [part["name"] for part in found["parts"]] == ["delta", "outer", "word"]
    several = json.loads(spectra_cli("diff", *files, files[0], "--json").out)
    assert several["distance"][0][1] == pytest.approx(found["total"]["distance"])
    assert several["cosine"][1][2] == pytest.approx(found["total"]["cosine"])
    ran = spectra_cli("diff", *files)
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "outer" in ran.out
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "empty"))
    told = json.loads(spectra_cli("diff", *files, "--json").out)
    assert not told["exact"]
    assert told["unknown_vectors"] == sum(
        any(shift[name].any() for shift in shifts) and any(name in {**s.outer, **s.words} for s in shifts)
        for name in base
    )
    assert "inner products of delta with outer terms" in " ".join(spectra_cli("diff", *files).out.split())


def test_shifts_of_a_live_model_are_as_far_apart_as_its_weights(
    tiny_base: Path, tmp_path: Path, spectra_cli: Callable[..., Any]
) -> None:
    """Few directions, outer terms and a word of every layer of a pipeline, as training leaves them."""
    pipe = load_pipeline(str(tiny_base))
    (tokens,) = (name for name in base_weights(str(tiny_base)) if name.endswith("token_embedding"))
    files, dense = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], []
    for seed, file in enumerate(files):
        adapter = spectra.attach(pipe, "unet,text-encoder", directions=4, outer=seed + 1, words={tokens: [5, 6 + seed]})
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.by_key.values():
                parameter.normal_(std=0.3, generator=generator)
        shift = adapter.shift(base="tiny")
        adapter.detach()
        write_shift(shift, file)
        base = {name: weight.numpy() for name, weight in base_weights(str(tiny_base)).items() if name in shift}
        dense.append(mixed_shifts.changes(base, shift))
    found = json.loads(spectra_cli("diff", *files, "--json").out)
    assert found["exact"]
    gaps = {name: float(np.linalg.norm(dense[0][name] - dense[1][name])) for name in dense[0]}
    assert {layer["name"]: layer["distance"] for layer in found["layers"]} == pytest.approx(gaps, rel=1e-6)
    assert found["total"]["distance"] == pytest.approx(np.linalg.norm(list(gaps.values())), rel=1e-6)
