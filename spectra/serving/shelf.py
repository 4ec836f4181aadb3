"""The shifts of a folder by name: found anew while it is served, loaded on first use, forgotten when long unused."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from spectra.adapters.loaded_shifts import unload
from spectra.adapters.loading import load
from spectra.analysis.library import LibraryEntry, scan
from spectra.errors import MismatchError, SpectraError

_LOOK_AGAIN = 2.0
"""Seconds between two looks at the folder, so that wrong names cost no more than one."""


class UnknownShiftError(MismatchError):
    """The folder has no shift of that name."""


class Shelf:
    """The shifts that are served.

    Args:
        pipe: into which they are loaded.
        folder: with shift files, in folders of any depth. A shift is called by its file's name, or where several
            files have that, by its path in the folder; both without the ending.
        most: how many stay loaded.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, pipe: Any, folder: Path, most: int) -> None:
        self.pipe, self.folder, self.most = pipe, folder, most
        self._loaded: OrderedDict[str, LibraryEntry] = OrderedDict()
        self._looking = threading.Lock()
        self._entries: dict[str, LibraryEntry] = {}
        self._looked = -_LOOK_AGAIN
        self.look()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The names of what is loaded, the least recently used first."""
        return tuple(self._loaded)

    def look(self) -> dict[str, LibraryEntry]:
        """What the folder holds, by name, as of at most two seconds ago."""
        with self._looking:
            if time.monotonic() - self._looked >= _LOOK_AGAIN:
                self._entries = _by_name(self.folder, scan([self.folder]).entries)
                self._looked = time.monotonic()
            return self._entries

    def take(self, names: Collection[str]) -> dict[str, SpectraError]:
        """Load these shifts, all of which stay until the next call; others are forgotten where there are too many.

        Returns:
            Why, of those that could not be loaded.
        """
        failed: dict[str, SpectraError] = {}
        for name in dict.fromkeys(names):
            try:
                self._take(name)
            except SpectraError as error:
                failed[name] = error
        for name in [each for each in self._loaded if each not in names][: max(0, len(self._loaded) - self.most)]:
            self._forget(name)
        return failed

    def _take(self, name: str) -> None:
        entries = self.look()
        if name not in entries:
            raise UnknownShiftError(f"no shift named {name!r} is served")
        known, now = self._loaded.get(name), entries[name]
        if known is not None and (known.path, known.changed, known.bytes) != (now.path, now.changed, now.bytes):
            self._forget(name)
        if name not in self._loaded:
            load(self.pipe, now.path, name=name, activate=False)
            self._loaded[name] = now
        self._loaded.move_to_end(name)

    def _forget(self, name: str) -> None:
        del self._loaded[name]
        unload(self.pipe, name)


def _by_name(folder: Path, entries: Collection[LibraryEntry]) -> dict[str, LibraryEntry]:
    stems = Counter(entry.path.stem for entry in entries)
    found = {}
    for entry in entries:
        whole = entry.path.relative_to(folder).with_suffix("").as_posix()
        found[entry.path.stem if stems[entry.path.stem] == 1 else whole] = entry
    return found
