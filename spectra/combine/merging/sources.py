"""Where a merge takes its deltas from: shifts at hand, or files that are read piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.combine.merging.recipe import Parent
from spectra.errors import MismatchError
from spectra.shift.provenance import Ancestry
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_stream import Layouts, file_order, open_stream

ShiftOrPath: TypeAlias = SpectralShift | str | os.PathLike[str]

_BUDGET = 48_000_000
"""Bytes of deltas held at once, of all shifts together; one weight's at the least."""


class Source(Protocol):
    """The deltas of one shift, read once and in the file's order."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """Floats of each delta, by weight name."""

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.floating]]]:
        """Those of `names` that it has."""

    def finish(self) -> None:
        """Raises `ShiftFileError` if what was read was not what was written."""


class _Held:
    """A shift that is at hand."""

    def __init__(self, shift: SpectralShift) -> None:
        self._shift = shift
        self.lengths = {name: delta.size for name, delta in shift.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.floating]]]:
        return ((name, self._shift[name]) for name in names if name in self._shift)

    def finish(self) -> None:
        pass


class Opened:
    """The shifts of a merge, of one base, ready to be gone through weight by weight.

    Attributes:
        ancestry: what they have in common.
        lengths: floats of each delta, of all weights that some shift has, in the order in which they are read.
        parents: what each is, for the recipe.
    """

    def __init__(self, shifts: Sequence[ShiftOrPath]) -> None:
        """Opens them; the files' values are not read yet.

        Raises:
            ShiftFileError: a file that is not a shift, or is damaged.
            MismatchError: shifts of different bases, naming the first that does not fit those before it.
        """
        self.ancestry = Ancestry()
        self.parents: list[Parent] = []
        self._sources: list[Source] = []
        seen: set[int] = set()
        layouts: Layouts = {}
        for shift in shifts:
            file = "" if isinstance(shift, SpectralShift) else os.fspath(shift)
            metadata, opened = (
                (shift.metadata, shift) if isinstance(shift, SpectralShift) else open_stream(Path(shift), layouts)
            )
            source: Source = _Held(opened) if isinstance(opened, SpectralShift) else opened
            layout = id(opened if isinstance(opened, SpectralShift) else opened.layout)
            try:
                self.ancestry.add(metadata, {} if layout in seen else source.lengths)  # thousands share one layout
                seen.add(layout)
            except MismatchError as error:
                raise MismatchError(f"{file}: {error}" if file else str(error)) from error
            self._sources.append(source)
            own = metadata.content_hash
            self.parents.append(Parent(own, file=file, recipe=None if own else metadata.recipe))
        self.lengths = {name: self.ancestry.lengths[name] for name in file_order(self.ancestry.lengths)}

    def __len__(self) -> int:
        return len(self._sources)

    def deltas(self) -> Iterator[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        """Every weight once: its name, the deltas `[k, n]` with zeros where a shift lacks it, and which have it `[k]`.

        Raises:
            ShiftFileError: at the end, a file that is not what was written; in between, values that are not finite.
        """
        for names in self._pieces():
            piece = {name: np.zeros((len(self), self.lengths[name]), np.float32) for name in names}
            having = {name: np.zeros(len(self), bool) for name in names}
            for row, source in enumerate(self._sources):
                for name, delta in source.read(names):
                    piece[name][row] = delta
                    having[name][row] = True
            for name in names:
                yield name, piece.pop(name), having[name]
        for source in self._sources:
            source.finish()

    def _pieces(self) -> Iterator[list[str]]:
        """The names, in runs that fit into the budget."""
        run: list[str] = []
        size = 0
        for name, length in self.lengths.items():
            more = 4 * length * len(self)
            if run and size + more > _BUDGET:
                yield run
                run, size = [], 0
            run.append(name)
            size += more
        yield run
