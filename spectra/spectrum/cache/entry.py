"""One entry of the spectrum cache: a safetensors file that knows its own checksums.

    tensors    sigma F64 [r], basis F32 [r, r], tail F32 [k, max(rows, columns)]
    metadata   format, version, fingerprint, side, shape (JSON), and per tensor `checksum.<name>`

Any safetensors reader opens it. Each tensor has a checksum of its own, over its bytes and everything that says how to
read them, so that `read_sigma` verifies the few kilobytes it reads and never touches the basis.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from spectra.io.dtypes import BYTES, torch_dtype
from spectra.io.safetensors_header import StoredTensor, parse_header, read_header_text

if TYPE_CHECKING:
    import torch

    from spectra.spectrum.spectrum import Side, Spectrum

FORMAT = "spectra-spectrum"
VERSION = "1"
"""Raised whenever `decompose` or this layout changes what is stored; entries of other versions are not read."""

_DTYPES = {"sigma": "float64", "basis": "float32", "tail": "float32"}
_LONGEST_HEADER = 1 << 16


class DamagedEntryError(Exception):
    """The file is not what was stored. Internal: the cache sets it aside, says so, and builds it again."""


@dataclass(frozen=True)
class EntryHeader:
    """The header of an entry, of which nothing is verified yet but the structure.

    Attributes:
        fingerprint: of the weight.
        side: which singular vectors are stored.
        shape: of the weight.
        tensors: shape and place of sigma, basis and tail.
        checksums: SHA-256 of each, from `_checksum`.
    """

    fingerprint: str
    side: Side
    shape: tuple[int, ...]
    tensors: Mapping[str, StoredTensor]
    checksums: Mapping[str, str]

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.tensors["sigma"].shape[0]

    @property
    def tail(self) -> int:
        """Number of directions with an explicit other side."""
        return self.tensors["tail"].shape[0]

    def verify(self, name: str, payload: Any) -> None:
        """Raises `DamagedEntryError` unless the bytes of tensor `name` are those that were stored."""
        found = _checksum(self.fingerprint, self.side, self.shape, name, self.tensors[name].shape, payload)
        if found != self.checksums[name]:
            raise DamagedEntryError(f"checksum of {name} does not match")


def encode(spectrum: Spectrum, fingerprint: str) -> bytes:
    """The whole file of a spectrum on any device."""
    from safetensors.numpy import save

    arrays = {name: getattr(spectrum, name).cpu().contiguous().numpy() for name in _DTYPES}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint,
        "side": spectrum.side,
        "shape": json.dumps(spectrum.shape),
    }
    for name, array in arrays.items():
        payload = array.reshape(-1).view(np.uint8)
        metadata[f"checksum.{name}"] = _checksum(fingerprint, spectrum.side, spectrum.shape, name, array.shape, payload)
    return save(arrays, metadata)


def read_entry_header(path: Path) -> EntryHeader:
    """The header of an entry.

    Raises:
        DamagedEntryError: it is not an entry of this version, or is cut short.
        OSError: it cannot be read.
    """
    return _read(path)[0]


def read_sigma(path: Path) -> np.ndarray:
    """Verified singular values, float64 `[r]`, without torch and the basis; raises as `read_entry_header`."""
    return np.frombuffer(_read(path, "sigma")[1]["sigma"], dtype="<f8")


def verify(path: Path) -> None:
    """Reads an entry whole, without torch, and compares every checksum; raises as `read_entry_header`."""
    _read(path, *_DTYPES)


def read_spectrum(path: Path, *, verify: bool = True) -> Spectrum:
    """The spectrum as tensors over a private memory map of the file: nothing is copied, and no write reaches the file.

    The map outlives the file's name, so another process may evict or replace the entry at any time.

    Args:
        path: of the entry.
        verify: compare every checksum, which reads every page once.

    Raises:
        DamagedEntryError: it is not what was stored.
        OSError: it cannot be read, or is not there.
    """
    import torch

    from spectra.spectrum.spectrum import Spectrum

    size = path.stat().st_size
    if size < 8:
        raise DamagedEntryError("the file is empty or cut short")
    try:
        storage: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    except RuntimeError as error:
        path.stat()  # evicted since: FileNotFoundError says so
        raise DamagedEntryError(f"cannot be mapped: {error}") from error
    everything = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,)).numpy()
    header = _header(path, io.BytesIO(everything[: 8 + _LONGEST_HEADER].tobytes()), size)

    def mapped(name: str) -> torch.Tensor:
        tensor, dtype = header.tensors[name], torch_dtype(_DTYPES[name])
        if verify:
            header.verify(name, everything[tensor.start : tensor.stop])
        strides = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
        return torch.empty(0, dtype=dtype).set_(storage, tensor.start // dtype.itemsize, tensor.shape, strides)

    return Spectrum(
        side=header.side,
        basis=mapped("basis"),
        sigma=mapped("sigma"),
        tail=mapped("tail"),
        shape=header.shape,
        fingerprint=header.fingerprint,
    )


def _read(path: Path, *names: str) -> tuple[EntryHeader, dict[str, bytes]]:
    """The header of an entry, and the verified bytes of some of its tensors by name."""
    payloads = {}
    with path.open("rb") as stream:
        header = _header(path, stream, os.fstat(stream.fileno()).st_size)
        for name in names:
            stream.seek(header.tensors[name].start)
            payloads[name] = stream.read(header.tensors[name].bytes)
            header.verify(name, payloads[name])
    return header, payloads


def _checksum(
    fingerprint: str, side: str, shape: tuple[int, ...], name: str, tensor_shape: tuple[int, ...], payload: Any
) -> str:
    """SHA-256 of one tensor's bytes, and of everything the header says about how to read them."""
    how_to_read = [FORMAT, VERSION, fingerprint, side, list(shape), name, list(tensor_shape)]
    digest = hashlib.sha256(json.dumps(how_to_read, separators=(",", ":")).encode() + b"\n")
    digest.update(payload)
    return digest.hexdigest()


def _header(path: Path, stream: BinaryIO, size: int) -> EntryHeader:
    """Reads the header at the start of a stream and checks it against itself and the file's name and size."""
    try:
        found = parse_header(path, read_header_text(stream, size, _LONGEST_HEADER), size)
        metadata = found.metadata
        if metadata["format"] != FORMAT or metadata["version"] != VERSION:
            raise DamagedEntryError(f"it is {metadata['format']} version {metadata['version']}, not {FORMAT} {VERSION}")
        header = EntryHeader(
            fingerprint=metadata["fingerprint"],
            side=cast("Side", metadata["side"]),
            shape=tuple(int(n) for n in json.loads(metadata["shape"])),
            tensors={name: found.tensors[name] for name in _DTYPES},
            checksums={name: metadata[f"checksum.{name}"] for name in _DTYPES},
        )
        rows, columns = header.shape[0], math.prod(header.shape[1:])
        rank, (tail, _) = min(rows, columns), header.tensors["tail"].shape
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise DamagedEntryError(f"the header cannot be read ({type(error).__name__}: {error})") from error
    shapes = {"sigma": (rank,), "basis": (rank, rank), "tail": (tail, max(rows, columns))}
    if header.side not in ("left", "right") or not 0 <= tail <= rank:
        raise DamagedEntryError("side, shapes and dtypes do not belong together")
    for name, tensor in header.tensors.items():
        if (tensor.shape, tensor.dtype) != (shapes[name], _DTYPES[name]) or tensor.start % BYTES[tensor.dtype]:
            raise DamagedEntryError("side, shapes and dtypes do not belong together")
    if header.fingerprint != path.stem:
        raise DamagedEntryError("it belongs to another weight")
    return header
