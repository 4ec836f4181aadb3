"""Tensors inside safetensors files, each read or written where it lies.

Reading goes through plain reads, not a memory map: what was read before does not stay in the process's memory, so
that a walk over a model holds one tensor at a time. Overwriting keeps header, order and everything else of a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import BaseError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLOATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""The floating-point types of a safetensors file, by the names that torch gives them."""

_FLOAT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Entry:
    """One floating-point tensor of a file.

    Attributes:
        path: of the file.
        key: in it.
        dtype: torch's name, such as "float16".
        shape: as it is stored.
        start: of its bytes in the file.
        bytes: how many there are.
    """

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    bytes: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's object."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def read_entries(path: Path) -> dict[str, Entry]:
    """The floating-point tensors of a file by key, in the order of the header; no values are read.

    Raises:
        BaseError: it cannot be read, or is not a whole safetensors file.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("no header")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        entries, end = {}, 0
        for key, said in header.items():
            start, stop = said["data_offsets"]
            end = max(end, stop)
            if said["dtype"] in FLOATS:
                shape = tuple(said["shape"])
                entries[key] = Entry(path, key, FLOATS[said["dtype"]], shape, 8 + length + start, stop - start)
                if math.prod(shape) * entries[key].torch_dtype.itemsize != stop - start:
                    raise ValueError(f"{key} has another size than its shape")
        if 8 + length + end != size:
            raise ValueError(f"expected {8 + length + end} bytes, got {size}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BaseError(
            f"{path}: cannot be read as safetensors ({error}); the file is damaged or incomplete"
        ) from error
    return entries


def read_rows(entry: Entry, spans: Spans = ()) -> Tensor:
    """The tensor, or some of its rows, one span `(start, stop)` after the other.

    Raises:
        BaseError: the file cannot be read any more.
    """
    import torch

    per_row = _row_bytes(entry)
    places = [(start * per_row, stop * per_row) for start, stop in spans] or [(0, entry.bytes)]
    data = torch.empty(sum(stop - start for start, stop in places), dtype=torch.uint8)
    buffer, filled = data.numpy().data, 0
    try:
        with entry.path.open("rb", buffering=0) as stream:
            for start, stop in places:
                stream.seek(entry.start + start)
                while start < stop:
                    got = stream.readinto(buffer[filled : filled + stop - start])
                    if not got:
                        raise OSError("it ends too early")
                    start, filled = start + got, filled + got
    except OSError as error:
        raise BaseError(f"{entry.path}: cannot read {entry.key} ({error}); the file is damaged") from error
    rows = [sum(stop - start for start, stop in spans), *entry.shape[1:]] if spans else entry.shape
    return data.view(entry.torch_dtype).reshape(rows)


def create_file(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> dict[str, Entry]:
    """A new safetensors file of zeros, to be filled with `write_rows`: one tensor at a time is then in memory.

    Args:
        path: of the file; what is there is replaced.
        tensors: dtype (torch's name) and shape by key, in the order they will lie.
        metadata: of the file.

    Returns:
        where each tensor lies, by key.
    """
    codes = {name: code for code, name in FLOATS.items()}
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for key, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * _FLOAT_BYTES[dtype]
        header[key] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return read_entries(path)


def write_rows(entry: Entry, tensor: Tensor, spans: Spans = ()) -> None:
    """Overwrites the tensor, or some of its rows, in the file; the counterpart of `read_rows`.

    Args:
        tensor: what `read_rows` would return, in the entry's dtype and shape.
    """
    import torch

    rows = sum(stop - start for start, stop in spans) if spans else entry.shape[:1]
    if tensor.dtype != entry.torch_dtype or (spans and len(tensor) != rows):
        raise ValueError(f"{entry.key}: expected {rows} rows of {entry.dtype}, got {len(tensor)} of {tensor.dtype}")
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    if not spans and len(data) != entry.bytes:
        raise ValueError(f"{entry.key}: expected {entry.bytes} bytes, got {len(data)}")
    per_row, written = _row_bytes(entry), 0
    with entry.path.open("r+b") as stream:
        for start, stop in spans or [(0, entry.bytes)]:
            start, stop = (start * per_row, stop * per_row) if spans else (start, stop)
            stream.seek(entry.start + start)
            stream.write(data[written : written + stop - start])
            written += stop - start


def _row_bytes(entry: Entry) -> int:
    return math.prod(entry.shape[1:]) * entry.torch_dtype.itemsize
