"""The deltas of the shifts of a merge, which are in memory, or in files that are read piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.combine.merging.recipe import Parent
from spectra.errors import MismatchError
from spectra.shift.provenance import Ancestry
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_stream import DeltaStream, Layouts, file_order, open_stream

ShiftOrPath: TypeAlias = SpectralShift | str | os.PathLike[str]

_BUDGET = 48_000_000
"""Bytes of deltas held at once, of all shifts together; one weight's at the least."""


class OpenedShifts:
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
        self._sources: list[DeltaStream | SpectralShift] = []
        seen: set[int] = set()
        layouts: Layouts = {}
        for shift in shifts:
            file = "" if isinstance(shift, SpectralShift) else os.fspath(shift)
            metadata, source = (
                (shift.metadata, shift) if isinstance(shift, SpectralShift) else open_stream(Path(shift), layouts)
            )
            if isinstance(source, SpectralShift):
                lengths = {name: delta.size for name, delta in source.items()}
            else:  # thousands share one layout
                lengths = {} if id(source.layout) in seen else source.lengths
                seen.add(id(source.layout))
            try:
                self.ancestry.add(metadata, lengths)
            except MismatchError as error:
                raise MismatchError(f"{file}: {error}" if file else str(error)) from error
            self._sources.append(source)
            content = metadata.content_hash
            self.parents.append(Parent(content, file=file, recipe=None if content else metadata.recipe))
        self.lengths = {name: self.ancestry.lengths[name] for name in file_order(self.ancestry.lengths)}

    def __len__(self) -> int:
        return len(self._sources)

    def deltas(self) -> Iterator[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        """Every weight once: its name, the deltas `[k, n]` with zeros where a shift lacks it, and which have it `[k]`.

        Raises:
            ShiftFileError: at the end, a file that is not what was written; in between, values that are not finite.
        """
        for names in self._runs():
            rows = {name: np.zeros((len(self), self.lengths[name]), np.float32) for name in names}
            having = {name: np.zeros(len(self), bool) for name in names}
            for row, source in enumerate(self._sources):
                if isinstance(source, DeltaStream):
                    held = source.read(names)
                else:
                    held = ((name, source[name]) for name in names if name in source)
                for name, delta in held:
                    rows[name][row] = delta
                    having[name][row] = True
            for name in names:
                yield name, rows.pop(name), having[name]
        for source in self._sources:
            if isinstance(source, DeltaStream):
                source.finish()

    def _runs(self) -> Iterator[list[str]]:
        """The names, in runs whose deltas fit into the budget."""
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
