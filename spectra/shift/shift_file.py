"""The shift file: a safetensors file that describes itself, read strictly and written whole (docs/file-format.md)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.io.atomic_writes import atomic_write
from spectra.io.dtypes import dtype_name
from spectra.io.safetensors_header import build_header
from spectra.shift import part_arrays
from spectra.shift.checks import check_finite
from spectra.shift.few_directions import few
from spectra.shift.metadata import PARTS_VERSION, VERSION, from_strings, is_packed, to_strings, version_of
from spectra.shift.packing import arrays as packing
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_header import SUFFIX, common_precision, open_shift_file, read_array

KEPT_SHIFT = "shift-file"
"""The tensor of a training's state whose bytes are a shift file."""


def write_shift(
    shift: SpectralShift,
    path: str | os.PathLike[str],
    *,
    dtype: Literal["float32", "float16"] = "float32",
    error: float | None = None,
    force: bool = False,
) -> int:
    """Write a shift as a safetensors file; the same shift always gives the same bytes.

    Args:
        shift: what to write.
        path: of the file. It appears whole or not at all.
        dtype: of the values in the file. float16 halves the file; its smallest step is 6e-8, its largest value 65504.
        error: pack the values instead: round them to this error of Delta W (`||delta - packed|| / ||delta||`, for all
            matrices with their outer terms, for all 1-D weights and for words) and entropy-code them. 0.01 leaves a
            fifth of the file, 0.03 a sixth.
        force: replace a file that exists.

    Returns:
        Bytes written.

    Raises:
        ShiftFileError: a value that float16 cannot hold, metadata that JSON cannot, or an error out of range.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    data = encode_shift(shift, dtype, error)
    with atomic_write(Path(path), force=force) as temporary:
        temporary.write_bytes(data)
    return len(data)


def encode_shift(
    shift: SpectralShift, dtype: Literal["float32", "float16"] = "float32", error: float | None = None
) -> bytes:
    """The bytes that `write_shift` writes; arguments and errors are its own."""
    strings, tensors = _plain(shift, dtype) if error is None else packing.pack(shift, error)
    strings["content_hash"] = _content_hash(strings, tensors)
    # Laid out here: safetensors orders the metadata at random, and a shift should give the same bytes each time.
    keys = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))  # so that every array is aligned
    header = build_header(strings, {key: (tensors[key].dtype.name, tensors[key].shape) for key in keys})
    return header + b"".join(tensors[key].tobytes() for key in keys)


def _plain(shift: SpectralShift, dtype: str) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Strings and tensors of a file that is not packed."""
    if dtype not in ("float32", "float16"):
        raise ShiftFileError(f"expected dtype 'float32' or 'float16', got {dtype!r}; a packed file takes an error")
    target = np.dtype(dtype).newbyteorder("<")
    with np.errstate(over="ignore"):
        deltas = {name: delta.astype(target) for name, delta in shift.items()}
    strings = to_strings(replace(shift.metadata, content_hash=""))
    if shift.outer or shift.words or few(deltas.values()):
        more, tensors = part_arrays.to_arrays(shift, deltas)
        strings |= more
    else:
        tensors = {name + SUFFIX: values for name, values in deltas.items()}
    for key, values in tensors.items():
        check_finite(key.rpartition(".")[0], values, "they do not fit into float16; write float32")
    return strings, tensors


def _content_hash(strings: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    content = ContentHash(strings)
    for key in sorted(tensors):
        content.add(key, dtype_name(tensors[key].dtype), tensors[key].size, tensors[key].tobytes())
    return content.hexdigest()


def read_shift(path: str | os.PathLike[str]) -> SpectralShift:
    """Read a shift file, strictly: everything in it is understood, and its content hash is right, or it is refused.

    Args:
        path: of the file; float32, float16 or packed. float16 values are widened, which is exact.

    Raises:
        ShiftFileError: no such file, not a shift, damaged, or of a later format version.
    """
    return _read(Path(path))


def read_kept_shift(path: str | os.PathLike[str]) -> SpectralShift:
    """The shift that a training's state holds: what the training would have given, had it ended there.

    Raises:
        ShiftFileError: no such file, not a training's state, or damaged.
    """
    return _read(Path(path), within=KEPT_SHIFT)


def _read(path: Path, within: str = "") -> SpectralShift:
    with open_shift_file(path, within) as (stream, header):
        strings = header.metadata
        tensors = {key: read_array(stream, tensor) for key, tensor in header.tensors.items()}
        if version_of(strings) != VERSION:
            check_content(strings.get("content_hash", ""), _content_hash(strings, tensors))
        if is_packed(strings):
            return packing.unpack(strings, tensors)
        precision = common_precision(header.tensors.values())
        if version_of(strings) == PARTS_VERSION:
            return part_arrays.from_arrays(part_arrays.describe(strings, header.tensors), tensors, precision)
        deltas = {key.removesuffix(SUFFIX): values for key, values in tensors.items()}
        metadata = from_strings(strings, deltas)
        check_content(metadata.content_hash, _content_hash(strings, tensors))
        return SpectralShift(deltas, metadata, precision=precision)


class ContentHash:
    """The first 32 hex digits of the SHA-256 over everything a file says: its metadata, then its tensors."""

    def __init__(self, strings: Mapping[str, str]) -> None:
        hashed = {key: value for key, value in strings.items() if key != "content_hash"}
        self._digest = hashlib.sha256(json.dumps(hashed, ensure_ascii=False, sort_keys=True).encode())

    def add(self, key: str, dtype: str, size: int, data: bytes) -> None:
        """Adds one tensor: its key, its dtype's name, its number of values, and their bytes; in order of keys."""
        self._digest.update(f"\n{key} {dtype} {size}\n".encode())
        self._digest.update(data)

    def hexdigest(self) -> str:
        """The hash of all that was added."""
        return self._digest.hexdigest()[:32]


def check_content(expected: str, found: str) -> None:
    """Compares the content hash that a file states with the one of what was read.

    Raises:
        ShiftFileError: they differ.
    """
    if found != expected:
        raise ShiftFileError(
            f"its content hash should be {expected} but is {found}: the file was changed or damaged "
            "after it was written; fetch or make it again"
        )
