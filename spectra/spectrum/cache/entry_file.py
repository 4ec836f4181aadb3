"""One entry of the spectrum cache as a file: safetensors that know their own checksums.

    tensors    those of the entry's kind
    metadata   format, version, fingerprint, shape (JSON), the kind's own facts, and per tensor `checksum.<name>`

Any safetensors reader opens it. Each tensor has a checksum of its own, over its bytes and everything that says how to
read them, so that a reader of one tensor verifies what it reads and never touches the others.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from spectra.io.dtypes import BYTES, torch_dtype
from spectra.io.safetensors_header import StoredTensor, build_header, parse_header, read_header_text

if TYPE_CHECKING:
    import torch

_LONGEST_HEADER = 1 << 16


class DamagedEntryError(Exception):
    """The file is not what was stored. Internal: the cache sets it aside, says so, and builds it again."""


@dataclass(frozen=True, eq=False)
class EntryKind:
    """What the entries of a kind hold.

    Attributes:
        format: as the file says it.
        version: raised whenever what is stored changes; entries of other versions are not read.
        folder: of the cache in which they lie.
        dtypes: of the tensors by name, the one that says how many directions there are being `sigma`.
        facts: further strings of the metadata, which the checksums cover.
        shapes: the tensors' shapes that belong to a header; may raise ValueError where its facts make no sense.
    """

    format: str
    version: str
    folder: str
    dtypes: Mapping[str, str]
    facts: tuple[str, ...]
    shapes: Callable[[EntryHeader], Mapping[str, tuple[int, ...]]]

    def checksum(self, header: EntryHeader, name: str, tensor_shape: tuple[int, ...], payload: Any) -> str:
        """SHA-256 of one tensor's bytes, and of everything the header says about how to read them."""
        facts = [header.facts[fact] for fact in self.facts]
        how_to_read = [self.format, self.version, header.fingerprint, *facts, list(header.shape), name]
        digest = hashlib.sha256()
        digest.update(json.dumps([*how_to_read, list(tensor_shape)], separators=(",", ":")).encode() + b"\n")
        digest.update(payload)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class EntryHeader:
    """The header of an entry, of which nothing is verified yet but the structure.

    Attributes:
        fingerprint: of the weight.
        shape: of the weight.
        facts: the kind's strings.
        tensors: shape and place of each.
        checksums: SHA-256 of each.
    """

    fingerprint: str
    shape: tuple[int, ...]
    facts: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    checksums: Mapping[str, str]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the weight as a matrix."""
        return self.shape[0], math.prod(self.shape[1:])


def encode_entry(kind: EntryKind, header: EntryHeader, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The whole file of an entry; of the header, what is known before there are tensors."""
    from safetensors.numpy import save

    metadata = _metadata(kind, header)
    for name, array in arrays.items():
        payload = array.reshape(-1).view(np.uint8)
        metadata[f"checksum.{name}"] = kind.checksum(header, name, array.shape, payload)
    return save(dict(arrays), metadata)


def entry_bytes(kind: EntryKind, header: EntryHeader, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Size of the file of an entry whose tensors have these shapes."""
    metadata = _metadata(kind, header) | {f"checksum.{name}": "0" * 64 for name in shapes}
    tensors = {name: (kind.dtypes[name], shape) for name, shape in shapes.items()}
    values = sum(math.prod(shape) * BYTES[kind.dtypes[name]] for name, shape in shapes.items())
    return len(build_header(metadata, tensors)) + values


def _metadata(kind: EntryKind, header: EntryHeader) -> dict[str, str]:
    """The strings of an entry, its checksums apart."""
    shape = json.dumps(header.shape)
    own = {"format": kind.format, "version": kind.version, "fingerprint": header.fingerprint, "shape": shape}
    return own | dict(header.facts)


def read_arrays(kind: EntryKind, path: Path, *names: str) -> tuple[EntryHeader, dict[str, np.ndarray]]:
    """The header of an entry, and some of its tensors, verified, by name; without torch.

    Raises:
        DamagedEntryError: it is not an entry of this kind and version, is cut short, or is not what was stored.
        OSError: it cannot be read.
    """
    arrays = {}
    with path.open("rb") as stream:
        header = _header(kind, path, stream, os.fstat(stream.fileno()).st_size)
        for name in names:
            tensor = header.tensors[name]
            stream.seek(tensor.start)
            payload = stream.read(tensor.bytes)
            _verify(kind, header, name, payload)
            arrays[name] = np.frombuffer(payload, dtype=f"<f{BYTES[tensor.dtype]}").reshape(tensor.shape)
    return header, arrays


def map_tensors(kind: EntryKind, path: Path, *, verify: bool = True) -> tuple[EntryHeader, dict[str, torch.Tensor]]:
    """The header and tensors of an entry over a private memory map of the file: nothing is copied, and no write reaches
    the file.

    The map outlives the file's name, so another process may evict or replace the entry at any time.

    Args:
        kind: of the entry.
        path: of the entry.
        verify: compare every checksum, which reads every page once.

    Raises:
        DamagedEntryError: it is not what was stored.
        OSError: it cannot be read, or is not there.
    """
    import torch

    size = path.stat().st_size
    if size < 8:
        raise DamagedEntryError("the file is empty or cut short")
    try:
        storage: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    except RuntimeError as error:
        path.stat()  # evicted since: FileNotFoundError says so
        raise DamagedEntryError(f"cannot be mapped: {error}") from error
    everything = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,)).numpy()
    header = _header(kind, path, io.BytesIO(everything[: 8 + _LONGEST_HEADER].tobytes()), size)

    def mapped(name: str) -> torch.Tensor:
        tensor, dtype = header.tensors[name], torch_dtype(kind.dtypes[name])
        if verify:
            _verify(kind, header, name, everything[tensor.start : tensor.stop])
        strides = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
        return torch.empty(0, dtype=dtype).set_(storage, tensor.start // dtype.itemsize, tensor.shape, strides)

    return header, {name: mapped(name) for name in kind.dtypes}


def _verify(kind: EntryKind, header: EntryHeader, name: str, payload: Any) -> None:
    if kind.checksum(header, name, header.tensors[name].shape, payload) != header.checksums[name]:
        raise DamagedEntryError(f"checksum of {name} does not match")


def _header(kind: EntryKind, path: Path, stream: BinaryIO, size: int) -> EntryHeader:
    """Reads the header at the start of a stream and checks it against itself and the file's name and size."""
    try:
        found = parse_header(path, read_header_text(stream, size, _LONGEST_HEADER), size)
        metadata = found.metadata
        if metadata["format"] != kind.format or metadata["version"] != kind.version:
            read = f"{metadata['format']} version {metadata['version']}"
            raise DamagedEntryError(f"it is {read}, not {kind.format} {kind.version}")
        header = EntryHeader(
            fingerprint=metadata["fingerprint"],
            shape=tuple(int(n) for n in json.loads(metadata["shape"])),
            facts={fact: metadata[fact] for fact in kind.facts},
            tensors={name: found.tensors[name] for name in kind.dtypes},
            checksums={name: metadata[f"checksum.{name}"] for name in kind.dtypes},
        )
        shapes = kind.shapes(header)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise DamagedEntryError(f"the header cannot be read ({type(error).__name__}: {error})") from error
    for name, tensor in header.tensors.items():
        if (tensor.shape, tensor.dtype) != (shapes[name], kind.dtypes[name]) or tensor.start % BYTES[tensor.dtype]:
            raise DamagedEntryError("facts, shapes and dtypes do not belong together")
    if header.fingerprint != path.stem:
        raise DamagedEntryError("it belongs to another weight")
    return header
