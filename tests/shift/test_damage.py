"""Files that were cut short, grew, or have another bit: none is read as a shift that it is not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shifts_with_terms import shift_with_terms

from spectra.errors import ShiftFileError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_header import read_shift_header


def _deltas() -> SpectralShift:
    """Values of very different size, with a weight that was not touched."""
    rng = np.random.default_rng(0)
    deltas = {f"unet.a{i}": rng.normal(0, 2.0**-i, 100) for i in range(4)} | {"unet.zero": np.zeros(50)}
    return SpectralShift(deltas, ShiftMetadata("tiny", dict.fromkeys(deltas, "0123abcd"), subset="unet"))


def whole(kind: str, path: Path) -> bytes:
    """A file of deltas alone or with terms and words, packed or not."""
    shift = shift_with_terms() if "terms" in kind else _deltas()
    write_shift(shift, path, force=True, **({"error": 0.03} if "packed" in kind else {}))
    return path.read_bytes()


KINDS = ("deltas", "terms", "packed deltas", "packed terms")


@pytest.mark.parametrize("kind", KINDS)
def test_no_truncation_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = whole(kind, path)
    for content in [*(data[:n] for n in range(0, len(data), 37)), data[:-1], data + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(ShiftFileError):
            read_shift(path)
        with pytest.raises(ShiftFileError):
            read_shift_header(path)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(position=st.integers(0, 2**31), bit=st.integers(0, 7))
def test_no_flipped_bit_is_read_as_another_shift(kind: str, position: int, bit: int, tmp_path: Path) -> None:
    path, other = tmp_path / "whole", tmp_path / "other"
    data = bytearray(path.read_bytes() if path.exists() else whole(kind, path))
    data[position % len(data)] ^= 1 << bit
    other.write_bytes(data)
    with contextlib.suppress(ShiftFileError):
        assert read_shift(other) == read_shift(path)  # white space in the header says nothing
