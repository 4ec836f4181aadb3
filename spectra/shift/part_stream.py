"""A shift file of version 3 read weight by weight: deltas, outer terms and words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import Header
from spectra.shift.checks import check_finite, check_parts
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.part_arrays import DELTA, WORD, Described, Sides, weight_parts
from spectra.shift.shift_file import ContentHash, check_content
from spectra.shift.shift_header import path_in_errors
from spectra.shift.sums import Parts


class StoredArray(NamedTuple):
    """Where an array of a file lies: its key, its offset behind the header, its shape and its dtype's name."""

    key: str
    start: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class PartLayout:
    """What many files have in common.

    Attributes:
        arrays: of each weight, in the file's order.
        lengths: floats of each delta.
        sides: of the weights that have outer terms.
        ndims: how many dimensions each weight has, if that is told.
    """

    arrays: dict[str, tuple[StoredArray, ...]]
    lengths: dict[str, int]
    sides: dict[str, Sides]
    ndims: Mapping[str, int]


PartLayouts: TypeAlias = dict[object, PartLayout]
"""Layouts that many files share, each under all that it holds."""


@dataclass(frozen=True, slots=True)
class PartStream:
    """The weights of one file, read once and in the file's order; `finish` proves that they are what was written.

    Attributes:
        path: of the file.
        layout: where each weight's arrays lie.
        words: token ids and text of the weights that have words.
        data_start: byte of the file that the layout counts from.
        stated_hash: the content hash that the file states.
        content: the hash of what was read.
    """

    path: Path
    layout: PartLayout
    words: dict[str, tuple[tuple[int, ...], str]]
    data_start: int
    stated_hash: str
    content: ContentHash

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the matrix of weights, as far as outer terms and words tell them; 0: not known."""
        found = {name: (0, self._array(name, WORD).shape[1]) for name in self.words}
        return found | {name: (n0, n1 * max(taps, 1)) for name, (n0, n1, taps) in self.layout.sides.items()}

    def more_floats(self) -> dict[str, int]:
        """Numbers in the outer terms and words of each weight that has some."""
        return {
            name: sum(each.shape[0] * each.shape[1] for each in arrays if len(each.shape) == 2)
            for name, arrays in self.layout.arrays.items()
            if len(arrays) > 1 or not arrays[0].key.endswith(DELTA)
        }

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Parts]]:
        """The next weights of the file, with their names.

        Args:
            names: in `file_order`, after those that were read before. None of the file's may be passed over.

        Raises:
            ShiftFileError: the file is gone, shorter than it was, or holds what cannot be.
        """
        described = Described(ShiftMetadata("", {}), self.layout.lengths, self.layout.sides, self.words)
        with path_in_errors(self.path), self.path.open("rb", buffering=0) as stream:
            for name in names:
                found = {}
                for key, start, shape, dtype in self.layout.arrays.get(name, ()):
                    kind = np.dtype(dtype).newbyteorder("<")
                    size = int(np.prod(shape)) * kind.itemsize
                    stream.seek(self.data_start + start)
                    data = stream.read(size)
                    if len(data) != size:
                        raise ShiftFileError("it has become shorter while it was read; fetch or make it again")
                    self.content.add(key, dtype, size // kind.itemsize, data)
                    found[key] = np.frombuffer(data, kind)
                if name in self.layout.lengths:
                    parts = weight_parts(described, name, found)
                    check_finite(name, parts.delta, "the shift cannot be used; fetch or make it again")
                    if parts.outer or parts.words:
                        check_parts(name, parts, self.layout.ndims.get(name))
                    yield name, parts

    def finish(self) -> None:
        """Compares what was read with the content hash.

        Raises:
            ShiftFileError: the file is not what was written.
        """
        with path_in_errors(self.path):
            check_content(self.stated_hash, self.content.hexdigest())

    def _array(self, name: str, ending: str) -> StoredArray:
        return next(each for each in self.layout.arrays[name] if each.key == name + ending)


def open_part_stream(path: Path, header: Header, told: Described, layouts: PartLayouts) -> PartStream | None:
    """A stream of a file whose header was read; None if its arrays do not lie weight by weight, as of nested names.

    Args:
        path: of the file.
        header: its header.
        told: what that says.
        layouts: of the files that were opened before.
    """
    arrays: dict[str, list[StoredArray]] = {}
    for key, tensor in sorted(header.tensors.items()):
        stored = StoredArray(key, tensor.start - header.data_start, tuple(tensor.shape), tensor.dtype)
        arrays.setdefault(key.rpartition(".")[0], []).append(stored)
    in_order = [each.key for name in sorted(arrays, key=lambda name: name + DELTA) for each in arrays[name]]
    if in_order != sorted(in_order):
        return None
    ndims = told.metadata.ndims
    shared = (
        tuple(map(tuple, arrays.values())),
        *(tuple(each.items()) for each in (told.lengths, told.sides, ndims)),
    )
    found = {name: tuple(each) for name, each in arrays.items()}
    layout = layouts.setdefault(shared, PartLayout(found, told.lengths, told.sides, ndims))
    stated, content = told.metadata.content_hash, ContentHash(header.metadata)
    return PartStream(path, layout, told.words, header.data_start, stated, content)
