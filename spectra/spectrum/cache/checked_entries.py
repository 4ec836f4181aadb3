"""Entries of the spectrum cache, read and kept: damage is said and set aside, and a folder that cannot be written is
said once.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from spectra.errors import CacheWarning
from spectra.spectrum.cache.entry_file import DamagedEntryError, EntryKind
from spectra.spectrum.cache.statistics import Usage
from spectra.spectrum.cache.store import Store, unreadable

T = TypeVar("T")


class CheckedEntries:
    """The entries of a store.

    Args:
        store: the files.
        max_bytes: limit of their size.
        usage: counts the damaged ones.
        lock: that of whoever shares `usage`.
    """

    def __init__(self, store: Store, max_bytes: int, usage: Usage, lock: threading.Lock) -> None:
        self.store = store
        self.max_bytes = max_bytes
        self._usage = usage
        self._lock = lock
        self._warned_unwritable = False

    def find(self, digits: str, kind: EntryKind, read: Callable[[Path], T]) -> T | None:
        """The entry of the one weight whose fingerprint begins with these digits, read; None if there is none."""
        matches = self.store.matching(digits, kind)
        return self.read(matches[0], read) if len(matches) == 1 else None

    def read(self, path: Path, read: Callable[[Path], T]) -> T | None:
        """An entry's file, read; None if there is none, or it was damaged and has been set aside.

        Raises:
            CacheError: the process has no memory or file handles left to read it.
        """
        try:
            found = read(path)
        except FileNotFoundError:
            return None
        except DamagedEntryError as damage:
            with self._lock:
                self._usage.damaged += 1
            moved_to = self.store.set_aside(path)
            _warn(
                f"damaged entry of the spectrum cache ({damage}), it will be built again; "
                + (f"set aside as {moved_to}" if moved_to else f"{path} could not be set aside")
            )
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        self.store.touch(path)
        return found

    def keep(self, digits: str, kind: EntryKind, content: bytes) -> None:
        """Stores an entry where that is possible, and says once where it is not.

        Raises:
            CacheError: there is no folder and none can be made.
        """
        try:
            self.store.write(digits, content, kind)
        except OSError as error:
            with self._lock:
                warned, self._warned_unwritable = self._warned_unwritable, True
            if not warned:
                _warn(
                    f"spectrum cache {self.store.root} cannot be written ({error.strerror or error}): spectra are "
                    "computed but not kept; set SPECTRA_CACHE to a folder with room that you may write"
                )
            return
        with self._lock:
            self.store.shrink(self.max_bytes, len(content))


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=4)
