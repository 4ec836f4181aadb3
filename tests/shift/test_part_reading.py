"""Reading files of version 3 is strict: whatever is claimed is held against what is there."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shift_bytes import taken_apart
from shifts_with_terms import CONV, EMBEDDING, LINEAR, PLAIN, shift_with_mask, shift_with_terms

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import build_header
from spectra.shift import shift_file
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_header import read_shift_header

Change = Callable[[dict[str, str], dict[str, np.ndarray]], None]


def write_parts(path: Path, strings: dict[str, str], arrays: dict[str, np.ndarray]) -> Path:
    """A file by someone who knows the format and its hash."""
    strings = {key: value for key, value in strings.items() if key != "content_hash"}
    strings["content_hash"] = shift_file._content_hash(strings, arrays)
    header = build_header(strings, {key: (array.dtype.name, array.shape) for key, array in arrays.items()})
    path.write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    return path


def changed(path: Path, change: Change) -> Path:
    write_shift(shift_with_mask(), path)
    strings, arrays = taken_apart(path)
    assert f"{PLAIN}.directions" in arrays
    change(strings, arrays)
    return write_parts(path, strings, arrays)


def put(key: str, value: str) -> Change:
    return lambda strings, arrays: strings.update({key: value})


def drop(key: str) -> Change:
    def change(strings: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
        del (strings if key in strings else arrays)[key]

    return change


def array(key: str, value: Any, dtype: str = "<f4") -> Change:
    return lambda strings, arrays: arrays.update({key: np.array(value, dtype)})


def words(ids: str, text: str = '"owl"', more: str = "") -> Change:
    return put("words", f'{{"{EMBEDDING}":{{"ids":{ids},"text":{text}{more}}}}}')


def test_unchanged_parts_are_read(tmp_path: Path) -> None:
    assert read_shift(changed(tmp_path / "a", lambda strings, arrays: None)).outer == shift_with_terms().outer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("ranks", "6,8,7,5"), "'ranks': expected a number for each of 5 weights, got 4|ranks: expected a number"),
        (put("ranks", "6,1,7,5,12"), r"unet\.conv\.delta: expected at most the 1 values that 'ranks' says, got 2"),
        (put("ranks", "6,8,7,5,11"), "expected directions below 11 in ascending order"),
        (put("ranks", "6,9,7,5,12"), r"unet\.conv: its 9 singular values do not fit outer terms of 8 x 27"),
        (put("ranks", "6,8,7,0,12"), "ranks: expected the number of singular values of each of 5 weights"),
        (put("ranks", "6,8,7,-5,12"), "ranks: expected"),
        (put("ranks", "6,8,7,999999999,12"), "ranks: expected at most 4,194,304 in all, got 1,000,000,032"),
        (put("ranks", "6,8,7,9999999999,12"), "ranks: expected"),
        (drop("ranks"), "ranks: expected"),
        (put("outer", "8x3x8,7x9x0"), r"unet\.conv\.outer: expected 8 \+ 3 \+ 8 floats a term, got 20"),
        (put("outer", "9x2x9,7x9x0"), r"unet\.conv: its 8 singular values do not fit outer terms of 9 x 18"),
        (put("outer", "8x3x9"), "outer: expected rows x columns x taps of 2 weights"),
        (put("outer", "8x3x9,7x9x0,7x9x0"), "outer: expected rows x columns x taps of 2 weights"),
        (put("outer", "8x3x-9,7x9x0"), "outer: expected"),
        (put("outer", "0x3x9,7x9x0"), "outer: expected"),
        (put("outer", "8x3x9999,7x9x0"), "outer: expected kernels of at most 1024 taps, got 9999"),
        (put("outer", "8x3x9,7x3x6"), "unet.linear has two dimensions; outer terms with a kernel change convolutions"),
        (drop("outer"), "outer: expected"),
        (drop(f"{LINEAR}.outer"), "8 hex digits for each of 4 weights"),
        (array(f"{CONV}.outer", np.zeros((0, 20))), r"unet\.conv\.outer: expected shape \[k, n\], k and n > 0"),
        (array(f"{CONV}.outer", np.zeros(40)), r"expected shape \[k, n\], k and n > 0, got \[40\]"),
        (array(f"{CONV}.outer", np.zeros((2, 20)), "<f8"), "expected F32 or F16, got F64"),
        (array(f"{CONV}.outer", np.zeros((2, 20)), "<f2"), "one dtype"),
        (array(f"{CONV}.outer", np.full((2, 20), np.nan)), r"unet\.conv: a of outer terms: 16 of 16 values"),
        (words("[3,-1]"), r"text_encoder\.embeddings: .* from 0 to 4294967295, got -1"),
        (words("[3,4294967296]"), "got 4294967296"),
        (words("[3,3]"), "each id once"),
        (words("[3,true]"), "words: expected JSON such as"),
        (words("[3,1e0]"), "words: expected JSON such as"),
        (words('"ab"'), "words: expected JSON such as"),
        (words("[3]"), "expected a row for each of 1 ids, got 2"),
        (words("[3,4]", "7"), "words: expected JSON such as"),
        (words("[3,4]", '"owl"', ',"colour":1'), "words: expected JSON such as"),
        (words("[" * 50_000), "words: expected JSON such as"),
        (put("words", "[]"), "words: expected JSON such as"),
        (put("words", "{}"), "words: expected the names of the arrays of words, got none"),
        (put("words", '{"unet.conv":{"ids":[1,2],"text":""}}'), "words: expected the names of the arrays of words"),
        (drop("words"), "words: expected the names"),
        (array(f"{EMBEDDING}.word", np.zeros((2, 5))), "words of 5 floats .* 6 singular values"),
        (array(f"{EMBEDDING}.word", np.zeros((2, 0))), r"expected shape \[k, n\], k and n > 0"),
        (array(f"{EMBEDDING}.word", np.full((2, 6), np.inf)), "12 of 12 values are not finite"),
        (array(f"{PLAIN}.directions", [3, 7, 12], "<u2"), "expected directions below 12 in ascending order"),
        (array(f"{PLAIN}.directions", [3, 7, 7], "<u2"), "expected directions below 12 in ascending order, each once"),
        (array(f"{PLAIN}.directions", [7, 3, 11], "<u2"), "in ascending order"),
        (array(f"{PLAIN}.directions", [3, 7], "<u2"), r"expected a direction for each of 3 values, got 2"),
        (array(f"{PLAIN}.directions", [3, 7, 11], "<i2"), "expected U16 or U32, got I16"),
        (array(f"{PLAIN}.directions", [[3, 7, 11]], "<u2"), r"expected shape \[n\]"),
        (array(f"{LINEAR}.directions", [1], "<u2"), "expected a direction for each of 0 values, got 1"),
        (array(f"{PLAIN}.delta", [np.nan, 1, 1]), r"unet\.plain: 1 of 12 values of the delta are not finite"),
        (array(f"{PLAIN}.lora_up", [1]), "expected keys that end in .delta, .directions, .outer or .word"),
        (array("unet.more.delta", [1]), "for each of 6 weights"),
        (put("colour", "red"), "'colour', which format version 3 does not know"),
        (put("version", "1"), "expected keys that end in '.delta'"),
        (put("version", "2"), "a packed shift has no"),
        (put("ndims", "22222"), r"unet\.conv has two dimensions; outer terms with a kernel"),
        (put("ndims", "24112"), r"unet\.linear has one dimension"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: Change, message: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "a", change)
    with pytest.raises(ShiftFileError, match=message) as caught:
        read_shift(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    from_header = ""
    try:
        read_shift_header(path)
    except ShiftFileError as error:
        from_header = str(error)
    assert from_header in ("", str(caught.value))  # it knows less, and says the same or nothing


def test_strings_of_version_3_are_not_known_to_version_1(tmp_path: Path) -> None:
    write_shift(SpectralShift({"unet.a": np.ones(3)}, ShiftMetadata("b", {"unet.a": "0" * 8})), tmp_path / "a")
    strings, arrays = taken_apart(tmp_path / "a")
    write_parts(tmp_path / "a", strings | {"ranks": "3"}, arrays)
    with pytest.raises(ShiftFileError, match="'ranks', which format version 1 does not know"):
        read_shift(tmp_path / "a")


def test_arrays_that_overlap_are_refused(tmp_path: Path) -> None:
    write_shift(shift_with_terms(), tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["unet.linear.outer"]["data_offsets"] = [n - 8 for n in header["unet.linear.outer"]["data_offsets"]]
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(ShiftFileError, match="overlaps another's or leaves a gap: not a whole"):
        read_shift(tmp_path / "a")


def test_a_tiny_file_asks_for_bounded_memory(tmp_path: Path) -> None:
    """Zeros that are left out take memory when they are read: 16 MiB at most, and once more while they are copied."""
    names = [f"unet.layer{i:03}" for i in range(64)]
    metadata = ShiftMetadata("b", dict.fromkeys(names, "0" * 8))
    write_shift(SpectralShift({name: np.zeros(4) for name in names}, metadata), tmp_path / "a")
    strings, arrays = taken_apart(tmp_path / "a")
    for rank, refused in ((1 << 16, False), ((1 << 16) + 1, True), (10**8, True)):
        path = write_parts(tmp_path / "b", strings | {"ranks": ",".join([str(rank)] * 64)}, arrays)
        assert path.stat().st_size < 10_000
        tracemalloc.start()
        try:
            if refused:
                with pytest.raises(ShiftFileError, match="ranks: expected at most 4,194,304"):
                    read_shift(path)
            else:
                assert read_shift(path)[names[0]].size == rank
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < (1 << 22 if refused else 1 << 26)
