"""A shift file read piece by piece, so that thousands can be gone through at once in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.shift import part_arrays
from spectra.shift.metadata import PARTS_VERSION, VERSION, ShiftMetadata, from_strings, is_packed, version_of
from spectra.shift.part_stream import PartLayouts, PartStream, open_part_stream
from spectra.shift.shift import Precision, SpectralShift
from spectra.shift.shift_file import ContentHash, check_content, read_shift
from spectra.shift.shift_header import SUFFIX, common_precision, open_shift_file, path_in_errors

FileLayout: TypeAlias = dict[str, tuple[int, int]]
"""Offset of the data behind the header, and number of floats, by weight name in the file's order."""

Layouts: TypeAlias = dict[tuple[tuple[str, tuple[int, int]], ...], FileLayout]
"""Layouts that many files share, each under its items."""


@dataclass(frozen=True, slots=True)
class DeltaStream:
    """The deltas of one file, read once and in the file's order; `finish` proves that they are what was written.

    What it keeps of a file of 391 weights is about 1 kB, if it shares its layout with the others'.

    Attributes:
        path: of the file.
        layout: where each delta lies.
        data_start: byte of the file that the layout counts from.
        precision: of the file's values.
        stated_hash: the content hash that the file states.
        content: the hash of what was read.
    """

    path: Path
    layout: FileLayout
    data_start: int
    precision: Precision
    stated_hash: str
    content: ContentHash

    @property
    def lengths(self) -> dict[str, int]:
        """Floats of each delta, by weight name."""
        return {name: floats for name, (_, floats) in self.layout.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.floating]]]:
        """The next deltas of the file, with their names.

        Args:
            names: in `file_order`, after those that were read before. None of the file's may be passed over.

        Raises:
            ShiftFileError: the file is gone or shorter than it was.
        """
        dtype = np.dtype(self.precision).newbyteorder("<")
        with path_in_errors(self.path), self.path.open("rb", buffering=0) as stream:
            for name in names:
                if name in self.layout:
                    start, floats = self.layout[name]
                    size = floats * dtype.itemsize
                    stream.seek(self.data_start + start)
                    data = stream.read(size)
                    if len(data) != size:
                        raise ShiftFileError("it has become shorter while it was read; fetch or make it again")
                    self.content.add(name + SUFFIX, self.precision, floats, data)
                    yield name, np.frombuffer(data, dtype)

    def finish(self) -> None:
        """Compares what was read with the content hash.

        Raises:
            ShiftFileError: the file is not what was written.
        """
        with path_in_errors(self.path):
            check_content(self.stated_hash, self.content.hexdigest())


def file_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which a file keeps their deltas, and hashes them: that of its keys."""
    return sorted(names, key=lambda name: name + SUFFIX)


def open_stream(
    path: Path, layouts: Layouts, part_layouts: PartLayouts | None = None
) -> tuple[ShiftMetadata, DeltaStream | PartStream | SpectralShift]:
    """The metadata of a file and what it holds: a stream, or all of a packed file, which is decoded whole.

    Args:
        path: of the file.
        layouts: of the files of deltas alone that were opened before; empty at first.
        part_layouts: the same of files of version 3.

    Raises:
        ShiftFileError: no such file, not a shift, cut short, or of a later format version.
    """
    with open_shift_file(path) as (_, header):
        if version_of(header.metadata) == VERSION:
            found: FileLayout = {
                sys.intern(key.removesuffix(SUFFIX)): (tensor.start - header.data_start, tensor.shape[0])
                for key, tensor in sorted(header.tensors.items())
            }
            metadata = from_strings(header.metadata, found)
            layout = layouts.setdefault(tuple(found.items()), found)
            precision, content = common_precision(header.tensors.values()), ContentHash(header.metadata)
            return metadata, DeltaStream(path, layout, header.data_start, precision, metadata.content_hash, content)
        if version_of(header.metadata) == PARTS_VERSION and not is_packed(header.metadata):
            told = part_arrays.describe(header.metadata, header.tensors)
            stream = open_part_stream(path, header, told, {} if part_layouts is None else part_layouts)
            if stream is not None:
                return told.metadata, stream
    shift = read_shift(path)
    return shift.metadata, shift
