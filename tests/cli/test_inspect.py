"""`spectra inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixed_shifts import EMBEDDING, changes, make, weights

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.spectrum.cache.spectrum_cache import default_cache

DELTAS = {
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q": [3.0, 0.0, 0.0],
    "unet.up_blocks.0.resnets.0.conv1": [0.0, -4.0],
    "unet.up_blocks.0.resnets.0.norm1": [0.0] * 5,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "fox.safetensors"
    described = ShiftMetadata(
        base="tiny",
        fingerprints=dict.fromkeys(DELTAS, "0123abcd"),
        subset="unet",
        settings={"instance_prompt": "a drawing of a [V1] fox", "steps": 7},
        seed=3,
        versions={"spectra": "0.1.0"},
        parents=("a" * 32, "b" * 32),
        recipe={"method": "add"},
    )
    write_shift(SpectralShift({n: np.array(d) for n, d in DELTAS.items()}, described), target)
    return target


def test_json_holds_everything(path: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("inspect", path, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert found["bytes"] == path.stat().st_size
    parts = {"delta": 5.0, "outer": 0.0, "word": 0.0}
    counts = {"weights": 3, "directions": 2, "terms": 0, "tokens": 0}
    assert found["total"] == {"name": "total", **counts, "norm": 5.0, **parts, "largest": 4.0}
    assert found["stored"] == {"delta": {"part": "delta", "weights": 2, "floats": 3, "bytes": 12}}
    assert (found["exact"], found["unknown_sigmas"], found["unknown_vectors"], found["words"]) == (False, 2, 0, {})
    assert [part["name"] for part in found["blocks"]] == ["unet.mid_block", "unet.up_blocks.0"]
    assert {part["name"]: part["norm"] for part in found["kinds"]} == {
        "cross-attention": 3.0,
        "convolution": 4.0,
        "norm": 0.0,
    }
    assert [part["name"] for part in found["layers"]] == sorted(DELTAS)
    assert found["settings"] == {"instance_prompt": "a drawing of a [V1] fox", "steps": 7}
    assert found["parents"] == ["a" * 32, "b" * 32]
    assert (found["seed"], found["recipe"], found["precision"]) == (3, {"method": "add"}, "float32")


def test_people_see_tables_and_lineage(path: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("inspect", path)
    assert ran.code == 0
    for text in ("[V1] fox", "cross-attention", "unet.up_blocks.0", "base fingerprint", "a" * 32, "fits a base"):
        assert text in ran.out
    assert "attn2.to_q" not in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "conv1" in spectra_cli("inspect", path, "--layers").out


def test_a_bad_file_is_one_line_and_1(path: Path, spectra_cli: Callable[..., Any]) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    for arguments in ([path], [path, "--json"], [path.parent / "absent"], [path.parent / "absent", path]):
        ran = spectra_cli("inspect", *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert ran.err.startswith("error: ")


def test_a_shift_of_zeros_is_shown(path: Path, spectra_cli: Callable[..., Any]) -> None:
    zeros = SpectralShift({"unet.a": np.zeros(3)}, ShiftMetadata("b", {"unet.a": "0" * 8}))
    write_shift(zeros, path, force=True)
    assert spectra_cli("inspect", path).code == 0


def test_no_torch_is_imported(path: Path) -> None:
    code = (
        "import sys\nfrom spectra.cli.app import main\ncode = main(['inspect', sys.argv[1]])\n"
        "heavy = [n for n in ('torch', 'diffusers', 'transformers') if n in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_picture_of_a_shift(path: Path, tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    picture = tmp_path / "fox.png"
    assert spectra_cli("inspect", path, "--plot", picture).code == 0
    assert picture.stat().st_size > 1000
    for arguments in (["--plot", picture], ["--plot", tmp_path / "fox.gif"]):
        ran = spectra_cli("inspect", path, *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert spectra_cli("inspect", path, "--plot", picture, "--force").code == 0


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A file with every kind of part, of a base whose leading directions are in the cache."""
    base = weights()
    default_cache().leading({name: torch.from_numpy(w) for name, w in base.items()}, 3)
    write_shift(make(base, 3, size=0.3), tmp_path / "mixed.safetensors", dtype="float16")
    return tmp_path / "mixed.safetensors"


def test_every_part_is_shown(mixed: Path, spectra_cli: Callable[..., Any]) -> None:
    found = json.loads(spectra_cli("inspect", mixed, "--json").out)
    shift = read_shift(mixed)
    dense = changes(weights(), shift)
    assert found["exact"]
    assert found["total"]["norm"] == pytest.approx(np.sqrt(sum(np.sum(each**2) for each in dense.values())), rel=1e-6)
    for layer in found["layers"]:
        assert layer["norm"] == pytest.approx(np.linalg.norm(dense[layer["name"]]), rel=1e-6)
    assert found["words"] == {EMBEDDING: {"text": "a word", "ids": list(shift.words[EMBEDDING].ids)}}
    assert {name: part["floats"] for name, part in found["stored"].items()}.keys() == {"delta", "outer", "word"}
    ran = spectra_cli("inspect", mixed, "--layers", "--plot", mixed.with_suffix(".svg"))
    for text in ("a word: 2 tokens", "outer", "1 to 3 terms", "header", "with what the ReLU clips"):
        assert text in ran.out
    assert max(len(line) for line in ran.out.splitlines() if not line.startswith("wrote ")) <= 80  # a path is whole
    drawn = mixed.with_suffix(".svg").read_text()
    assert "outer terms" in drawn
    assert "first 3 of 12" in drawn


def test_what_is_left_out_of_a_norm_is_told(
    mixed: Path, tmp_path: Path, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "empty"))
    found = json.loads(spectra_cli("inspect", mixed, "--json").out)
    assert (found["exact"], found["unknown_vectors"] > 0) == (False, True)
    assert "spectra decompose BASE --directions 3" in " ".join(spectra_cli("inspect", mixed).out.split())


def test_a_shift_without_deltas_loses_nothing_in_a_copy(mixed: Path, spectra_cli: Callable[..., Any]) -> None:
    shift = make(weights(), 3)
    rounded = {"float16": dict.fromkeys(shift, "0123")}
    metadata = replace(shift.metadata, rounded=rounded)
    for deltas in (shift, {name: np.zeros_like(delta) for name, delta in shift.items()}):
        write_shift(SpectralShift(dict(deltas), metadata, outer=shift.outer), mixed, force=True)
        said = json.loads(spectra_cli("inspect", mixed, "--json").out)["portability"]
        assert ("it needs no singular vectors" in said) == (deltas is not shift)
        assert ("0.7 to 1.7 % in float16" in said) == (deltas is shift)
