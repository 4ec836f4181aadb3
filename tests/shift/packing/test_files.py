"""Packed shift files: within the error, small, read like any other, and refused when damaged."""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from packed_by_hand import decoded
from safetensors.numpy import save_file
from shift_bytes import taken_apart

from spectra.errors import ShiftFileError
from spectra.shift import shift_file
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.packing import arrays as packing
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_header import read_shift_header


def shift(deltas: dict[str, Any], vectors: tuple[str, ...] = (), **described: Any) -> SpectralShift:
    known: dict[str, Any] = {
        "base": "tiny",
        "fingerprints": {name: f"{i:08x}" for i, name in enumerate(deltas)},
        "ndims": {name: 1 if name in vectors else 2 for name in deltas},
        "rounded": {"float16": {name: f"{i:04x}" for i, name in enumerate(deltas)}},
        "settings": {"steps": 3},
        "seed": 7,
    }
    return SpectralShift(deltas, ShiftMetadata(**known | described))


def example(seed: int = 0, count: int = 4000) -> SpectralShift:
    """Values of very different size, as trained ones are, with a weight that was not touched."""
    rng = np.random.default_rng(seed)
    deltas = {f"unet.a{i}": rng.normal(0, 2.0**-i, count // 4) for i in range(4)}
    return shift({**deltas, "unet.norm": rng.normal(0, 1e-4, 320), "unet.zero": np.zeros(50)}, ("unet.norm",))


def errors(packed: SpectralShift, plain: SpectralShift) -> list[float]:
    """Of matrices and of 1-D weights."""
    found = []
    for vectors in (False, True):
        names = [name for name in plain if (plain.metadata.ndims.get(name) == 1) is vectors]
        missed = sum(float(np.square(packed[n].astype(float) - plain[n]).sum()) for n in names)
        whole = sum(float(np.square(plain[n], dtype=float).sum()) for n in names)
        found.append(math.sqrt(missed / whole) if whole else math.sqrt(missed))
    return found


def packed(plain: SpectralShift, path: Path, error: float = 0.01) -> SpectralShift:
    write_shift(plain, path, error=error, force=True)
    return read_shift(path)


@pytest.mark.parametrize("error", [0.3, 0.03, 0.01, 1e-3, 1e-5])
def test_the_error_is_kept_by_matrices_and_vectors_alike(error: float, tmp_path: Path) -> None:
    plain = example()
    found = packed(plain, tmp_path / "a", error)
    measured = errors(found, plain)
    assert all(0.9 * error < each <= error for each in measured)
    told = found.metadata.recipe
    assert isinstance(told, dict)
    assert told["errors"] == {"matrices": pytest.approx(measured[0], 1e-3), "vectors": pytest.approx(measured[1], 1e-3)}
    assert packing.stated_error(found.metadata) == error
    assert not found["unet.zero"].any()


names = st.from_regex(r"[a-z_]{1,8}(\.[a-z0-9_]{1,6}){1,3}", fullmatch=True)
vectors = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**60), 2.0**60, width=32))


@settings(max_examples=25)
@given(deltas=st.dictionaries(names, vectors, min_size=1, max_size=4), error=st.floats(1e-5, 0.5), data=st.data())
def test_any_shift_is_kept_to_any_error(
    deltas: dict[str, Any], error: float, data: st.DataObject, tmp_path: Path
) -> None:
    plain = shift(deltas, tuple(name for name in deltas if data.draw(st.booleans())))
    found = packed(plain, tmp_path / "a", error)
    assert all(each <= error * (1 + 1e-9) for each in errors(found, plain))
    assert found.precision == "packed"
    assert found.metadata.fingerprints == plain.metadata.fingerprints
    assert found.metadata.ndims == plain.metadata.ndims
    assert found.metadata.rounded == plain.metadata.rounded


def test_gaussian_values_take_1_5_percent_more_than_rate_distortion_asks_for(tmp_path: Path) -> None:
    """A uniform quantiser with a perfect entropy coder takes a quarter of a bit more: 5 % at this error."""
    rng = np.random.default_rng(0)
    plain = shift({f"unet.a{i}": rng.normal(0, 0.05, 2000) for i in range(20)})
    _, arrays = packing.pack(plain, 0.03)
    size = sum(arrays[key].nbytes for key in ("words", "bits", "states", "tables"))
    assert size < 1.022 * plain.floats * math.log2(1 / 0.03) / 8


def test_it_is_the_same_shift_made_from_another_file(tmp_path: Path) -> None:
    write_shift(example(count=400), tmp_path / "plain", dtype="float16")
    plain = read_shift(tmp_path / "plain")
    found = packed(plain, tmp_path / "a")
    assert found.metadata.parents == (plain.metadata.content_hash,)
    assert (found.metadata.settings, found.metadata.seed) == (plain.metadata.settings, 7)
    header = read_shift_header(tmp_path / "a")
    assert header.metadata == found.metadata
    assert header.metadata.content_hash == found.metadata.content_hash != plain.metadata.content_hash
    assert header.lengths == {name: delta.size for name, delta in found.items()}
    assert (header.precision, header.bytes) == ("packed", (tmp_path / "a").stat().st_size)


def test_a_merged_shift_keeps_its_recipe_and_parents(tmp_path: Path) -> None:
    merged = shift({"unet.a": np.ones(5)}, parents=("a" * 32, "b" * 32), recipe={"method": "add"})
    assert packed(merged, tmp_path / "a").metadata.parents == ("a" * 32, "b" * 32)  # it was in no file itself
    write_shift(merged, tmp_path / "plain")
    told = packed(read_shift(tmp_path / "plain"), tmp_path / "a").metadata.recipe
    assert isinstance(told, dict)
    assert told["recipe"] == {"method": "add"}
    assert told["parents"] == ["a" * 32, "b" * 32]


def test_the_same_shift_gives_the_same_bytes(tmp_path: Path) -> None:
    packed(example(count=400), tmp_path / "a")
    packed(example(count=400), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unpacked_it_is_an_ordinary_file(tmp_path: Path) -> None:
    found = packed(example(count=400), tmp_path / "a")
    write_shift(found, tmp_path / "b")
    again = read_shift(tmp_path / "b")
    assert again == found
    assert again.precision == "float32"


def test_dimensions_that_are_not_known_stay_unknown(tmp_path: Path) -> None:
    found = packed(shift({"unet.a": np.ones(9), "unet.b": np.ones(3)}, ndims={}, rounded={}), tmp_path / "a")
    assert not found.metadata.ndims
    assert not found.metadata.rounded


@pytest.mark.parametrize("error", [0.0, -1.0, 0.6, math.nan, 1e-9])
def test_an_error_out_of_range_is_refused(error: float, tmp_path: Path) -> None:
    with pytest.raises(ShiftFileError, match="expected an error from 1e-05 to 0.5"):
        write_shift(example(count=400), tmp_path / "a", error=error)
    assert not list(tmp_path.iterdir())


def test_packing_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShiftFileError, match="packed already"):
        write_shift(packed(example(count=400), tmp_path / "a"), tmp_path / "b", error=0.01)


# Damage


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, str], packing.Arrays]:
    """Strings and arrays of a small packed shift."""
    return packing.pack(example(count=400), 0.03)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_under_a_right_hash_is_refused_or_finite(
    data: st.DataObject, whole: tuple[dict[str, str], packing.Arrays], tmp_path: Path
) -> None:
    """Someone who knows the format and its hash can write what they like; it must neither crash nor fill memory."""
    strings, arrays = (dict(part) for part in whole)
    key = data.draw(st.sampled_from(sorted(arrays)))
    if key == "weights" and data.draw(st.booleans()):
        text = bytearray(zlib.decompress(arrays[key].tobytes()))
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
        arrays[key] = np.frombuffer(zlib.compress(bytes(text)), dtype=np.uint8)
    elif data.draw(st.booleans()):
        arrays[key] = arrays[key][: data.draw(st.integers(0, len(arrays[key])))]
    else:
        changed = arrays[key].copy()
        raw = changed.view(np.uint8)
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        arrays[key] = changed
    strings["content_hash"] = shift_file._content_hash(strings, arrays)
    save_file(arrays, tmp_path / "a", metadata=strings)
    for read in (read_shift_header, read_shift):
        with contextlib.suppress(ShiftFileError):
            read(tmp_path / "a")


def lines(*given: str) -> np.ndarray:
    return np.frombuffer(zlib.compress("\n".join(given).encode()), dtype=np.uint8)


@pytest.mark.parametrize(
    ("strings", "arrays", "message"),
    [
        ({"version": "4"}, {}, "format version 4, this spectra reads up to version 3; update spectra"),
        ({"steps": "[1e400]"}, {}, "not finite"),
        ({"steps": "{}"}, {}, "steps of matrices"),
        ({"steps": "["}, {}, "packed values cannot be read"),
        ({"steps": "[" * 100_000}, {}, "packed values cannot be read"),
        ({"colour": "red"}, {}, "'colour'"),
        ({"ndims": "2"}, {}, "holds no 'ndims'"),
        ({}, {"weights": lines("unet.a 10000000000 2 0")}, "lengths out of range"),
        ({}, {"weights": lines("unet.a 0 2 0")}, "lengths out of range"),
        ({}, {"weights": lines("unet.a 5 2 300")}, "classes out of range"),
        ({}, {"weights": lines("unet.a 5 2 -3")}, "classes out of range"),
        ({}, {"weights": lines("unet.a 5 2 7")}, "frequencies for 16 contexts"),
        ({}, {"weights": lines("unet.a 5 2")}, "list of weights cannot be read"),
        ({}, {"weights": lines("unet.b 5 2 0", "unet.a 5 2 0")}, "names out of order"),
        ({}, {"weights": lines("unet.a 5 2 0", "unet.b 5 2 0")}, "8 hex digits for each of 2 weights"),
        ({}, {"weights": np.frombuffer(zlib.compress(b"a" * 10**8), dtype=np.uint8)}, "incomplete or too long"),
        ({}, {"weights": np.zeros(4, np.uint8)}, "list of weights cannot be read"),
        ({}, {"tables": np.zeros(8, np.uint16)}, "frequencies that sum up"),
        ({}, {"words": np.zeros(100, np.uint16)}, "do not end where the values do"),
        ({}, {"states": np.zeros(0, np.uint32)}, "packed values cannot be read"),
        ({}, {"bits": np.zeros(100, np.uint8)}, "bytes of signs and low bits"),
        ({}, {"bits": np.zeros(1, np.uint16)}, "bits: expected U8"),
        ({}, {"other": np.zeros(1, np.uint8)}, "no 'other'"),
    ],
)
def test_what_is_wrong_is_said(
    strings: dict[str, str], arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    known, parts = packing.pack(shift({"unet.a": np.arange(1.0, 6.0)}, rounded={}), 0.1)
    known, parts = known | strings, parts | arrays
    known["content_hash"] = shift_file._content_hash(known, parts)
    save_file(parts, tmp_path / "a", metadata=known)
    with pytest.raises(ShiftFileError, match=message) as caught:
        read_shift(tmp_path / "a")
    assert str(caught.value).startswith(str(tmp_path / "a"))


@pytest.mark.parametrize("key", ["bits", "fingerprints", "states", "tables", "weights", "words"])
def test_a_part_that_is_missing_is_said(key: str, tmp_path: Path) -> None:
    strings, parts = packing.pack(example(count=400), 0.1)
    del parts[key]
    strings["content_hash"] = shift_file._content_hash(strings, parts)
    save_file(parts, tmp_path / "a", metadata=strings)
    with pytest.raises(ShiftFileError, match=key):
        read_shift(tmp_path / "a")


def test_the_document_is_enough_to_read_one(tmp_path: Path) -> None:
    """docs/file-format.md, version 2, followed to the letter and one number at a time."""
    plain = example(count=1200)
    found = packed(plain, tmp_path / "a", 0.003)
    strings, parts = taken_apart(tmp_path / "a")
    told = [line.split(" ") for line in zlib.decompress(parts["weights"].tobytes()).decode().split("\n")]
    steps = json.loads(strings["steps"])
    pieces = [(int(n), -1 if each == "-" else int(each), steps[int(ndim == "1")]) for _, n, ndim, each in told]
    assert parts["tables"].size > 64 * (1 + max(each for _, each, _ in pieces))  # tokens that have low bits
    for (name, *_), expected in zip(told, decoded(parts, pieces), strict=True):
        np.testing.assert_array_equal(found[name], expected)
