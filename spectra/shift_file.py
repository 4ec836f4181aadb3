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
from spectra.files import atomic_write
from spectra.metadata import ShiftMetadata, check_version, from_strings, is_packed, to_strings
from spectra.packing import arrays as packing
from spectra.shift import Precision, SpectralShift, check_finite

_SUFFIX = ".delta"
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


def _plain(shift: SpectralShift, dtype: Precision) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Strings and tensors of a file that is not packed."""
    if dtype not in ("float32", "float16"):
        raise ShiftFileError(f"expected dtype 'float32' or 'float16', got {dtype!r}; a packed file takes an error")
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, delta in shift.items():
        with np.errstate(over="ignore"):
            values = delta.astype(np.dtype(dtype).newbyteorder("<"))
        check_finite(name, values, "they do not fit into float16; write float32")
        tensors[name + _SUFFIX] = values
    return to_strings(replace(shift.metadata, content_hash="")), tensors


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
    """The first 32 hex digits of the SHA-256 over everything the file says: its metadata and its tensors."""
    described = {key: value for key, value in strings.items() if key != "content_hash"}
    digest = hashlib.sha256(json.dumps(described, ensure_ascii=False, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"\n{key} {tensors[key].dtype.name} {tensors[key].size}\n".encode())
        digest.update(tensors[key].tobytes())
    return digest.hexdigest()[:32]


def read_shift(path: str | os.PathLike[str]) -> SpectralShift:
    """Read a shift file, strictly: everything in it is understood, and its content hash is right, or it is refused.

    Args:
        path: of the file; float32, float16 or packed. float16 values are widened, which is exact.

    Raises:
        ShiftFileError: no such file, not a shift, damaged, or of a later format version.
    """
    with _explained(path):
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
    with _explained(path):
        return _read_header(Path(path))


def _read_header(path: Path) -> ShiftHeader:
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
            codes = {key: str(entry["dtype"]) for key, entry in sorted(entries.items())}
            shapes = {key: [int(n) for n in entry["shape"]] for key, entry in entries.items()}
            spans = {
                key: (int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for key, entry in entries.items()
            }
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
            raise ShiftFileError(f"not a whole safetensors file ({error}); fetch or make it again") from error
        check_version(strings)
        end = 8 + length + max((stop for _, stop in spans.values()), default=0)
        if end != size:
            raise ShiftFileError(f"expected {end} bytes, got {size}; fetch or make it again")
        for key, code in codes.items():
            _check_entry(key, code, shapes[key], packed=is_packed(strings))
        if not is_packed(strings):
            lengths = {key.removesuffix(_SUFFIX): shapes[key][0] for key in codes}
            return ShiftHeader(from_strings(strings, lengths), lengths, _precision(set(codes.values())), size)
        arrays = {}
        for key in packing.DESCRIBED & spans.keys():
            stream.seek(8 + length + max(spans[key][0], 0))
            arrays[key] = np.frombuffer(stream.read(max(spans[key][1] - spans[key][0], 0)), dtype=np.uint8)
        description = packing.describe(strings, arrays)
    return ShiftHeader(description.metadata, description.lengths, "packed", size)


@contextlib.contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
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
        _check_hash(strings, tensors)
        return packing.unpack(strings, tensors)
    precision = _precision(set(codes.values()))
    names = [key.removesuffix(_SUFFIX) for key in keys]
    metadata = from_strings(strings, names)
    _check_hash(strings, tensors)
    return SpectralShift(dict(zip(names, tensors.values(), strict=True)), metadata, precision=precision)


def _check_hash(strings: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    expected, found = strings.get("content_hash", ""), _content_hash(strings, tensors)
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
    if not key.endswith(_SUFFIX):
        raise ShiftFileError(f"expected keys that end in {_SUFFIX!r}, got {key!r}; the file holds something else too")
    if code not in ("F32", "F16"):
        raise ShiftFileError(f"{key}: expected F32 or F16, got {code}")
    if len(shape) != 1:
        raise ShiftFileError(f"{key}: expected a delta of shape [n], got shape {shape}")


def _precision(codes: set[str]) -> Precision:
    if len(codes) > 1:
        raise ShiftFileError("expected all deltas in one dtype, got both F16 and F32; the file is damaged")
    return "float16" if codes == {"F16"} else "float32"
