"""The header of a safetensors file: which tensors it holds, and where they lie. Every reader of one goes through here.

8 bytes    length of the header, little endian
header     JSON: key -> {"dtype": "F32", "shape": [...], "data_offsets": [first byte, one after the last]}, and
           "__metadata__" -> strings; padded with blanks
data       the tensors' bytes, from which the offsets count
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from spectra.io.dtypes import BYTES, CODE_OF_NAME, NAME_OF_CODE

LONGEST_HEADER = 100_000_000
"""A limit in bytes; safetensors itself refuses a longer header."""


class HeaderError(ValueError):
    """The header of a safetensors file cannot be read, or does not fit the file. Callers say what that means."""


class StoredTensor(NamedTuple):
    """One tensor of a file: the code of its dtype ("F16"), its first byte in the file and the one after its last, and
    the tensor that its values are to be multiplied with, if there is one (`spectra.io.scaled_tensors`).
    """

    path: Path
    key: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int
    scale: StoredTensor | None = None

    @property
    def dtype(self) -> str:
        """The dtype's name, such as "float16"; the code itself where there is none."""
        return NAME_OF_CODE.get(self.code, self.code)

    @property
    def bytes(self) -> int:
        """Size of its values."""
        return self.stop - self.start


@dataclass(frozen=True)
class Header:
    """The header of a file: its strings, its tensors by key, where their values start, and the file's size in bytes."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    data_start: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """The header of a file, checked against its size; no values are read.

    Raises:
        HeaderError: no whole safetensors file.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        return parse_header(path, read_header_text(stream, size), size)


def read_header_text(stream: BinaryIO, size: int, longest: int = LONGEST_HEADER) -> bytes:
    """The JSON of the header at the start of a stream, unparsed, of at most `longest` bytes.

    Raises:
        HeaderError: the file of `size` bytes is too short, or states a length that cannot be.
    """
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(size - 8, longest):
        raise HeaderError("no header")
    return stream.read(length)


def parse_header(path: Path, text: bytes, size: int) -> Header:
    """The header that `read_header_text` found in a file of `size` bytes.

    Raises:
        HeaderError: it is none, or its tensors do not fill the file one after the other, without gap or overlap.
    """
    try:
        entries = json.loads(text.decode())
        metadata = entries.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata that is not text")
        tensors = {key: _stored_tensor(path, key, entry, 8 + len(text)) for key, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HeaderError(str(error) or type(error).__name__) from error
    end = 8 + len(text)
    for tensor in sorted(tensors.values(), key=attrgetter("start", "stop")):
        if tensor.start != end:
            raise HeaderError(f"{tensor.key}: its place in the file overlaps another's or leaves a gap")
        end = tensor.stop
    if end != size:
        raise HeaderError(f"expected {end} bytes, got {size}")
    return Header(metadata, tensors, 8 + len(text), size)


def build_header(metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, Sequence[int]]]) -> bytes:
    """The first bytes of a file, up to its tensors' values.

    Args:
        metadata: of the file.
        tensors: dtype (its name, such as "float16") and shape by key, in the order in which the values will lie.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for key, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[key] = {"dtype": CODE_OF_NAME[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _stored_tensor(path: Path, key: str, entry: Mapping[str, Any], data_start: int) -> StoredTensor:
    code, shape, (start, stop) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
    for number in (start, stop, *shape):  # a merge of 1,000 shifts reads 391,000 of these: a list takes twice as long
        if type(number) is not int or number < 0:
            raise ValueError(f"{key}: expected whole numbers for its shape and its place in the file")
    dtype = NAME_OF_CODE.get(code)
    if dtype and stop - start != math.prod(shape) * BYTES[dtype]:
        raise ValueError(f"{key}: its place in the file does not fit its shape")
    return StoredTensor(path, key, code, shape, data_start + start, data_start + stop)
