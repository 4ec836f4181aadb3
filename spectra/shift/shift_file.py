"""The shift file: a safetensors file that describes itself, read strictly and written whole (docs/file-format.md)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from spectra.errors import ShiftFileError
from spectra.io.atomic_writes import atomic_write
from spectra.shift.metadata import ShiftMetadata, check_version, from_strings, is_packed, to_strings
from spectra.shift.packing import arrays as packing
from spectra.shift.shift import Precision, SpectralShift, check_finite

SUFFIX = ".delta"
"""What the key of every delta ends in."""

_CODES = {"float32": "F32", "float16": "F16", "uint8": "U8", "uint16": "U16", "uint32": "U32"}


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
            matrices and for all 1-D weights) and entropy-code them. 0.01 leaves a fifth of the file, 0.03 a sixth.
        force: replace a file that exists.

    Returns:
        Bytes written.

    Raises:
        ShiftFileError: a value that float16 cannot hold, metadata that JSON cannot, or an error out of range.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    strings, tensors = _plain(shift, dtype) if error is None else packing.pack(shift, error)
    strings["content_hash"] = _content_hash(strings, tensors)
    data = _serialize(strings, tensors)
    with atomic_write(Path(path), force=force) as temporary:
        temporary.write_bytes(data)
    return len(data)


def _plain(shift: SpectralShift, dtype: str) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Strings and tensors of a file that is not packed."""
    dtype = precision_called(dtype)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, delta in shift.items():
        with np.errstate(over="ignore"):
            values = delta.astype(np.dtype(dtype).newbyteorder("<"))
        check_finite(name, values, "they do not fit into float16; write float32")
        tensors[name + SUFFIX] = values
    return to_strings(replace(shift.metadata, content_hash="")), tensors


def precision_called(name: str) -> Literal["float32", "float16"]:
    """The precision of that name, in which the values of a file that is not packed can be.

    Raises:
        ShiftFileError: there is none.
    """
    known: dict[str, Literal["float32", "float16"]] = {"float32": "float32", "float16": "float16"}
    if name in known:
        return known[name]
    raise ShiftFileError(f"expected dtype 'float32' or 'float16', got {name!r}; a packed file takes an error")


def _serialize(strings: dict[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The safetensors layout: header length (8 bytes, little endian), JSON header padded to 8 bytes, the data.

    Written here because safetensors orders the metadata at random, and a shift should give the same bytes each time.
    """
    header: dict[str, object] = {"__metadata__": strings}
    offset = 0
    keys = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))  # so that every array is aligned
    for key in keys:
        values, code = tensors[key], _CODES[tensors[key].dtype.name]
        header[key] = {"dtype": code, "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors[key].tobytes() for key in keys)


def _content_hash(strings: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    content = ContentHash(strings)
    for key in sorted(tensors):
        content.add(key, tensors[key].dtype.name, tensors[key].size, tensors[key].tobytes())
    return content.hexdigest()


class ContentHash:
    """The first 32 hex digits of the SHA-256 over everything a file says: its metadata, then its tensors."""

    def __init__(self, strings: Mapping[str, str]) -> None:
        described = {key: value for key, value in strings.items() if key != "content_hash"}
        self._digest = hashlib.sha256(json.dumps(described, ensure_ascii=False, sort_keys=True).encode())

    def add(self, key: str, dtype: str, size: int, data: bytes) -> None:
        """One tensor: its key, numpy's name of its dtype, its number of values, and their bytes; in order of keys."""
        self._digest.update(f"\n{key} {dtype} {size}\n".encode())
        self._digest.update(data)

    def hexdigest(self) -> str:
        """Of all that was added."""
        return self._digest.hexdigest()[:32]


def read_shift(path: str | os.PathLike[str]) -> SpectralShift:
    """Read a shift file, strictly: everything in it is understood, and its content hash is right, or it is refused.

    Args:
        path: of the file; float32, float16 or packed. float16 values are widened, which is exact.

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
    entries = read_entries(path)
    if not is_packed(entries.strings):
        lengths = {key.removesuffix(SUFFIX): shape[0] for key, shape in entries.shapes.items()}
        precision = precision_of(set(entries.codes.values()))
        return ShiftHeader(from_strings(entries.strings, lengths), lengths, precision, entries.bytes)
    arrays = {}
    with path.open("rb") as stream:
        for key in packing.DESCRIBED & entries.spans.keys():
            start, stop = (max(offset, 0) for offset in entries.spans[key])
            stream.seek(entries.first + start)
            arrays[key] = np.frombuffer(stream.read(max(stop - start, 0)), dtype=np.uint8)
    description = packing.describe(entries.strings, arrays)
    return ShiftHeader(description.metadata, description.lengths, "packed", entries.bytes)


@dataclass(frozen=True)
class Entries:
    """The safetensors header of a shift file.

    Attributes:
        strings: of the metadata.
        codes, shapes, spans: dtype, shape, and first byte and the one after the last, by key in sorted order.
        first: byte of the file that the spans count from.
        bytes: size of the file.
    """

    strings: Mapping[str, str]
    codes: Mapping[str, str]
    shapes: Mapping[str, list[int]]
    spans: Mapping[str, tuple[int, int]]
    first: int
    bytes: int


def read_entries(path: Path) -> Entries:
    """The safetensors header of a file, checked as far as that goes without its data."""
    _check_file(path)
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ShiftFileError("not a whole safetensors file; fetch or make it again")
        try:
            entries = json.loads(stream.read(length))
            strings = entries.pop("__metadata__", {})
            if not all(isinstance(value, str) for value in strings.values()):
                raise TypeError("metadata that is not text")
            ordered = sorted(entries.items())
            codes = {key: str(entry["dtype"]) for key, entry in ordered}
            shapes = {key: [int(n) for n in entry["shape"]] for key, entry in ordered}
            spans = {key: (int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for key, entry in ordered}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
            raise ShiftFileError(f"not a whole safetensors file ({error}); fetch or make it again") from error
    check_version(strings)
    end = 8 + length + max((stop for _, stop in spans.values()), default=0)
    if end != size:
        raise ShiftFileError(f"expected {end} bytes, got {size}; fetch or make it again")
    for key, code in codes.items():
        _check_entry(key, code, shapes[key], packed=is_packed(strings))
    return Entries(strings, codes, shapes, spans, 8 + length, size)


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
            codes = {key: piece.get_dtype() for key, piece in pieces.items()}
            for key, piece in pieces.items():
                _check_entry(key, codes[key], piece.get_shape(), packed=is_packed(strings))
            tensors = {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, UnicodeError) as error:
        raise ShiftFileError(f"not a whole safetensors file ({error}); fetch or make it again") from error
    if is_packed(strings):
        check_content(strings.get("content_hash", ""), _content_hash(strings, tensors))
        return packing.unpack(strings, tensors)
    precision = precision_of(set(codes.values()))
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


def _check_entry(key: str, code: str, shape: list[int], *, packed: bool) -> None:
    """What the header says of one tensor, before it is read."""
    if packed:
        packing.check_entry(key, code, shape)
        return
    if not key.endswith(SUFFIX):
        raise ShiftFileError(f"expected keys that end in {SUFFIX!r}, got {key!r}; the file holds something else too")
    if code not in ("F32", "F16"):
        raise ShiftFileError(f"{key}: expected F32 or F16, got {code}")
    if len(shape) != 1:
        raise ShiftFileError(f"{key}: expected a delta of shape [n], got shape {shape}")


def precision_of(codes: set[str]) -> Precision:
    """The one precision of a file whose deltas have these dtype codes."""
    if len(codes) > 1:
        raise ShiftFileError("expected all deltas in one dtype, got both F16 and F32; the file is damaged")
    return "float16" if codes == {"F16"} else "float32"
