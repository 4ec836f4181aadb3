"""The header of a shift file, read without its values (docs/file-format.md)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import Header, HeaderError, StoredTensor, parse_header, read_header_text
from spectra.shift.metadata import ShiftMetadata, check_version, from_strings, is_packed
from spectra.shift.packing import arrays as packing
from spectra.shift.shift import Precision

SUFFIX = ".delta"
"""The end of every delta's key."""


@dataclass(frozen=True)
class ShiftHeader:
    """A shift file without its values: `lengths` are floats of each delta by weight name, `bytes` the file's size."""

    metadata: ShiftMetadata
    lengths: Mapping[str, int]
    precision: Precision
    bytes: int


def read_shift_header(path: str | os.PathLike[str]) -> ShiftHeader:
    """The header of a shift file: fast, and strict as far as it goes. Values and content hash are not looked at.

    Raises:
        ShiftFileError: no such file, not a shift, cut short, or of a later format version.
    """
    with open_shift_file(Path(path)) as (stream, header):
        if is_packed(header.metadata):
            arrays = {key: read_array(stream, header.tensors[key]) for key in packing.DESCRIBED & header.tensors.keys()}
            metadata, lengths, _ = packing.describe(header.metadata, arrays)
            return ShiftHeader(metadata, lengths, "packed", header.file_bytes)
        lengths = {key.removesuffix(SUFFIX): tensor.shape[0] for key, tensor in header.tensors.items()}
        precision = common_precision(header.tensors.values())
        return ShiftHeader(from_strings(header.metadata, lengths), lengths, precision, header.file_bytes)


@contextlib.contextmanager
def open_shift_file(path: Path) -> Iterator[tuple[BinaryIO, Header]]:
    """An open shift file and its header, which is checked as far as that goes without its values.

    Raises:
        ShiftFileError: no such file, not a shift, cut short, or of a later format version; also an error of the
            block, with the file's path in front.
    """
    with path_in_errors(path):
        if not path.is_file():
            raise ShiftFileError("it is a folder; name a file" if path.is_dir() else "no such file; check the path")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            try:
                header = parse_header(path, read_header_text(stream, size), size)
            except HeaderError as error:
                raise ShiftFileError(f"{error}: not a whole safetensors file; fetch or make it again") from error
            check_version(header.metadata)
            check = packing.check_arrays if is_packed(header.metadata) else _check_deltas
            check(header.tensors)
            yield stream, header


@contextlib.contextmanager
def path_in_errors(path: Path) -> Iterator[None]:
    """Errors of reading a shift file, with its path in front."""
    try:
        yield
    except ShiftFileError as error:
        raise ShiftFileError(f"{path}: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ShiftFileError(f"{path}: cannot be read ({reason}); check the path and its permissions") from error


def read_array(stream: BinaryIO, tensor: StoredTensor) -> npt.NDArray[Any]:
    """The values of one tensor, `[n]`."""
    stream.seek(tensor.start)
    return np.frombuffer(stream.read(tensor.bytes), dtype=np.dtype(tensor.dtype).newbyteorder("<"))


def common_precision(deltas: Iterable[StoredTensor]) -> Precision:
    """The one precision of the deltas of a file that is not packed.

    Raises:
        ShiftFileError: they have two.
    """
    codes = {tensor.code for tensor in deltas}
    if len(codes) > 1:
        raise ShiftFileError("expected all deltas in one dtype, got both F16 and F32; the file is damaged")
    return "float16" if codes == {"F16"} else "float32"


def _check_deltas(tensors: Mapping[str, StoredTensor]) -> None:
    for key, tensor in tensors.items():
        if not key.endswith(SUFFIX):
            raise ShiftFileError(
                f"expected keys that end in {SUFFIX!r}, got {key!r}; the file holds something else too"
            )
        if tensor.code not in ("F32", "F16"):
            raise ShiftFileError(f"{key}: expected F32 or F16, got {tensor.code}")
        if len(tensor.shape) != 1 or not tensor.shape[0]:
            raise ShiftFileError(f"{key}: expected a delta of shape [n], n > 0, got shape {list(tensor.shape)}")
