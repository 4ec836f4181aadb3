"""Shift files read piece by piece: the same values as whole, and the same refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_shifts import LENGTHS, make, saved

from spectra.combine.merging import merge
from spectra.errors import ShiftFileError
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_stream import DeltaStream, file_order, open_stream


def opened(path: Path) -> DeltaStream:
    stream = open_stream(path, {})[1]
    assert isinstance(stream, DeltaStream)
    return stream


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_value_in_every_split(dtype: str, tmp_path: Path) -> None:
    shift = saved(make(0), tmp_path / "a", dtype)  # type: ignore[arg-type]
    for cut in range(len(LENGTHS) + 1):
        stream = opened(tmp_path / "a")
        assert stream.lengths == LENGTHS
        names = file_order([*LENGTHS, "unet.other"])
        found = dict(stream.read(names[:cut])) | dict(stream.read(names[cut:]))
        stream.finish()
        assert found.keys() == shift.keys()
        for name in found:
            np.testing.assert_array_equal(found[name].astype(np.float32), shift[name])


def test_what_was_not_read_is_not_proved(tmp_path: Path) -> None:
    saved(make(0), tmp_path / "a")
    stream = opened(tmp_path / "a")
    next(stream.read(file_order(LENGTHS)))
    with pytest.raises(ShiftFileError, match="content hash"):
        stream.finish()


def test_files_of_one_layout_share_it(tmp_path: Path) -> None:
    layouts: dict = {}
    streams = []
    for i in range(3):
        saved(make(i, base="b" * i), tmp_path / str(i))
        streams.append(open_stream(tmp_path / str(i), layouts)[1])
    assert len({id(stream.layout) for stream in streams if isinstance(stream, DeltaStream)}) == 1


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=25)
def test_any_changed_byte_is_refused_as_it_is_by_reading_whole(tmp_path: Path, place: int, flip: int) -> None:
    write_shift(make(0), tmp_path / "a", force=True)
    data = bytearray((tmp_path / "a").read_bytes())
    data[place % len(data)] ^= flip
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ShiftFileError):
        read_shift(tmp_path / "a")
    with pytest.raises(ShiftFileError):
        merge([tmp_path / "a"])


@pytest.mark.parametrize("span", [[-8, 8], [0, 12], [8, 0]])
def test_a_place_outside_is_refused(span: list[int], tmp_path: Path) -> None:
    write_shift(make(0, "unet.conv_in"), tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["unet.conv_in.delta"]["data_offsets"] = span
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(ShiftFileError, match="expected|does not fit its shape"):
        open_stream(tmp_path / "a", {})


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    saved(make(0), tmp_path / "a")
    stream = opened(tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-20])
    with pytest.raises(ShiftFileError, match="become shorter"):
        list(stream.read(file_order(LENGTHS)))


def test_packed_files_are_parents_too(tmp_path: Path) -> None:
    write_shift(make(0), tmp_path / "packed", error=0.01)
    packed, plain = read_shift(tmp_path / "packed"), saved(make(1), tmp_path / "plain")
    made = merge([tmp_path / "packed", tmp_path / "plain"], "add").shift
    for name in made:
        np.testing.assert_array_equal(made[name], (packed[name].astype(float) + plain[name]).astype(np.float32))
    assert made.metadata.parents == (packed.metadata.content_hash, plain.metadata.content_hash)
