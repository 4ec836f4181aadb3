"""Files of version 3: outer terms, words and deltas of few directions; all else is written as before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shifts_with_terms import CONV, EMBEDDING, LINEAR, NORM, PLAIN, shift_with_terms

from spectra.analysis.library import read_entry
from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import read_header
from spectra.shift.few_directions import Shortened, few, lengthen, shorten
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_header import read_shift_header


def of_deltas(**deltas: Any) -> SpectralShift:
    named = {f"unet.{name}": np.asarray(delta, np.float32) for name, delta in deltas.items()}
    return SpectralShift(named, ShiftMetadata("tiny", dict.fromkeys(named, "0123abcd")))


def version(path: Path) -> str:
    return read_header(path).metadata["version"]


def test_terms_and_words_come_back_bit_for_bit(tmp_path: Path) -> None:
    shift = shift_with_terms(settings={"steps": 3}, seed=0)
    path = tmp_path / "a"
    assert write_shift(shift, path) == path.stat().st_size
    again = read_shift(path)
    assert again == shift
    assert again.metadata.content_hash == read_shift_header(path).metadata.content_hash
    assert version(path) == "3"
    first = path.read_bytes()
    write_shift(again, path, force=True)
    assert path.read_bytes() == first


def test_the_header_says_what_is_in_it(tmp_path: Path) -> None:
    shift = shift_with_terms()
    write_shift(shift, tmp_path / "a")
    found = read_header(tmp_path / "a")
    assert found.metadata["ranks"] == "6,8,7,5,12"
    assert found.metadata["outer"] == "8x3x9,7x9x0"
    assert json.loads(found.metadata["words"]) == {EMBEDDING: {"ids": [3, 39], "text": "owl"}}
    shapes = {key: tensor.shape for key, tensor in found.tensors.items()}
    assert shapes == {
        f"{CONV}.delta": (2,),
        f"{CONV}.outer": (2, 8 + 3 + 9),
        f"{LINEAR}.outer": (2, 7 + 9),
        f"{NORM}.delta": (5,),
        f"{PLAIN}.delta": (2,),
        f"{EMBEDDING}.word": (2, 6),
    }
    header = read_shift_header(tmp_path / "a")
    assert header.metadata == shift.metadata
    assert header.lengths == {name: delta.size for name, delta in shift.items()}
    assert (header.outer, header.words) == ({CONV: 2, LINEAR: 2}, {EMBEDDING: "owl"})
    assert header.floats == shift.floats
    entry = read_entry(tmp_path / "a")
    assert entry is not None
    assert (entry.weights, entry.floats) == (len(shift), shift.floats)


def test_float16_rounds_everything_and_says_what_does_not_fit(tmp_path: Path) -> None:
    shift = shift_with_terms()
    write_shift(shift, tmp_path / "a", dtype="float16")
    again = read_shift(tmp_path / "a")
    assert again.precision == "float16"
    assert again.outer[CONV].kernel is not None
    np.testing.assert_array_equal(again.outer[CONV].kernel, shift.outer[CONV].kernel.astype(np.float16))
    np.testing.assert_array_equal(again.words[EMBEDDING].vectors, shift.words[EMBEDDING].vectors.astype(np.float16))
    large = SpectralShift(shift, shift.metadata, outer={LINEAR: OuterTerms(np.full((1, 7), 1e6), np.full((1, 9), 1e6))})
    with pytest.raises(ShiftFileError, match=r"unet\.linear: 16 of 16 values .* float16; write float32"):
        write_shift(large, tmp_path / "b", dtype="float16")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("sizes", [(1e-7, 1e3), (1e6, 1e-3), (1e-9, 1e2, 1e6), (1e9, 1e-9, 1.0), (0.0, 1e-6, 1.0)])
def test_float16_holds_terms_of_any_balance(sizes: tuple[float, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = (8, 3, 9) if len(sizes) == 3 else (8, 27)
    terms = OuterTerms(*(size * rng.uniform(0.5, 1, (1, n)) for size, n in zip(sizes, lengths, strict=True)))
    shift = shift_with_terms()
    write_shift(SpectralShift(shift, shift.metadata, outer={CONV: terms}), tmp_path / "a", dtype="float16")
    found = read_shift(tmp_path / "a").outer[CONV]
    np.testing.assert_allclose(found.change(), terms.change(), rtol=3.01 * 2.0**-11)
    np.testing.assert_array_equal(terms.balanced().change(), terms.change())
    assert terms.balanced().balanced() == terms.balanced()


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -2.5]), min_size=1, max_size=40), st.sampled_from(["f4", "f2"]))
def test_shortening_is_exact(values: list[float], dtype: str) -> None:
    delta = np.array(values, dtype)
    shortened = shorten(delta)
    assert lengthen(shortened, delta.size).tobytes() == delta.tobytes()
    assert shortened.values.size <= delta.size
    used = int(np.count_nonzero(delta.view(f"u{delta.itemsize}")))
    if shortened.directions is not None:
        assert shortened.values.size == used
        assert shortened.directions.dtype == np.uint16
    else:
        assert 2 * used >= shortened.values.size


@pytest.mark.parametrize(
    ("values", "directions"),
    [
        (np.ones(4), None),
        (np.ones(2), np.array([0, 3], np.uint16)),
        (np.ones(2), np.array([1, 1], np.uint16)),
        (np.ones(2), np.array([1, 0], np.uint16)),
        (np.ones(2), np.array([1], np.uint16)),
    ],
)
def test_what_is_no_shortened_vector_is_refused(values: np.ndarray, directions: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        lengthen(Shortened(values, directions), 3)


def test_few_directions_take_few_bytes(tmp_path: Path) -> None:
    leading, chosen = np.zeros((2, 70_000), np.float32)
    leading[:32] = chosen[[7, 60_000, 69_999]] = 1
    shift = of_deltas(leading=leading, chosen=chosen, nothing=np.zeros(9))
    assert write_shift(shift, tmp_path / "a") < 1500
    assert read_shift(tmp_path / "a") == shift
    assert shift.floats == read_shift_header(tmp_path / "a").floats == 35
    tensors = read_header(tmp_path / "a").tensors
    assert tensors["unet.chosen.directions"].code == "U32"
    assert tensors["unet.nothing.delta"].shape == (0,)


def test_deltas_that_are_mostly_there_are_written_whole(tmp_path: Path) -> None:
    shift = of_deltas(a=[1, 2, 3, 4, 5], b=[0, 0, 0])
    assert few(shift.values()) is False
    assert shift.floats == 8
    write_shift(shift, tmp_path / "a")
    assert version(tmp_path / "a") == "1"


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "5b4abcd92b634697b49e563112f6cc902224db555375b9698cb03c3ad2b12ac8"),
        ({"dtype": "float16"}, "894394fb062dd18fd3840f235bb10d6fc82c83e019d23bfa9fd013f7dfcce434"),
        ({"error": 0.01}, "e9f643e67a4f46d1cb6fc2bfaeba2ba78958ea5aa2d8d1c86c711dc19eb5df14"),
        ({"error": 0.1}, "5f085e1cb8827a5a9d657b44b904c39f5ce7f420839f76494e4bb30a1cf1bf26"),
    ],
)
def test_older_content_is_written_as_before(options: dict[str, Any], digest: str, tmp_path: Path) -> None:
    """The digests are of files that the code before version 3 wrote (commit f9e6624)."""
    names = ("unet.conv_in", "unet.mid_block.attentions.0.proj_in", "unet.conv_norm_out")
    deltas = {name: (np.arange(500 + 7 * i) % 13 - 6) / 64 for i, name in enumerate(names)}
    deltas[names[2]] = np.zeros(40)
    described = ShiftMetadata(
        "tiny",
        dict.fromkeys(names, "0123abcd"),
        ndims=dict(zip(names, (4, 2, 1), strict=True)),
        rounded={"float16": dict.fromkeys(names, "0a1b")},
        settings={"lr": 0.5},
        seed=3,
        versions={"torch": "2"},
        parents=("a" * 32,),
        recipe={"method": "add"},
    )
    write_shift(SpectralShift(deltas, described), tmp_path / "a", **options)
    assert hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest() == digest
