"""Packed files with outer terms and words are refused when they are damaged, and ask for no more than they may."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from shifts_with_terms import EMBEDDING, shift_with_mask

from spectra.errors import ShiftFileError
from spectra.shift import shift_file
from spectra.shift.packing import arrays as packing
from spectra.shift.shift_file import read_shift
from spectra.shift.shift_header import read_shift_header


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, str], packing.Arrays]:
    """Strings and arrays of a small packed shift."""
    return packing.pack(shift_with_mask(), 0.03)


def written(path: Path, strings: dict[str, str], arrays: dict[str, Any]) -> Path:
    save_file(arrays, path, metadata=strings | {"content_hash": shift_file._content_hash(strings, arrays)})
    return path


@settings(max_examples=150)
@given(data=st.data())
def test_damage_under_a_right_hash_is_refused_or_finite(
    data: st.DataObject, whole: tuple[dict[str, str], packing.Arrays], tmp_path: Path
) -> None:
    strings, arrays = (dict(part) for part in whole)
    key = data.draw(st.sampled_from(sorted(arrays)))
    raw = bytearray(zlib.decompress(arrays[key].tobytes()) if key in ("weights", "masks") else arrays[key].tobytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    changed = zlib.compress(bytes(raw)) if key in ("weights", "masks") else bytes(raw)
    arrays[key] = np.frombuffer(changed, dtype=arrays[key].dtype)
    written(tmp_path / "a", strings, arrays)
    for read in (read_shift_header, read_shift):
        with contextlib.suppress(ShiftFileError):
            read(tmp_path / "a")


def line(number: int, *fields: str) -> Any:
    """Another end of one weight's line."""

    def change(strings: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
        lines = zlib.decompress(arrays["weights"].tobytes()).decode().split("\n")
        lines[number] = " ".join([*lines[number].split(" ")[:3], *fields])
        arrays["weights"] = np.frombuffer(zlib.compress("\n".join(lines).encode()), np.uint8)

    return change


def put(key: str, value: str) -> Any:
    return lambda strings, arrays: strings.update({key: value})


def masks(*bits: int) -> Any:
    stored = np.frombuffer(zlib.compress(np.packbits(np.array(bits, bool)).tobytes()), np.uint8)
    return lambda strings, arrays: arrays.update({"masks": stored})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (line(1, "2", "2x8x3x9", "0,0,0,0,0,0"), "pieces do not fit each other"),
        (line(1, "9", "2x8x3x9", "0,0,0,0,0,0,0"), "pieces do not fit each other"),
        (line(1, "2", "0x8x3x9", "0"), "unknown pieces '0x8x3x9'"),
        (line(1, "2", "2x8x3x9999", "0,0,0,0,0,0,0"), "kernels of more than 1024 taps"),
        (line(1, "2", "2x8x3x9", "2x8x3x9", "0"), "unknown pieces '2x8x3x9'"),
        (line(1, "2", "999999x8x3x9", "0,0"), "pieces do not fit each other"),
        (line(1, "2", "1x999999999x3x9", "0,-,-,-"), "lengths out of range"),
        (line(1, "2", "2x9x3x9", "0,0,0,0,0,0,0"), "packed values cannot be read"),
        (line(0, "0", "2w6", "-", "0"), "unknown pieces '-'"),
        (line(0, "0", "3w6", "0"), "words that the metadata does not tell"),
        (line(0, "0", ""), "list of weights cannot be read"),
        (line(4, "3", "0"), "masks that its weights do not ask for"),
        (line(4, "4m", "0"), "packed values cannot be read"),
        (line(4, "x", "0"), "expected a number, got 'x'"),
        (line(4, "3m", "x"), "expected a number, got 'x'"),
        (line(4, "3m", "300"), "classes out of range"),
        (masks(*[1] * 12), "masks of other counts"),
        (masks(*[1] * 30), "incomplete or too long|masks of 12 bits"),
        (lambda strings, arrays: arrays.pop("masks"), "masks are missing"),
        (put("words", "{}"), "words that the metadata does not tell"),
        (lambda strings, arrays: strings.pop("words"), "words that the metadata does not tell"),
        (put("words", f'{{"{EMBEDDING}":{{"ids":[3,-1],"text":""}}}}'), "token ids: expected"),
        (put("version", "2"), "which format version 2 does not know|list of weights"),
        (put("steps", "[1.0,1.0,1.0,1.0]"), "steps of matrices, 1-D weights and words"),
        (put("ranks", "6,8,7,5,12"), "'ranks', which format version 3 does not know"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change: Any, message: str, whole: Any, tmp_path: Path) -> None:
    strings, arrays = (dict(part) for part in whole)
    change(strings, arrays)
    with pytest.raises(ShiftFileError, match=message) as caught:
        read_shift(written(tmp_path / "a", strings, arrays))
    assert str(caught.value).startswith(str(tmp_path / "a"))
    assert "\n" not in str(caught.value)


def test_a_tiny_file_asks_for_bounded_memory(whole: Any, tmp_path: Path) -> None:
    strings, arrays = whole
    for text in (b"a" * 10**8, b"\n".join([b"unet.a 5 2 0 99999x1x1x0 0"] * 10**6)):
        bomb = {**arrays, "weights": np.frombuffer(zlib.compress(text, 9), np.uint8)}
        path = written(tmp_path / "a", strings, bomb)
        tracemalloc.start()
        try:
            for read in (read_shift_header, read_shift):
                with pytest.raises(ShiftFileError, match="incomplete or too long"):
                    read(path)
            assert tracemalloc.get_traced_memory()[1] < 4 * path.stat().st_size + (1 << 20)
        finally:
            tracemalloc.stop()
