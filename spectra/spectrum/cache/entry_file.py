"""One entry of the spectrum cache as a file: safetensors that know their own checksums.

    tensors    those of the entry's kind
    metadata   format, version, fingerprint, shape (JSON), the kind's own facts, and per tensor `checksum.<name>`

Any safetensors reader opens it. Each tensor has a checksum of its own, over its bytes and everything that says how to
read them, so that a reader of one tensor verifies what it reads and never touches the others.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from spectra.io.dtypes import BYTES
from spectra.io.safetensors_header import StoredTensor, build_header, parse_header, read_header_text
from spectra.visible_text import one_line

if TYPE_CHECKING:
    import torch

_LONGEST_HEADER = 1 << 16
_NOT_THE_FILES_FAULT = (errno.ENOENT, errno.ENOTDIR, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class DamagedEntryError(Exception):
    """The file is not what was stored. Internal: the cache sets it aside, says so, and builds it again."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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
    """The whole file of an entry, the same bytes each time; of the header, what is known before there are tensors."""
    metadata = _metadata(kind, header)
    for name, array in arrays.items():
        payload = array.reshape(-1).view(np.uint8)
        metadata[f"checksum.{name}"] = kind.checksum(header, name, array.shape, payload)
    keys = sorted(arrays, key=lambda key: (-arrays[key].itemsize, key))  # so that every array is aligned
    shapes = {key: (arrays[key].dtype.name, arrays[key].shape) for key in keys}
    return build_header(dict(sorted(metadata.items())), shapes) + b"".join(arrays[key].tobytes() for key in keys)


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

    They are read into memory and verified there: whatever happens to the file afterwards does not reach them, as it
    would a memory map, which a truncated file turns into a bus error.

    Raises:
        DamagedEntryError: it is not an entry of this kind and version, is cut short or unreadable, or is not what was
            stored.
        OSError: it is not there, or the process has no memory or file handles left.
    """
    arrays = {}
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            raise DamagedEntryError("it is no file")
        with path.open("rb") as stream:
            header = _header(kind, path, stream, os.fstat(stream.fileno()).st_size)
            for name in names:
                tensor = header.tensors[name]
                arrays[name] = np.empty(tensor.shape, f"<f{BYTES[tensor.dtype]}")
                stream.seek(tensor.start)
                payload = arrays[name].reshape(-1).view(np.uint8).data
                if stream.readinto(payload) != tensor.bytes:
                    raise DamagedEntryError("the file is cut short")
                _verify(kind, header, name, payload)
    except OSError as error:
        if error.errno in _NOT_THE_FILES_FAULT:
            raise
        raise DamagedEntryError(f"it cannot be read: {error.strerror or error}") from error
    return header, arrays


def read_tensors(kind: EntryKind, path: Path) -> tuple[EntryHeader, dict[str, torch.Tensor]]:
    """The header of an entry and all of its tensors, verified; raises as `read_arrays`."""
    import torch

    header, arrays = read_arrays(kind, path, *kind.dtypes)
    return header, {name: torch.from_numpy(array) for name, array in arrays.items()}


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
