"""Shift files of version 3 read weight by weight."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from shifts_with_terms import CONV, EMBEDDING, LINEAR, shift_with_terms

from spectra.errors import ShiftFileError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.part_stream import PartLayouts, PartStream
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_stream import file_order, open_stream


def opened(path: Path, layouts: PartLayouts | None = None) -> PartStream:
    stream = open_stream(path, {}, layouts)[1]
    assert isinstance(stream, PartStream)
    return stream


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weight_by_weight_is_the_whole(dtype: Literal["float32", "float16"], tmp_path: Path) -> None:
    write_shift(shift_with_terms(), tmp_path / "a", dtype=dtype)
    shift, stream = read_shift(tmp_path / "a"), opened(tmp_path / "a")
    assert stream.shapes == shift.shapes
    parts = shift.parts()
    names = file_order(parts)
    seen = [each for name in names for each in stream.read([name])]
    stream.finish()
    assert [name for name, _ in seen] == names
    for name, found in seen:
        np.testing.assert_array_equal(found.delta, parts[name].delta)
        assert (found.outer, found.words) == (parts[name].outer, parts[name].words)
    more = {name: (p.outer.floats if p.outer else 0) + (p.words.floats if p.words else 0) for name, p in parts.items()}
    assert stream.more_floats() == {name: floats for name, floats in more.items() if floats}


def test_a_name_that_the_file_lacks_is_passed_over(tmp_path: Path) -> None:
    write_shift(shift_with_terms(), tmp_path / "a")
    assert [name for name, _ in opened(tmp_path / "a").read(["unet.absent", LINEAR])] == [LINEAR]


def test_what_changes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_shift(shift_with_terms(), path)
    whole = path.read_bytes()
    names = file_order(shift_with_terms())
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    stream = opened(path)
    list(stream.read(names))
    with pytest.raises(ShiftFileError, match="a: its content hash should be"):
        stream.finish()
    path.write_bytes(whole)
    stream = opened(path)
    path.write_bytes(whole[:-4])
    with pytest.raises(ShiftFileError, match="a: it has become shorter"):
        list(stream.read(names))


def test_nested_names_are_read_whole(tmp_path: Path) -> None:
    names = ["unet.a", "unet.a.e"]  # keys: unet.a.delta, unet.a.e.delta, unet.a.e.outer, unet.a.outer
    metadata = ShiftMetadata("b", dict.fromkeys(names, "0" * 8))
    terms = OuterTerms(np.ones((1, 2)), np.ones((1, 3)))
    shift = SpectralShift({name: np.ones(2) for name in names}, metadata, outer=dict.fromkeys(names, terms))
    write_shift(shift, tmp_path / "a")
    assert open_stream(tmp_path / "a", {})[1] == shift


def test_files_of_one_layout_share_it(tmp_path: Path) -> None:
    layouts: PartLayouts = {}
    streams = []
    for seed in range(2):
        write_shift(shift_with_terms(seed), tmp_path / str(seed))
        streams.append(opened(tmp_path / str(seed), layouts))
    assert streams[0].layout is streams[1].layout
    write_shift(shift_with_terms(0, kernel=False), tmp_path / "other")
    assert opened(tmp_path / "other", layouts).layout is not streams[0].layout
    own = {name: getattr(streams[1], name) for name in ("path", "words", "data_start", "stated_hash")}
    assert len(pickle.dumps(own)) < 1500
    assert set(streams[0].more_floats()) == {CONV, LINEAR, EMBEDDING}
