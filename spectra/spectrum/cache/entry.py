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

from spectra.io.dtypes import BYTES
from spectra.io.safetensors_header import parse_header, read_header_text

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
    """What an entry says about itself; nothing is verified yet but its structure.

    Attributes:
        fingerprint: of the weight.
        side: which singular vectors are stored.
        shape: of the weight.
        sizes: tensor name to its shape.
        spans: tensor name to its first byte in the file and the one after its last.
        checksums: tensor name to the SHA-256 that `checksum` gives for it.
    """

    fingerprint: str
    side: Side
    shape: tuple[int, ...]
    sizes: Mapping[str, tuple[int, ...]]
    spans: Mapping[str, tuple[int, int]]
    checksums: Mapping[str, str]

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.sizes["sigma"][0]

    @property
    def tail(self) -> int:
        """Number of directions with an explicit other side."""
        return self.sizes["tail"][0]

    def checksum(self, name: str, payload: Any) -> str:
        """SHA-256 of one tensor's bytes, and of everything the header says about how to read them."""
        said = [FORMAT, VERSION, self.fingerprint, self.side, list(self.shape), name, list(self.sizes[name])]
        digest = hashlib.sha256(json.dumps(said, separators=(",", ":")).encode() + b"\n")
        digest.update(payload)
        return digest.hexdigest()

    def verify(self, name: str, payload: Any) -> None:
        """Raises `DamagedEntryError` unless the bytes of tensor `name` are those that were stored."""
        if self.checksum(name, payload) != self.checksums[name]:
            raise DamagedEntryError(f"checksum of {name} does not match")


def encode(spectrum: Spectrum, fingerprint: str) -> bytes:
    """The whole file of a spectrum on any device."""
    from safetensors.numpy import save

    arrays = {
        "sigma": spectrum.sigma.cpu().contiguous().numpy(),
        "basis": spectrum.basis.cpu().contiguous().numpy(),
        "tail": spectrum.tail.cpu().contiguous().numpy(),
    }
    sizes = {name: array.shape for name, array in arrays.items()}
    header = EntryHeader(fingerprint, spectrum.side, spectrum.shape, sizes, {}, {})
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint,
        "side": spectrum.side,
        "shape": json.dumps(spectrum.shape),
    }
    for name, array in arrays.items():
        metadata[f"checksum.{name}"] = header.checksum(name, array.reshape(-1).view(np.uint8))
    return save(arrays, metadata)


def read_entry_header(path: Path) -> EntryHeader:
    """The header of an entry.

    Raises:
        DamagedEntryError: it is not an entry of this version, or is cut short.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return _open_header(path, stream)


def read_sigma(path: Path) -> np.ndarray:
    """Verified singular values, float64 `[r]`, without reading the basis and without torch.

    Raises:
        As `read_entry_header`.
    """
    with path.open("rb") as stream:
        header = _open_header(path, stream)
        start, stop = header.spans["sigma"]
        stream.seek(start)
        payload = stream.read(stop - start)
    header.verify("sigma", payload)
    return np.frombuffer(payload, dtype="<f8")


def verify(path: Path) -> None:
    """Reads an entry whole, without torch, and compares every checksum.

    Raises:
        As `read_entry_header`.
    """
    with path.open("rb") as stream:
        header = _open_header(path, stream)
        for name, (start, stop) in header.spans.items():
            stream.seek(start)
            header.verify(name, stream.read(stop - start))


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
    if verify:
        for name, (start, stop) in header.spans.items():
            header.verify(name, everything[start:stop])

    def tensor(name: str, dtype: torch.dtype) -> torch.Tensor:
        shape = header.sizes[name]
        offset = header.spans[name][0] // dtype.itemsize
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return torch.empty(0, dtype=dtype).set_(storage, offset, shape, strides)

    return Spectrum(
        side=header.side,
        basis=tensor("basis", torch.float32),
        sigma=tensor("sigma", torch.float64),
        tail=tensor("tail", torch.float32),
        shape=header.shape,
        fingerprint=header.fingerprint,
    )


def _open_header(path: Path, stream: BinaryIO) -> EntryHeader:
    return _header(path, stream, os.fstat(stream.fileno()).st_size)


def _header(path: Path, stream: BinaryIO, size: int) -> EntryHeader:
    """Reads the header at the start of a stream and checks it against itself and the file's name and size."""
    try:
        found = parse_header(path, read_header_text(stream, size, _LONGEST_HEADER), size)
        metadata, tensors = found.metadata, found.tensors
        if metadata["format"] != FORMAT or metadata["version"] != VERSION:
            raise DamagedEntryError(f"it is {metadata['format']} version {metadata['version']}, not {FORMAT} {VERSION}")
        shape = tuple(int(n) for n in json.loads(metadata["shape"]))
        header = EntryHeader(
            fingerprint=metadata["fingerprint"],
            side=cast("Side", metadata["side"]),
            shape=shape,
            sizes={name: tensors[name].shape for name in _DTYPES},
            spans={name: (tensors[name].start, tensors[name].stop) for name in _DTYPES},
            checksums={name: metadata[f"checksum.{name}"] for name in _DTYPES},
        )
        _check_shapes(header, {name: tensors[name].dtype for name in _DTYPES})
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedEntryError(f"the header cannot be read ({type(error).__name__}: {error})") from error
    if header.fingerprint != path.stem:
        raise DamagedEntryError("it belongs to another weight")
    return header


def _check_shapes(header: EntryHeader, dtypes: Mapping[str, str]) -> None:
    rows, columns = header.shape[0], math.prod(header.shape[1:])
    rank, long = min(rows, columns), max(rows, columns)
    tail = header.sizes["tail"][0] if header.sizes["tail"] else -1
    expected = {"sigma": (rank,), "basis": (rank, rank), "tail": (tail, long)}
    if header.side not in ("left", "right") or header.sizes != expected or not 0 <= tail <= rank or dtypes != _DTYPES:
        raise DamagedEntryError("side, shapes and dtypes do not belong together")
    for name, (start, _) in header.spans.items():
        if start % BYTES[_DTYPES[name]]:
            raise DamagedEntryError(f"{name} is not aligned in the file")
