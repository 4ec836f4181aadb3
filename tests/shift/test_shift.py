"""Shifts in memory and as files: exact round trips, and outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectra.errors import OutputError, ShiftFileError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift

NAMES = ("unet.conv_in", "unet.mid_block.attentions.0.proj_in", "unet.conv_norm_out")


def example(values: float = 0.25, **described: Any) -> SpectralShift:
    deltas = {name: np.linspace(-values, values, 3 + i) for i, name in enumerate(NAMES)}
    known = {"base": "tiny", "fingerprints": dict.fromkeys(NAMES, "0123abcd")}
    return SpectralShift(deltas, ShiftMetadata(**(known | described)))


# In memory


def test_a_shift_is_a_sorted_immutable_mapping() -> None:
    shift = example()
    assert list(shift) == sorted(NAMES)
    assert shift.floats == 3 + 4 + 5
    with pytest.raises(ValueError, match="read-only"):
        shift["unet.conv_in"][0] = 1
    with pytest.raises(TypeError):
        shift.metadata.settings["steps"] = 3  # type: ignore[index]


def test_a_shift_copies_what_it_is_given() -> None:
    mine = np.ones(4, dtype=np.float32)
    shift = SpectralShift({"unet.a": mine}, ShiftMetadata("b", {"unet.a": "0" * 8}))
    mine[:] = 7
    assert (shift["unet.a"] == 1).all()


@pytest.mark.parametrize(
    ("name", "delta", "message"),
    [
        ("unet", np.ones(3), "weight name"),
        ("unet..a", np.ones(3), "weight name"),
        ("unet.a b", np.ones(3), "weight name"),
        ("unet.a", np.ones((3, 1)), r"shape \[n\]"),
        ("unet.a", np.ones(0), r"shape \[n\]"),
        ("unet.a", np.ones(3, dtype=np.int32), "floats"),
        ("unet.a", np.array([1, np.nan, np.inf]), "2 of 3 values .* not finite"),
        ("unet.a", np.array([1e300]), "not finite"),
    ],
)
def test_a_bad_delta_is_refused(name: str, delta: np.ndarray, message: str) -> None:
    with pytest.raises(ShiftFileError, match=message):
        SpectralShift({name: delta}, ShiftMetadata("b", {name: "0" * 8}))


@pytest.mark.parametrize("error", [None, 0.01])
def test_a_name_may_have_hyphens(error: float | None, tmp_path: Path) -> None:
    """As Z-Image's modules have, which are called after their patch sizes."""
    name = "transformer.all_final_layer.2-1.linear"
    shift = SpectralShift({name: np.linspace(-1, 1, 40)}, ShiftMetadata("b", {name: "0" * 8}))
    write_shift(shift, tmp_path / "a.safetensors", error=error)
    read = read_shift(tmp_path / "a.safetensors")
    assert list(read) == [name]
    assert np.abs(read[name] - shift[name]).max() < 0.05


def test_fingerprints_belong_to_exactly_the_deltas() -> None:
    with pytest.raises(ShiftFileError, match=r"unet\.b has only one"):
        SpectralShift({"unet.a": np.ones(3)}, ShiftMetadata("b", {"unet.a": "0" * 8, "unet.b": "0" * 8}))
    with pytest.raises(ShiftFileError, match="8 hex digits"):
        SpectralShift({"unet.a": np.ones(3)}, ShiftMetadata("b", {"unet.a": "xyz"}))
    with pytest.raises(ShiftFileError, match="at least one"):
        SpectralShift({}, ShiftMetadata("b", {}))


def test_the_base_fingerprint_depends_on_names_and_bytes_not_on_order() -> None:
    def one(**digits: str) -> str:
        return ShiftMetadata("tiny", {f"a.{name}": digit * 8 for name, digit in digits.items()}).base_fingerprint

    assert one(x="1", y="2") == one(y="2", x="1")
    assert len({one(x="1", y="2"), one(x="2", y="1"), one(x="1")}) == 3


# Round trips

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
names = st.from_regex(r"[a-z_]{1,8}(\.[a-z0-9_]{1,6}){1,3}", fullmatch=True)


@st.composite
def shifts(draw: st.DrawFn, dtype: str = "float32") -> SpectralShift:
    finite = st.floats(width=32 if dtype == "float32" else 16, allow_nan=False, allow_infinity=False)
    vectors = hnp.arrays(np.dtype(dtype), st.integers(1, 9), elements=finite)
    deltas = draw(st.dictionaries(names, vectors, min_size=1, max_size=4))
    digits = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
    described = ShiftMetadata(
        base=draw(text),
        fingerprints={name: draw(digits) for name in deltas},
        ndims=dict.fromkeys(deltas, 4) if draw(st.booleans()) else {},
        base_dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        subset=draw(text),
        settings=draw(st.dictionaries(text, json_values, max_size=3)),
        seed=draw(st.none() | st.integers(-(2**63), 2**64)),
        versions=draw(st.dictionaries(text, text, max_size=2)),
        licence=draw(text),
        parents=tuple(draw(st.lists(st.from_regex(r"[0-9a-f]{32}", fullmatch=True), max_size=2))),
        recipe=draw(json_values),
    )
    return SpectralShift(deltas, described)


@settings(max_examples=50)
@given(shift=shifts())
def test_what_is_written_is_read(shift: SpectralShift, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    size = write_shift(shift, path, force=True)
    read = read_shift(path)
    assert read == shift
    assert size == path.stat().st_size
    assert all(read[name].tobytes() == shift[name].tobytes() for name in shift)  # -0.0 and subnormals too
    assert (read.precision, bool(read.metadata.content_hash)) == ("float32", True)


@settings(max_examples=30)
@given(shift=shifts("float16"))
def test_half_precision_values_survive_a_half_precision_file(shift: SpectralShift, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_shift(shift, path, dtype="float16", force=True)
    read = read_shift(path)
    assert read == shift
    assert read.precision == "float16"
    assert all(delta.dtype == np.float32 for delta in read.values())


def test_float16_rounds_to_the_nearest_and_halves_the_data(tmp_path: Path) -> None:
    shift = example(1 / 3)
    full = write_shift(shift, tmp_path / "full.safetensors")
    half = write_shift(shift, tmp_path / "half.safetensors", dtype="float16")
    assert full - half == pytest.approx(2 * shift.floats, abs=16)
    for name, delta in read_shift(tmp_path / "half.safetensors").items():
        np.testing.assert_allclose(delta, shift[name], rtol=2**-11)


def test_a_value_too_large_for_float16_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ShiftFileError, match="float16; write float32"):
        write_shift(example(1e5), tmp_path / "a.safetensors", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_the_same_shift_gives_the_same_bytes_and_any_change_another_hash(tmp_path: Path) -> None:
    def written(shift: SpectralShift) -> bytes:
        write_shift(shift, tmp_path / "a.safetensors", force=True)
        return (tmp_path / "a.safetensors").read_bytes()

    def hashed(shift: SpectralShift) -> str:
        written(shift)
        return read_shift(tmp_path / "a.safetensors").metadata.content_hash

    assert written(example()) == written(example())
    read = read_shift(tmp_path / "a.safetensors")
    assert written(read) == written(example())
    variants = [example(), example(0.5), example(seed=1), example(settings={"steps": 2}), example(base="other")]
    assert len({hashed(shift) for shift in variants}) == len(variants)


def test_the_paper_smallest_row_fits_with_full_metadata(tmp_path: Path) -> None:
    paths = ("to_q", "to_k", "to_v", "to_out.0")
    mid_ca = [f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.{path}" for path in paths]
    described = ShiftMetadata(
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        fingerprints=dict.fromkeys(mid_ca, "89abcdef"),
        subset="mid-ca",
        settings={"instance_prompt": "a photo of a [V1] dog", "class_prompt": "a photo of a dog", "steps": 1000},
        seed=0,
        versions={"spectra": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1", "transformers": "5.23.0"},
        licence="apache-2.0",
    )
    size = write_shift(SpectralShift({name: np.ones(1024) for name in mid_ca}, described), tmp_path / "a.safetensors")
    assert size < 17_700  # the paper's 17.7 KB


# Writing


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_shift(example(), path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--force"):
        write_shift(example(0.5), path)
    assert path.read_bytes() == before
    write_shift(example(0.5), path, force=True)
    assert read_shift(path) == example(0.5)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_shift(example(), path)

    def full(self: Path, data: bytes) -> int:
        self.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_shift(example(0.5), path, force=True)
    assert read_shift(path) == example()
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_that_json_cannot_hold_is_an_error(tmp_path: Path) -> None:
    for settings_ in ({"lr": float("nan")}, {"path": tmp_path}):
        with pytest.raises(ShiftFileError, match="settings cannot be written as JSON"):
            write_shift(example(settings=settings_), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_not_unicode_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShiftFileError, match="base is not Unicode text"):
        write_shift(example(base=os.fsdecode(b"caf\xe9")), tmp_path / "a.safetensors")
    with pytest.raises(ShiftFileError, match="'parents' should be content hashes"):
        write_shift(example(parents=("dog",)), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_replacing_metadata_keeps_the_deltas(tmp_path: Path) -> None:
    shift = example()
    licensed = SpectralShift(shift, replace(shift.metadata, licence="cc0-1.0"))
    write_shift(licensed, tmp_path / "a.safetensors")
    read = read_shift(tmp_path / "a.safetensors")
    assert read.metadata.licence == "cc0-1.0"
    assert read != shift
