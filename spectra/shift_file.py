"""The shift file: a safetensors file that describes itself, read strictly and written whole (docs/file-format.md)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from spectra.errors import ShiftFileError
from spectra.files import atomic_write
from spectra.metadata import ShiftMetadata, check_version, from_strings, to_strings
from spectra.shift import Precision, SpectralShift, check_finite

SUFFIX = ".delta"
"""What the key of every tensor ends in."""

_CODES: dict[Precision, str] = {"float32": "F32", "float16": "F16"}


def write_shift(
    shift: SpectralShift, path: str | os.PathLike[str], *, dtype: Precision = "float32", force: bool = False
) -> int:
    """Write a shift as a safetensors file; the same shift always gives the same bytes.

    Args:
        shift: what to write.
        path: of the file. It appears whole or not at all.
        dtype: of the values in the file. float16 halves the file; its smallest step is 6e-8, its largest value 65504.
        force: replace a file that exists.

    Returns:
        Bytes written.

    Raises:
        ShiftFileError: a value that float16 cannot hold, or metadata that JSON cannot.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    precision_called(dtype)
    tensors: dict[str, npt.NDArray[np.floating]] = {}
    for name, delta in shift.items():
        with np.errstate(over="ignore"):
            values = delta.astype(np.dtype(dtype).newbyteorder("<"))
        check_finite(name, values, "they do not fit into float16; write float32")
        tensors[name + SUFFIX] = values
    strings = to_strings(replace(shift.metadata, content_hash=""))
    strings["content_hash"] = _content_hash(strings, tensors)
    data = _serialize(strings, tensors, _CODES[dtype])
    with atomic_write(Path(path), force=force) as temporary:
        temporary.write_bytes(data)
    return len(data)


def precision_called(name: str) -> Precision:
    """The precision of that name.

    Raises:
        ShiftFileError: a file cannot have it.
    """
    for precision in _CODES:
        if precision == name:
            return precision
    raise ShiftFileError(f"expected dtype {' or '.join(map(repr, _CODES))}, got {name!r}")


def _serialize(strings: dict[str, str], tensors: Mapping[str, npt.NDArray[np.floating]], code: str) -> bytes:
    """The safetensors layout: header length (8 bytes, little endian), JSON header padded to 8 bytes, the data.

    Written here because safetensors orders the metadata at random, and a shift should give the same bytes each time.
    """
    header: dict[str, object] = {"__metadata__": strings}
    offset = 0
    for key in sorted(tensors):
        values = tensors[key]
        header[key] = {"dtype": code, "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors[key].tobytes() for key in sorted(tensors))


def _content_hash(strings: Mapping[str, str], tensors: Mapping[str, npt.NDArray[np.floating]]) -> str:
    content = ContentHash(strings)
    for key in sorted(tensors):
        content.add(key, tensors[key].dtype, tensors[key].tobytes())
    return content.hexdigest()


class ContentHash:
    """The first 32 hex digits of the SHA-256 over everything a shift file says: its metadata, then its tensors."""

    def __init__(self, strings: Mapping[str, str]) -> None:
        described = {key: value for key, value in strings.items() if key != "content_hash"}
        self._digest = hashlib.sha256(json.dumps(described, ensure_ascii=False, sort_keys=True).encode())

    def add(self, key: str, dtype: np.dtype[Any], data: bytes) -> None:
        """One tensor; they come in sorted order of their keys."""
        self._digest.update(f"\n{key} {dtype.name} {len(data) // dtype.itemsize}\n".encode())
        self._digest.update(data)

    def hexdigest(self) -> str:
        """Of all that was added."""
        return self._digest.hexdigest()[:32]


def read_shift(path: str | os.PathLike[str]) -> SpectralShift:
    """Read a shift file, strictly: everything in it is understood, and its content hash is right, or it is refused.

    Args:
        path: of the file; float32 or float16. float16 values are widened, which is exact.

    Raises:
        ShiftFileError: no such file, not a shift, damaged, or of a later format version.
    """
    with explained(path):
        return _read(Path(path))


@dataclass(frozen=True)
class ShiftHeader:
    """What a shift file says about itself, read without its values.

    Attributes:
        metadata: as `SpectralShift.metadata`.
        lengths: floats of each delta, by weight name.
        precision: of the values.
        bytes: size of the file.
    """

    metadata: ShiftMetadata
    lengths: Mapping[str, int]
    precision: Precision
    bytes: int


def read_header(path: str | os.PathLike[str]) -> ShiftHeader:
    """The header of a shift file: fast, and strict as far as it goes. Values and content hash are not looked at.

    Raises:
        ShiftFileError: no such file, not a shift, cut short, or of a later format version.
    """
    with explained(path):
        return _read_header(Path(path))


def _read_header(path: Path) -> ShiftHeader:
    strings, entries, _, size = read_entries(path)
    lengths = {key.removesuffix(SUFFIX): entry["shape"][0] for key, entry in sorted(entries.items())}
    precision = precision_of({entry["dtype"] for entry in entries.values()})
    return ShiftHeader(from_strings(strings, lengths), lengths, precision, size)


def read_entries(path: Path) -> tuple[dict[str, str], dict[str, Any], int, int]:
    """The safetensors header of a shift file, its structure checked.

    Returns:
        The metadata's strings; dtype, shape and data_offsets by key; the byte at which the data start; the file's size.
    """
    _check_file(path)
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ShiftFileError("not a whole safetensors file; fetch or make it again")
        try:
            entries = json.loads(stream.read(length))
            strings = entries.pop("__metadata__", {})
            end = max(entry["data_offsets"][1] for entry in entries.values()) if entries else 0
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ShiftFileError(f"not a whole safetensors file ({error}); fetch or make it again") from error
    check_version(strings)
    if 8 + length + end != size:
        raise ShiftFileError(f"expected {8 + length + end} bytes, got {size}; fetch or make it again")
    for key, entry in entries.items():
        _check_entry(key, entry["dtype"], entry["shape"])
    return strings, entries, 8 + length, size


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of reading a file, with its path in front."""
    try:
        yield
    except ShiftFileError as error:
        raise ShiftFileError(f"{os.fspath(path)}: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ShiftFileError(
            f"{os.fspath(path)}: cannot be read ({reason}); check the path and its permissions"
        ) from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ShiftFileError("it is a folder; name a file" if path.is_dir() else "no such file; check the path")


def _read(path: Path) -> SpectralShift:
    _check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            strings: dict[str, str] = file.metadata() or {}
            check_version(strings)
            keys = sorted(file.keys())
            pieces = {key: file.get_slice(key) for key in keys}
            codes = {_check_entry(key, piece.get_dtype(), piece.get_shape()) for key, piece in pieces.items()}
            tensors = {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, UnicodeError) as error:
        raise ShiftFileError(f"not a whole safetensors file ({error}); fetch or make it again") from error
    precision = precision_of(codes)
    names = [key.removesuffix(SUFFIX) for key in keys]
    metadata = from_strings(strings, names)
    check_content(metadata.content_hash, _content_hash(strings, tensors))
    return SpectralShift(dict(zip(names, tensors.values(), strict=True)), metadata, precision=precision)


def check_content(expected: str, found: str) -> None:
    """That a file holds what was written.

    Raises:
        ShiftFileError: its content hash is another.
    """
    if found != expected:
        raise ShiftFileError(
            f"its content hash should be {expected} but is {found}: the file was changed or damaged "
            "after it was written; fetch or make it again"
        )


def _check_entry(key: str, code: str, shape: list[int]) -> str:
    """The dtype code of one tensor of the file, before it is read."""
    if not key.endswith(SUFFIX):
        raise ShiftFileError(f"expected keys that end in {SUFFIX!r}, got {key!r}; the file holds something else too")
    if code not in _CODES.values():
        raise ShiftFileError(f"{key}: expected F32 or F16, got {code}")
    if len(shape) != 1:
        raise ShiftFileError(f"{key}: expected a delta of shape [n], got shape {shape}")
    return code


def precision_of(codes: set[str]) -> Precision:
    """The one precision of a file whose tensors have these dtype codes."""
    if len(codes) > 1:
        raise ShiftFileError("expected all deltas in one dtype, got both F16 and F32; the file is damaged")
    return "float16" if codes == {"F16"} else "float32"
