"""`spectra pack`: smaller files that every command reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shifts_with_terms import shift_with_terms

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift

NAMES = ("unet.conv_in", "unet.conv_norm_out", "unet.mid_block.attentions.0.proj_in")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    deltas = {name: rng.normal(0, 0.1, 2000) for name in NAMES}
    described = ShiftMetadata("tiny", dict.fromkeys(NAMES, "0123abcd"), ndims=dict.fromkeys(NAMES, 2))
    write_shift(SpectralShift(deltas, described), tmp_path / "fox.safetensors")
    return tmp_path / "fox.safetensors"


def test_one_file(path: Path, spectra_cli: Callable[..., Any]) -> None:
    out = path.with_name("small.safetensors")
    ran = spectra_cli("pack", path, "-o", out, "--error", "0.03", "--json")
    assert (ran.code, ran.err) == (0, "")
    (row,) = json.loads(ran.out)["files"]
    assert row["packed_bytes"] == out.stat().st_size < 0.25 * row["bytes"]
    assert row["errors"]["matrices"] <= 0.03
    plain, packed = read_shift(path), read_shift(out)
    assert packed.metadata.parents == (plain.metadata.content_hash,)
    shown = spectra_cli("inspect", out)
    assert shown.code == 0
    assert "packed, error of Delta W at most 3 %" in " ".join(shown.out.split())
    assert json.loads(spectra_cli("inspect", out, "--json").out)["error"] == 0.03
    assert json.loads(spectra_cli("inspect", path, "--json").out)["error"] is None


def test_several_files_into_a_folder(path: Path, spectra_cli: Callable[..., Any]) -> None:
    other = path.with_name("cat.safetensors")
    other.write_bytes(path.read_bytes())
    ran = spectra_cli("pack", path, other, "-o", path.with_name("packed"))
    assert ran.code == 0
    assert "fox" in ran.out and "cat" in ran.out and "1.00 %" in ran.out
    assert sorted(each.name for each in path.with_name("packed").iterdir()) == ["cat.safetensors", "fox.safetensors"]
    assert all(len(line) <= 80 for line in ran.out.splitlines()[:-2])


def test_terms_and_words_are_packed_and_told(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    path, out = tmp_path / "owl.safetensors", tmp_path / "small.safetensors"
    shift = shift_with_terms()
    write_shift(shift, path)
    ran = spectra_cli("pack", path, "-o", out)
    assert ran.code == 0
    told = " ".join(ran.out.split())
    assert "4 outer terms, the word 'owl'; error of matrices" in told
    ran = spectra_cli("pack", path, "-o", out, "--force", "--json")
    (row,) = json.loads(ran.out)["files"]
    assert (row["floats"], row["outer_terms"], row["words"]) == (shift.floats, 4, ["owl"])
    assert row["errors"].keys() == {"matrices", "vectors", "words"}
    assert max(row["errors"].values()) <= 0.01
    assert read_shift(out).words.keys() == shift.words.keys()


def test_what_cannot_be_packed_is_one_line_and_leaves_nothing(path: Path, spectra_cli: Callable[..., Any]) -> None:
    out = path.with_name("small.safetensors")
    assert spectra_cli("pack", path, "-o", out).code == 0
    before = out.read_bytes()
    for arguments, message in (
        ((path, "-o", out), "--force"),
        ((out, "-o", path.with_name("again")), "small.safetensors is packed already"),
        ((path, "-o", path.with_name("again"), "--error", "3"), "expected an error from 1e-05 to 0.5, got 3"),
        ((path.with_name("absent"), "-o", path.with_name("again")), "no such file"),
        ((path, out, "-o", path), "-o names a folder"),
        ((path, path, "-o", path.with_name("folder")), "two of the files are called fox.safetensors"),
    ):
        ran = spectra_cli("pack", *arguments)
        assert (ran.code, ran.out) == (1, "")
        assert message in ran.err and ran.err.count("\n") == 1
    assert out.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["fox.safetensors", "small.safetensors"]


def test_what_is_packed_is_not_replaced(path: Path, spectra_cli: Callable[..., Any]) -> None:
    """Packing rounds: its source would be lost."""
    before = path.read_bytes()
    for target in (path, path.parent):
        ran = spectra_cli("pack", path, "-o", target, "--force")
        assert ran.code == 1
        assert "would replace what it is packed from" in ran.err
    assert path.read_bytes() == before
