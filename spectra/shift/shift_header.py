"""The header of a shift file, read without its values (docs/file-format.md)."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import Header, HeaderError, StoredTensor, parse_header, read_header_text
from spectra.shift import part_arrays
from spectra.shift.metadata import (
    PARTS_VERSION,
    ShiftMetadata,
    check_version,
    from_strings,
    is_packed,
    version_of,
)
from spectra.shift.packing import arrays as packing
from spectra.shift.part_arrays import FLOATS
from spectra.shift.shift import Precision

SUFFIX = ".delta"
"""The end of every delta's key."""


@dataclass(frozen=True)
class ShiftHeader:
    """A shift file without its values.

    Attributes:
        metadata: of the shift.
        lengths: floats of each delta, by weight name.
        precision: of the file's values.
        bytes: size of the file.
        floats: that the file stores; of a packed file, those that it decodes to.
        outer: number of outer terms, by the names of the weights that have some.
        words: special words as they stand in prompts, by the names of embedding weights.
    """

    metadata: ShiftMetadata
    lengths: Mapping[str, int]
    precision: Precision
    bytes: int
    floats: int
    outer: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


def read_shift_header(path: str | os.PathLike[str]) -> ShiftHeader:
    """The header of a shift file: fast, and strict as far as it goes. Values and content hash are not looked at.

    Raises:
        ShiftFileError: no such file, not a shift, cut short, or of a later format version.
    """
    with open_shift_file(Path(path)) as (stream, header):
        if is_packed(header.metadata):
            stored = sum(tensor.bytes for tensor in header.tensors.values())
            arrays = {key: read_array(stream, header.tensors[key]) for key in packing.DESCRIBED & header.tensors.keys()}
            return _packed_header(packing.describe(header.metadata, arrays, stored), header.file_bytes)
        precision = common_precision(header.tensors.values())
        if version_of(header.metadata) == PARTS_VERSION:
            told = part_arrays.describe(header.metadata, header.tensors)
            floats = sum(math.prod(tensor.shape) for tensor in header.tensors.values() if tensor.code in FLOATS)
            terms = {name: header.tensors[name + part_arrays.OUTER].shape[0] for name in told.sides}
            texts = {name: text for name, (_, text) in told.words.items()}
            return ShiftHeader(told.metadata, told.lengths, precision, header.file_bytes, floats, terms, texts)
        lengths = {key.removesuffix(SUFFIX): tensor.shape[0] for key, tensor in header.tensors.items()}
        metadata = from_strings(header.metadata, lengths)
        return ShiftHeader(metadata, lengths, precision, header.file_bytes, sum(lengths.values()))


def _packed_header(told: packing.Described, file_bytes: int) -> ShiftHeader:
    return ShiftHeader(
        metadata=told.metadata,
        lengths=told.lengths,
        precision="packed",
        bytes=file_bytes,
        floats=sum(size for weight in told.weights for size, _ in weight.pieces),
        outer={weight.name: weight.terms.rank for weight in told.weights if weight.terms},
        words={name: text for name, (_, text) in told.words.items()},
    )


@contextlib.contextmanager
def open_shift_file(path: Path, within: str = "") -> Iterator[tuple[BinaryIO, Header]]:
    """An open shift file and its header, which is checked as far as that goes without its values.

    Args:
        path: of the file.
        within: key of the tensor of a safetensors file whose bytes are the shift file; the file itself by default.

    Raises:
        ShiftFileError: no such file, not a shift, cut short, or of a later format version; also an error of the
            block, with the file's path in front.
    """
    with path_in_errors(path):
        if not path.is_file():
            raise ShiftFileError("it is a folder; name a file" if path.is_dir() else "no such file; check the path")
        with contextlib.ExitStack() as opened:
            stream: BinaryIO = opened.enter_context(path.open("rb"))
            size = os.fstat(stream.fileno()).st_size
            try:
                header = parse_header(path, read_header_text(stream, size), size)
                if within:
                    if within not in header.tensors:
                        raise ShiftFileError(f"no tensor {within} in it, which holds a shift; name another file")
                    stream = io.BytesIO(read_array(stream, header.tensors[within]).tobytes())
                    size = len(stream.getbuffer())
                    header = parse_header(path, read_header_text(stream, size), size)
            except HeaderError as error:
                raise ShiftFileError(f"{error}: not a whole safetensors file; fetch or make it again") from error
            check_version(header.metadata)
            _check(header)
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


def common_precision(tensors: Iterable[StoredTensor]) -> Precision:
    """The one precision of the values of a file that is not packed.

    Raises:
        ShiftFileError: they have two.
    """
    codes = {tensor.code for tensor in tensors if tensor.code in FLOATS}
    if len(codes) > 1:
        raise ShiftFileError("expected all values in one dtype, got both F16 and F32; the file is damaged")
    return "float16" if codes == {"F16"} else "float32"


def _check_deltas(tensors: Mapping[str, StoredTensor]) -> None:
    for key, tensor in tensors.items():
        if not key.endswith(SUFFIX):
            raise ShiftFileError(
                f"expected keys that end in {SUFFIX!r}, got {key!r}; the file holds something else too"
            )
        if tensor.code not in FLOATS:
            raise ShiftFileError(f"{key}: expected F32 or F16, got {tensor.code}")
        if len(tensor.shape) != 1 or not tensor.shape[0]:
            raise ShiftFileError(f"{key}: expected a delta of shape [n], n > 0, got shape {list(tensor.shape)}")


def _check(header: Header) -> None:
    """Checks keys, dtypes and shapes of a file of any version."""
    if is_packed(header.metadata):
        packing.check_arrays(header.tensors)
    elif version_of(header.metadata) == PARTS_VERSION:
        part_arrays.check_arrays(header.tensors)
    else:
        _check_deltas(header.tensors)
