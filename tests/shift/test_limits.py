"""What a small file may ask for: made by hand, with a right content hash, so that only the limits refuse it."""

from __future__ import annotations

import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import build_header
from spectra.shift import shift_file
from spectra.shift.limits import MOST_VALUES, most_coded, most_steps, most_values
from spectra.shift.packing.coder import PRECISION
from spectra.shift.shift_file import read_shift
from spectra.shift.shift_header import read_shift_header

STRINGS = {
    **{"format": "spectra-shift", "version": "2", "base": "x", "base_fingerprint": "0" * 16},
    **{"base_dtype": "float32", "reshape": "first-dim", "steps": "[1.0]"},
}


def write(path: Path, arrays: dict[str, np.ndarray], **strings: str) -> Path:
    told = {**STRINGS, **strings}
    told["content_hash"] = shift_file._content_hash(told, arrays)
    header = build_header(told, {key: (each.dtype.name, each.shape) for key, each in arrays.items()})
    path.write_bytes(header + b"".join(each.tobytes() for each in arrays.values()))
    return path


def packed(lines: list[str], *, lanes: int = 1, classes: int = 1) -> dict[str, np.ndarray]:
    """Packed arrays of values that all are token 0, which has every frequency and takes no bits."""
    listed = zlib.compress("\n".join(lines).encode(), 9)
    return {
        "states": np.full(lanes, 1 << 16, np.uint32),
        "tables": np.full(2 * classes, 1 << PRECISION, np.uint16),
        "words": np.zeros(0, np.uint16),
        "bits": np.zeros(0, np.uint8),
        "fingerprints": np.zeros(4 * len(lines), np.uint8),
        "weights": np.frombuffer(listed, np.uint8),
    }


def cpu(work: Callable[[], Any]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_limits_grow_with_the_file() -> None:
    assert (most_values(0), most_values(1 << 21), most_values(1 << 30)) == (1 << 22, 1 << 23, MOST_VALUES)
    assert most_coded(0) < most_coded(1000) < most_coded(1 << 30) == MOST_VALUES
    assert most_steps(2047) >= 2047


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (packed(["unet.a 16777216 2 0"]), "lengths out of range"),
        (packed(["unet.a 4000000 2 0"], lanes=1024), "4,000,000 values in"),
        (packed(["unet.a 200000 2 0"]), "200,000 values in .* 1 lanes"),
        (packed(["unet.a 5 2 0"], lanes=0), "0 lanes"),
        (packed([f"unet.a{i:06d} 1 2 -" for i in range(70_000)]), "more weights or pieces"),
        (packed(["unet.a" + "x" * 100_000 + " 1 2 -"]), "incomplete or too long"),
    ],
    ids=["values", "coded", "steps", "no lane", "weights", "list"],
)
def test_more_than_the_size_justifies_is_refused_at_once(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a", arrays)

    def refused() -> None:
        with pytest.raises(ShiftFileError, match=message):
            read_shift(path)

    assert cpu(refused) < 1


def test_what_is_within_the_limits_is_read(tmp_path: Path) -> None:
    lines = [f"unet.a{i:03d} 1000 2 {i}" for i in range(256)]
    shift = read_shift(write(tmp_path / "a", packed(lines, lanes=250, classes=256)))
    assert (len(shift), sum(delta.size for delta in shift.values())) == (256, 256_000)
    assert not any(delta.any() for delta in shift.values())


def test_zeros_that_a_file_leaves_out_are_bounded(tmp_path: Path) -> None:
    arrays = {"unet.a.delta": np.zeros(0, np.float32)}
    strings = {key: text for key, text in STRINGS.items() if key != "steps"} | {"version": "3", "fingerprints": "0" * 8}
    for ranks, wrong in (("4194304", False), ("4194305", True)):
        told = {**strings, "ranks": ranks}
        told["content_hash"] = shift_file._content_hash(told, arrays)
        header = build_header(told, {key: (each.dtype.name, each.shape) for key, each in arrays.items()})
        (tmp_path / ranks).write_bytes(header)
        if wrong:
            with pytest.raises(ShiftFileError, match="at most 4,194,304 in all"):
                read_shift_header(tmp_path / ranks)
        else:
            assert read_shift(tmp_path / ranks)["unet.a"].size == 1 << 22
