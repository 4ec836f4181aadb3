"""The header of a safetensors file: which tensors it holds, and where they lie. Every reader of one goes through here.

8 bytes    length of the header, little endian
header     JSON: key -> {"dtype": "F32", "shape": [...], "data_offsets": [first byte, one after the last]}, and
           "__metadata__" -> strings; padded with blanks
data       the tensors' bytes, from which the offsets count

A pattern of that form, and of no other JSON, is held against the text before it is parsed. So a header can neither
nest, nor make more objects than it may have tensors, whatever a stranger has put there.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from spectra.io.dtypes import BYTES, CODE_OF_NAME, NAME_OF_CODE

LONGEST_HEADER = 10_000_000
"""A limit in bytes: that many letters outside Latin take four times as much in memory. safetensors' own is 100 MB."""

MOST_TENSORS = 1 << 15
"""A limit of one file; a whole pipeline of SDXL in one file has 2,515."""

_MOST_STRINGS, _MOST_DIMENSIONS, _MOST_VALUES = 4096, 16, 1 << 53
_METADATA = "__metadata__"


def _joined(*parts: str) -> str:
    """A pattern of parts with any blanks between them."""
    return "[ \t\n\r]*+".join(parts)


def _object(entry: str, most: int) -> str:
    """A pattern of an object of at most so many entries."""
    return _joined(r"\{", f"(?:{entry}(?:{_joined('', ',', entry)}){{0,{most - 1}}}+)?+", r"\}")


_STRING = r'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_FIELD = _joined('"(?:dtype|shape|data_offsets)"', ":", r'(?:"\w{1,16}"|\[[0-9, \t\n\r]{0,256}+\])')
_TENSOR = _joined(r"\{", _FIELD, ",", _FIELD, ",", _FIELD, r"\}")
_STRINGS = _object(_joined(_STRING, ":", _STRING), _MOST_STRINGS)
_ENTRY = "(?:" + _joined(f'"{_METADATA}"', ":", _STRINGS) + "|" + _joined(_STRING, ":", _TENSOR) + ")"
_FORM = re.compile(_joined(_object(_ENTRY, MOST_TENSORS + 1), "").encode())
_LEADING = re.compile(_joined(r"\{", f'"{_METADATA}"', ":", f"({_STRINGS})").encode())


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
    if text.count(b'"data_offsets"') > MOST_TENSORS:
        raise HeaderError(f"more than {MOST_TENSORS:,} tensors")
    if not _FORM.fullmatch(text):
        raise HeaderError(
            f"expected text in {_METADATA}, and of each tensor dtype, shape and data_offsets in whole numbers"
        )
    entries = _parsed(text)
    metadata = entries.pop(_METADATA, {})
    if not all(isinstance(value, str) for value in metadata.values()):  # its key was spelled in escapes
        raise HeaderError(f"expected text in {_METADATA}")
    end = data_start = 8 + len(text)
    tensors = {key: _stored_tensor(path, key, entry, data_start) for key, entry in entries.items()}
    for tensor in sorted(tensors.values(), key=attrgetter("start", "stop")):
        if tensor.start != end:
            raise HeaderError(f"{tensor.key}: its place in the file overlaps another's or leaves a gap")
        end = tensor.stop
    if end != size:
        raise HeaderError(f"expected {end} bytes, got {size}")
    return Header(metadata, tensors, data_start, size)


def leading_metadata(text: bytes) -> dict[str, str] | None:
    """The strings of a header's text, if they come first, as spectra writes them; the rest is not looked at.

    Raises:
        HeaderError: a string that is no Unicode text, or of which there are two.
    """
    found = _LEADING.match(text)
    return None if found is None else _parsed(found[1])


def _parsed(text: bytes) -> dict[str, Any]:
    """JSON of known form; raises a HeaderError where a key is there twice, or text is not Unicode."""
    try:
        parsed: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_once)
        if b"\\u" in text:  # half of a surrogate pair is no text
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise HeaderError("text that is not Unicode") from error
    except ValueError as error:
        raise HeaderError(str(error)) from error
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in [other for other, _ in pairs[:i]])
        raise ValueError(f"{twice} is there twice")
    return found


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
    try:
        code, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        size = math.prod(shape)
    except (ValueError, KeyError, TypeError) as error:
        raise HeaderError(f"{key}: expected dtype, shape and data_offsets, in whole numbers") from error
    dtype = NAME_OF_CODE.get(code) if isinstance(code, str) else None
    if not isinstance(code, str) or stop < start or (dtype and stop - start != size * BYTES[dtype]):
        raise HeaderError(f"{key}: its place in the file does not fit its shape")
    if len(shape) > _MOST_DIMENSIONS or (size == 0 and math.prod(filter(None, shape)) > _MOST_VALUES):
        raise HeaderError(f"{key}: no tensor has such a shape")
    return StoredTensor(path, key, code, shape, data_start + start, data_start + stop)
