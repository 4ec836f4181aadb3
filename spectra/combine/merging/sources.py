"""The deltas of the shifts of a merge, which are in memory, or in files that are read piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from spectra.combine.merging.one_weight import OneWeight
from spectra.combine.merging.recipe import Parent
from spectra.errors import MismatchError
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.part_stream import PartLayouts, PartStream
from spectra.shift.provenance import Ancestry
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_stream import DeltaStream, Layouts, file_order, open_stream
from spectra.shift.sums import Parts
from spectra.shift.word_vectors import WordVectors

ShiftOrPath: TypeAlias = SpectralShift | str | os.PathLike[str]

Source: TypeAlias = DeltaStream | PartStream | SpectralShift

_BUDGET = 48_000_000
"""Bytes of deltas, outer terms and words held at once, of all shifts together; one weight's at the least."""


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
        self._sources: list[Source] = []
        self._more: dict[str, int] = {}  # floats of outer terms and words, of all shifts together
        seen: set[int] = set()
        layouts: Layouts = {}
        part_layouts: PartLayouts = {}
        for shift in shifts:
            file = "" if isinstance(shift, SpectralShift) else os.fspath(shift)
            metadata, source = (
                (shift.metadata, shift)
                if isinstance(shift, SpectralShift)
                else open_stream(Path(shift), layouts, part_layouts)
            )
            lengths = _lengths(source, seen)
            shapes = {} if isinstance(source, DeltaStream) else source.shapes
            try:
                self.ancestry.add(metadata, lengths, shapes)
            except MismatchError as error:
                raise MismatchError(f"{file}: {error}" if file else str(error)) from error
            self._sources.append(source)
            for name, floats in _more_floats(source):
                self._more[name] = self._more.get(name, 0) + floats
            content = metadata.content_hash
            self.parents.append(Parent(content, file=file, recipe=None if content else metadata.recipe))
        self.lengths = {name: self.ancestry.lengths[name] for name in file_order(self.ancestry.lengths)}

    def __len__(self) -> int:
        return len(self._sources)

    def weights(self) -> Iterator[OneWeight]:
        """Every weight once, as all shifts have it.

        Raises:
            ShiftFileError: at the end, a file that is not what was written; in between, values that are not finite.
        """
        for names in self._runs():
            deltas = {name: np.zeros((len(self), self.lengths[name]), np.float32) for name in names}
            having = {name: np.zeros(len(self), bool) for name in names}
            outer: dict[str, list[OuterTerms | None]] = {}
            words: dict[str, list[WordVectors | None]] = {}
            for row, source in enumerate(self._sources):
                for name, parts in _read(source, names):
                    deltas[name][row] = parts.delta
                    having[name][row] = True
                    if parts.outer:
                        outer.setdefault(name, [None] * len(self))[row] = parts.outer
                    if parts.words:
                        words.setdefault(name, [None] * len(self))[row] = parts.words
            for name in names:
                yield OneWeight(name, deltas.pop(name), having[name], outer.pop(name, ()), words.pop(name, ()))
        for source in self._sources:
            if not isinstance(source, SpectralShift):
                source.finish()

    def _runs(self) -> Iterator[list[str]]:
        """The names, in runs that fit into the budget."""
        run: list[str] = []
        size = 0
        for name, length in self.lengths.items():
            more = 4 * (length * len(self) + self._more.get(name, 0))
            if run and size + more > _BUDGET:
                yield run
                run, size = [], 0
            run.append(name)
            size += more
        yield run


def _lengths(source: Source, seen: set[int]) -> dict[str, int]:
    """Floats of each delta; nothing for a file of a layout that was seen before: thousands share one."""
    if isinstance(source, SpectralShift):
        return {name: delta.size for name, delta in source.items()}
    if id(source.layout) in seen:
        return {}
    seen.add(id(source.layout))
    return source.lengths if isinstance(source, DeltaStream) else source.layout.lengths


def _more_floats(source: Source) -> Iterable[tuple[str, int]]:
    """Floats of the outer terms and words of each weight; those of shifts at hand take no more memory."""
    return source.more_floats().items() if isinstance(source, PartStream) else ()


def _read(source: Source, names: Sequence[str]) -> Iterator[tuple[str, Parts]]:
    """What a shift has of these weights."""
    if isinstance(source, PartStream):
        yield from source.read(names)
    elif isinstance(source, DeltaStream):
        yield from ((name, Parts(delta)) for name, delta in source.read(names))
    else:
        yield from (
            (name, Parts(source[name], source.outer.get(name), source.words.get(name)))
            for name in names
            if name in source
        )
