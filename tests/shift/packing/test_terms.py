"""Packed files with outer terms, words and deltas of few directions: within the error, small, and hard to abuse."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_by_hand import decoded
from shift_bytes import taken_apart
from shifts_with_terms import CONV, EMBEDDING, LINEAR, shift_with_mask, shift_with_terms

from spectra.analysis.library import read_entry
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.packing import arrays as packing
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_header import read_shift_header
from spectra.shift.shift_stream import open_stream


def packed(plain: SpectralShift, path: Path, error: float = 0.01) -> SpectralShift:
    write_shift(plain, path, error=error, force=True)
    return read_shift(path)


def of_terms(**outer: OuterTerms) -> SpectralShift:
    """Terms alone; dimensions are not told."""
    named = {f"unet.{name}": terms for name, terms in outer.items()}
    deltas = {name: np.zeros(min(terms.shape)) for name, terms in named.items()}
    return SpectralShift(deltas, ShiftMetadata("tiny", dict.fromkeys(named, "0123abcd")), outer=named)


def errors(found: SpectralShift, plain: SpectralShift) -> dict[str, float]:
    """Of each group, from the changes written out; a diagonal and terms count as orthogonal."""
    changes: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"matrices": [], "vectors": [], "words": []}
    for name, delta in plain.items():
        group = "vectors" if plain.metadata.ndims.get(name) == 1 else "matrices"
        changes[group].append((found[name].astype(float), delta.astype(float)))
    for name, terms in plain.outer.items():
        got = found.outer[name].change() if name in found.outer else np.zeros(terms.shape)
        changes["matrices"].append((got, terms.change()))
    for name, words in plain.words.items():
        changes["words"].append((found.words[name].vectors.astype(float), words.vectors.astype(float)))
    return {
        group: math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in pairs) / norm)
        for group, pairs in changes.items()
        if (norm := sum(float(np.sum(b**2)) for _, b in pairs))
    }


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("error", [0.3, 0.03, 1e-3, 1e-5])
def test_the_error_is_that_of_the_change_and_is_told(error: float, kernel: bool, tmp_path: Path) -> None:
    plain = shift_with_terms(kernel=kernel)
    found = packed(plain, tmp_path / "a", error)
    measured = errors(found, plain)
    assert all(0.3 * error < each <= error for each in measured.values())
    assert found.metadata.recipe is not None
    assert found.metadata.recipe["errors"] == pytest.approx(measured, rel=1e-3)  # type: ignore[index, call-overload]
    assert found.words[EMBEDDING].ids == plain.words[EMBEDDING].ids
    assert found.words[EMBEDDING].text == "owl"
    assert {name: terms.rank for name, terms in found.outer.items()} == {CONV: 2, LINEAR: 2}


def test_the_header_says_what_is_in_it(tmp_path: Path) -> None:
    found = packed(shift_with_terms(), tmp_path / "a")
    header = read_shift_header(tmp_path / "a")
    assert (header.precision, header.outer, header.words) == ("packed", {CONV: 2, LINEAR: 2}, {EMBEDDING: "owl"})
    assert header.metadata == found.metadata
    assert header.lengths == {name: delta.size for name, delta in found.items()}
    assert header.floats == found.floats


sizes = st.sampled_from([0.0, 1e-12, 1e-4, 1.0, 3e7])


@settings(max_examples=40)
@given(
    scales=st.lists(st.lists(sizes, min_size=3, max_size=3), min_size=1, max_size=3),
    kernel=st.booleans(),
    error=st.floats(1e-5, 0.5),
    seed=st.integers(0, 99),
)
def test_any_terms_are_kept_to_any_error(
    scales: list[list[float]], kernel: bool, error: float, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    norms = np.array(scales)
    sides = [norms[:, [i]] * rng.standard_normal((len(norms), n)) for i, n in enumerate((5, 7, 9))]
    plain = of_terms(one=OuterTerms(*sides[: 3 if kernel else 2]), two=OuterTerms(*sides[:2]))
    found = packed(plain, tmp_path / "a", error)
    assert all(each <= error * (1 + 1e-6) for each in errors(found, plain).values())


def test_bits_go_where_they_matter_however_a_term_is_balanced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b, kernel = (rng.standard_normal((2, n)) for n in (40, 30, 9))
    write_shift(of_terms(x=OuterTerms(a, b, kernel)), tmp_path / "a", error=0.02)
    write_shift(of_terms(x=OuterTerms(a * 2**20, b / 2**13, kernel / 2**7)), tmp_path / "b", error=0.02)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_gaussian_terms_take_little_more_than_rate_distortion_asks_for() -> None:
    """Each vector is Gaussian with the norm of its term; the bound is reverse water-filling over all of them."""
    rng = np.random.default_rng(0)
    terms = [
        OuterTerms(rng.standard_normal((1, n0)) * 2.0 ** rng.uniform(-3, 0), rng.standard_normal((1, n1)))
        for n0, n1 in [(320, 768), (640, 320)] * 20
    ]
    norms = np.array([math.sqrt(each.dot(each)) for each in terms])
    counts = np.array([each.shape for each in terms])
    variances, allowed = norms[:, None] ** 2 / counts, 0.03**2 * float(np.sum(norms**2))
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        level = (low + high) / 2
        low, high = (low, level) if np.sum(np.minimum(variances, level) * counts) > allowed else (level, high)
    bound = float(np.sum(counts * np.maximum(0, 0.5 * np.log2(variances / low)))) / 8
    _, arrays = packing.pack(of_terms(**{f"a{i}": each for i, each in enumerate(terms)}), 0.03)
    assert bound < sum(arrays[key].nbytes for key in ("words", "bits", "states", "tables")) < 1.08 * bound


def test_few_directions_are_packed_without_their_zeros(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    leading, chosen = np.zeros((2, 3000), np.float32)
    leading[:200], chosen[rng.permutation(3000)[:200]] = rng.standard_normal((2, 200))
    metadata = ShiftMetadata("tiny", dict.fromkeys(("unet.a", "unet.b", "unet.zero"), "0123abcd"))
    plain = SpectralShift({"unet.a": leading, "unet.b": chosen, "unet.zero": np.zeros(7)}, metadata)
    found = packed(plain, tmp_path / "a", 1e-3)
    assert errors(found, plain)["matrices"] <= 1e-3
    assert not found["unet.a"][200:].any()
    assert not found["unet.b"][chosen == 0].any()
    assert not found["unet.zero"].any()
    assert read_shift_header(tmp_path / "a").floats == 400
    half = SpectralShift({"unet.a": leading}, ShiftMetadata("tiny", {"unet.a": "0123abcd"}))
    dense = SpectralShift({"unet.a": leading[:200]}, half.metadata)
    assert write_shift(half, tmp_path / "b", error=1e-3) < write_shift(dense, tmp_path / "c", error=1e-3) + 16


def test_terms_that_are_zero_are_left_out(tmp_path: Path) -> None:
    ones, none = np.ones((2, 4)), np.array([[0.0] * 5, [1.0] * 5])
    found = packed(of_terms(x=OuterTerms(none, ones)), tmp_path / "a")
    assert found.outer["unet.x"].rank == 1
    nothing = packed(of_terms(x=OuterTerms(np.zeros((1, 5)), np.ones((1, 4)))), tmp_path / "a")
    assert nothing.outer == {}
    assert not nothing["unet.x"].any()


def test_the_document_is_enough_to_read_one(tmp_path: Path) -> None:
    """docs/file-format.md, packed files of version 3, followed to the letter."""
    found = packed(shift_with_mask(), tmp_path / "a", 0.003)
    strings, arrays = taken_apart(tmp_path / "a")
    told = [text.split(" ") for text in zlib.decompress(arrays["weights"].tobytes()).decode().split("\n")]
    steps, pieces = json.loads(strings["steps"]), []
    for _, _, ndim, count, *more, classes in told:
        step = steps[int(ndim == "1")]
        here = [(int(count.rstrip("m")), step)] if count != "0" else []
        for each in more:
            if "w" in each:
                here.append((math.prod(map(int, each.split("w"))), steps[2]))
            else:
                rank, *sides = map(int, each.split("x"))
                here += [(size, step) for _ in range(rank) for size in sides if size]
        numbers = [-1 if each == "-" else int(each) for each in classes.split(",")]
        pieces += [(size, number, step) for (size, step), number in zip(here, numbers, strict=True)]
    values = iter(decoded(arrays, pieces))
    bits = np.unpackbits(np.frombuffer(zlib.decompress(arrays["masks"].tobytes()), np.uint8))[:12].astype(bool)
    for name, length, _, count, *more, _ in told:
        delta = np.zeros(int(length), np.float32)
        if count != "0":
            delta[bits if count.endswith("m") else slice(int(count))] = next(values)
        np.testing.assert_array_equal(found[name], delta)
        for each in more:
            if "w" in each:
                shape = tuple(map(int, each.split("w")))
                np.testing.assert_array_equal(found.words[name].vectors, next(values).reshape(shape))
                continue
            rank, *sides = map(int, each.split("x"))
            for row in range(rank):
                vectors = [next(values).astype(np.float64) for size in sides if size]
                a, *units = (vectors[0], *(vector / np.linalg.norm(vector) for vector in vectors[1:]))
                for side, expected in zip(found.outer[name].sides, (a, *units), strict=True):
                    np.testing.assert_allclose(side[row], expected, rtol=1e-7)
    assert next(values, None) is None


def test_packed_files_are_streamed_and_listed_like_others(tmp_path: Path) -> None:
    found = packed(shift_with_mask(), tmp_path / "a")
    metadata, streamed = open_stream(tmp_path / "a", {})
    assert (metadata, streamed) == (found.metadata, found)
    entry = read_entry(tmp_path / "a")
    assert entry is not None
    assert (entry.precision, entry.terms, entry.words) == ("packed", 4, ("owl",))
    assert entry.floats == found.floats
