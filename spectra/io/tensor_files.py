"""Tensors inside safetensors files, each read or written where it lies.

Reading goes through plain reads, not a memory map: what was read before does not stay in the process's memory, so
that a walk over a model holds one tensor at a time. Overwriting keeps header, order and everything else of a file.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import BaseError
from spectra.io.dtypes import BYTES, FLOATS, computing_dtype, dtype_name, torch_dtype
from spectra.io.safetensors_header import Header, HeaderError, StoredTensor, build_header, read_header
from spectra.io.scaled_tensors import ScaleError, attach_scales, multiply, scale_of_rows

if TYPE_CHECKING:
    from torch import Tensor

Spans = Sequence[tuple[int, int]]


def stored_tensors(*paths: Path) -> dict[str, StoredTensor]:
    """The floating-point tensors of a file, or of several, by key, in the order of the headers; no values are read.

    Those that have a scale (`spectra.io.scaled_tensors`) hold it, and it is none of them.

    Raises:
        BaseError: one cannot be read, is not a whole safetensors file, or has quantised weights other than fp8.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        try:
            tensors |= read_header(path).tensors
        except (OSError, HeaderError) as error:
            raise BaseError(
                f"{path}: cannot be read as safetensors ({error}); the file is damaged or incomplete"
            ) from error
    try:
        tensors = attach_scales(tensors)
    except ScaleError as error:
        raise BaseError(f"{paths[0]}: {error}") from error
    return {key: tensor for key, tensor in tensors.items() if tensor.dtype in FLOATS}


def read_rows(stored: StoredTensor, spans: Spans = ()) -> Tensor:
    """The tensor, or some of its rows, one span `(start, stop)` after the other; float32 if it has a scale.

    Raises:
        BaseError: the file cannot be read any more.
    """
    values, scale = _read_values(stored, spans), _scale(stored, spans)
    return values if scale is None else multiply(values, scale)


def rounded_rows(stored: StoredTensor, exact: Tensor, spans: Spans = ()) -> Tensor:
    """What `read_rows` would return, had `exact`, floats of its shape, been written; what fp8 cannot hold is cut off.

    No scale is changed: it may be that of other rows too.
    """
    scale = _scale(stored, spans)
    if scale is None:
        return _cast(exact, stored.dtype)
    return multiply(_divided(stored, exact, scale), scale)


def _read_values(stored: StoredTensor, spans: Spans) -> Tensor:
    import torch

    places = _byte_spans(stored, spans)
    data = torch.empty(sum(stop - start for start, stop in places), dtype=torch.uint8)
    buffer, filled = data.numpy().data, 0
    try:
        with stored.path.open("rb", buffering=0) as stream:
            for start, stop in places:
                stream.seek(stored.start + start)
                while start < stop:
                    got = stream.readinto(buffer[filled : filled + stop - start])
                    if not got:
                        raise OSError("it ends too early")
                    start, filled = start + got, filled + got
    except OSError as error:
        raise BaseError(f"{stored.path}: cannot read {stored.key} ({error}); the file is damaged") from error
    rows = [sum(stop - start for start, stop in spans), *stored.shape[1:]] if spans else stored.shape
    return data.view(torch_dtype(stored.dtype)).reshape(rows)


def create_file(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> dict[str, StoredTensor]:
    """A new safetensors file of zeros, to be filled with `write_rows`: one tensor at a time is then in memory.

    Args:
        path: of the file; what is there is replaced.
        tensors: dtype (torch's name) and shape by key, in the order they will lie.
        metadata: of the file.

    Returns:
        where each tensor lies, by key.
    """
    header = build_header(dict(sorted(metadata.items())), tensors)
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + sum(math.prod(shape) * BYTES[dtype] for dtype, shape in tensors.values()))
    return stored_tensors(path)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A new safetensors file of these tensors, of any dtype and device; what is there is replaced.

    Raises:
        OSError: it cannot be written; safetensors' own writer hides the reason.
    """
    import torch

    keys = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))  # so that every tensor is aligned
    shapes = {key: (dtype_name(tensors[key].dtype), tuple(tensors[key].shape)) for key in keys}
    with path.open("wb") as stream:
        stream.write(build_header(dict(sorted(metadata.items())), shapes))
        for key in keys:
            stream.write(tensors[key].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def load_tensors(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """A whole safetensors file: its header, and its tensors by key, read into memory and no memory map.

    Raises:
        BaseError: a tensor cannot be read.
        HeaderError: no whole safetensors file.
        OSError: it cannot be read.
    """
    header = read_header(path)
    return header, {key: _read_values(tensor, ()) for key, tensor in header.tensors.items()}


def change_header(
    path: Path,
    metadata: Mapping[str, str],
    *,
    add: Mapping[str, tuple[str, tuple[int, ...]]],
    drop: Sequence[str] = (),
) -> None:
    """Give a file other metadata, and empty tensors more or fewer; all values stay as they lie.

    Args:
        path: of the file, which is written anew beside itself and then replaced.
        metadata: what is set; the rest stays.
        add: dtype and shape of empty tensors, by key.
        drop: keys of empty tensors that go.
    """
    header = read_header(path)
    kept = sorted(header.tensors.values(), key=lambda tensor: (tensor.start, tensor.stop))
    stay = {each.key: (each.dtype, each.shape) for each in kept if each.key not in drop or each.bytes}
    new = path.with_name(f"{path.name}.header")
    with path.open("rb") as old, new.open("wb") as stream:
        stream.write(build_header({**header.metadata, **metadata}, {**add, **stay}))
        old.seek(header.data_start)
        shutil.copyfileobj(old, stream, 1 << 24)
    new.replace(path)


def write_rows(stored: StoredTensor, tensor: Tensor, spans: Spans = ()) -> None:
    """Overwrites the tensor, or some of its rows, in the file, with what `read_rows` would return."""
    import torch

    scale = _scale(stored, spans)
    if scale is not None:
        tensor = _divided(stored, tensor, scale)
    places = _byte_spans(stored, spans)
    size = sum(stop - start for start, stop in places)
    if tensor.dtype != torch_dtype(stored.dtype) or tensor.nbytes != size:
        got = f"{tensor.nbytes} of {dtype_name(tensor.dtype)}"
        raise ValueError(f"{stored.key}: expected {size} bytes of {stored.dtype}, got {got}")
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    written = 0
    with stored.path.open("r+b") as stream:
        for start, stop in places:
            stream.seek(stored.start + start)
            stream.write(data[written : written + stop - start])
            written += stop - start


def _scale(stored: StoredTensor, spans: Spans) -> Tensor | None:
    """The scale of a tensor's rows, or of some of them: float32 `[rows, c]`; None if it has none."""
    import torch

    if stored.scale is None:
        return None
    scale = scale_of_rows(_read_values(stored.scale, ()), stored.shape[0] if stored.shape else 1)
    return torch.cat([scale[start:stop] for start, stop in spans]) if spans else scale


def _divided(stored: StoredTensor, tensor: Tensor, scale: Tensor) -> Tensor:
    """A tensor's values without their scale, in the file's dtype; zero where the scale is."""
    return _cast(multiply(tensor, (1 / scale).nan_to_num(posinf=0.0, neginf=0.0)), stored.dtype)


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    """A tensor in the dtype of a file. Torch makes NaN or infinity of what is too large for fp8; here it is cut off."""
    import torch

    wanted = torch_dtype(dtype)
    if dtype.startswith("float8") and tensor.dtype != wanted:
        largest = torch.finfo(wanted).max
        tensor = tensor.to(computing_dtype(tensor.dtype)).clamp(-largest, largest)
    return tensor.to(wanted)


def _byte_spans(stored: StoredTensor, spans: Spans) -> list[tuple[int, int]]:
    per_row = math.prod(stored.shape[1:]) * BYTES[stored.dtype]
    return [(start * per_row, stop * per_row) for start, stop in spans] or [(0, stored.bytes)]
