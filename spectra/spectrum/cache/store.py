"""The files of the spectrum cache: where entries lie, how they appear, age, are set aside and go.

Knows files only: `entry` and `leading_entry` know what they mean, and `spectrum_cache` when one is to be computed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import CacheError
from spectra.io.workplaces import remove_leftovers, temporary_beside
from spectra.progress import SILENT, Progress, working
from spectra.spectrum.cache.entry import FULL
from spectra.spectrum.cache.entry_file import DamagedEntryError, EntryKind, read_arrays
from spectra.spectrum.cache.leading_entry import LEADING

_KINDS = (FULL, LEADING)
_DAMAGED_FOLDER = "damaged"
_SUFFIX = ".safetensors"
_FULL_NAME = 64
_SHORTEST_PREFIX = 8
_SHARD = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_DAMAGED = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{8}\.safetensors")
"""What the cache's own folders and files are called: nothing else in its folder is listed, evicted or removed."""

_ROOM_LEFT = 0.9
"""Evicting goes down to this fraction of the limit, so that not every new entry looks through the whole folder."""


@dataclass(frozen=True)
class CacheEntry:
    """One entry as `spectra cache ls` shows it.

    Attributes:
        fingerprint: of its weight.
        path: its file.
        size: bytes.
        used: seconds since the epoch when it was last used.
        shape, rank: of the weight; None where the header cannot be read.
        side, tail: of a whole spectrum.
        directions: that are known; of a whole spectrum all.
    """

    fingerprint: str
    path: Path
    size: int
    used: float
    shape: tuple[int, ...] | None = None
    side: str | None = None
    rank: int | None = None
    tail: int | None = None
    directions: int | None = None


@dataclass(frozen=True)
class VerifiedEntries:
    """Result of `verify`: entries read, bytes of the sound ones, and the damaged ones, now set aside, with reasons."""

    checked: int
    size: int
    damaged: dict[str, str]


@dataclass(frozen=True)
class RemovedEntries:
    """Result of `gc`: files and bytes removed, entries and bytes left."""

    removed: int
    freed: int
    kept: int
    size: int


class Store:
    """The cache's folder. Nothing is created before the first `write`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._size: int | None = None
        self._begun = False

    def place(self, fingerprint: str, kind: EntryKind = FULL) -> Path:
        """The file of an entry, whether it exists or not."""
        return self.root / kind.folder / fingerprint[:2] / f"{fingerprint}{_SUFFIX}"

    def matching(self, fingerprint: str, kind: EntryKind = FULL) -> list[Path]:
        """Files of the entries whose fingerprint begins like this; none if fewer than 8 digits are given."""
        if re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},{_FULL_NAME}}}", fingerprint) is None:
            return []
        place = self.place(fingerprint, kind)
        if len(fingerprint) == _FULL_NAME:
            return [place] if place.exists() else []
        try:  # a shift asks for hundreds of weights, and `glob` takes three times as long
            with os.scandir(place.parent) as found:
                names = [entry.name for entry in found]
        except OSError:
            return []
        return sorted(place.parent / name for name in names if name.startswith(fingerprint) and name.endswith(_SUFFIX))

    def write(self, fingerprint: str, content: bytes, kind: EntryKind = FULL) -> Path:
        """Puts an entry in its place, whole, replacing one that is there.

        Raises:
            CacheError: there is no folder and none can be made.
            OSError: the folder cannot be written, or the disk is full.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"cannot make the spectrum cache {self.root}: {error.strerror or error}; set SPECTRA_CACHE to a folder "
                "that you may write"
            ) from error
        self.begin()
        place = self.place(fingerprint, kind)
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(place) as temporary:
            temporary.write_bytes(content)
            temporary.replace(place)
        return place

    def begin(self) -> None:
        """Removes what killed processes left half-written, the first time that it is called."""
        if not self._begun:
            self._begun = True
            self._remove_half_written()

    def touch(self, path: Path) -> None:
        """Marks an entry as just used, where the folder can be written."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def set_aside(self, path: Path) -> Path | None:
        """Moves a damaged entry out of the way and returns where to; None where that is not possible."""
        target = self.root / _DAMAGED_FOLDER / f"{path.stem}.{secrets.token_hex(4)}{_SUFFIX}"
        try:
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        except OSError:
            return None
        return target

    def entries(self) -> list[CacheEntry]:
        """All entries, the most recently used first."""
        found = []
        for path, status, kind in self._files():
            described: dict[str, Any] = {}
            with contextlib.suppress(DamagedEntryError, OSError):
                header, _ = read_arrays(kind, path)
                shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
                described = {"shape": header.shape, "rank": min(header.matrix_shape), "directions": shapes["sigma"][0]}
                if kind is FULL:
                    described |= {"side": header.facts["side"], "tail": shapes["tail"][0]}
            found.append(CacheEntry(path.stem, path, status.st_size, status.st_mtime, **described))
        return sorted(found, key=lambda entry: (-entry.used, entry.fingerprint))

    def verify(self, progress: Progress = SILENT) -> VerifiedEntries:
        """Reads every entry against its checksums and sets aside those that fail."""
        files = list(self._files())
        size, damaged = 0, {}
        with working(progress, "verify", len(files)):
            for path, status, kind in files:
                try:
                    read_arrays(kind, path, *kind.dtypes)
                except FileNotFoundError:
                    continue
                except DamagedEntryError as damage:
                    self.set_aside(path)
                    damaged[path.stem if kind is FULL else f"{path.stem} (leading)"] = str(damage)
                except OSError as error:
                    raise unreadable(path, error) from error
                finally:
                    progress.advance(1, path.stem[:12])
                size += status.st_size
        return VerifiedEntries(len(files), size, damaged)

    def collect(self, max_bytes: int) -> RemovedEntries:
        """Removes set-aside and half-written files, then the least recently used entries beyond `max_bytes`."""
        removed = freed = 0
        for path in (self.root / _DAMAGED_FOLDER).glob("*"):
            if _DAMAGED.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    size = path.lstat().st_size
                    path.unlink()
                    removed, freed = removed + 1, freed + size
        files, size = self._remove_half_written()
        removed, freed = removed + files, freed + size
        evicted, evicted_bytes = self._evict(max_bytes)
        left = [status.st_size for _, status, _ in self._files()]
        self._size = sum(left)
        return RemovedEntries(removed + evicted, freed + evicted_bytes, len(left), self._size)

    def shrink(self, max_bytes: int, added: int) -> None:
        """Evicts if what this object knows to be stored is beyond `max_bytes`; one thread at a time.

        Args:
            max_bytes: limit of all entries together.
            added: bytes that were written since. Counted here and not in `write`, which threads do side by side: an
                entry may be counted twice until the folder is looked through again, and is never forgotten.
        """
        self._size = self._total() if self._size is None else self._size + added
        if self._size > max_bytes:
            self._evict(int(max_bytes * _ROOM_LEFT))
            self._size = self._total()

    def _remove_half_written(self) -> tuple[int, int]:
        """Returns how many files, and their bytes."""
        shards = [shard for kind in _KINDS for shard in (self.root / kind.folder).glob("??")]
        removed = [remove_leftovers(shard) for shard in shards]
        return sum(files for files, _ in removed), sum(size for _, size in removed)

    def _total(self) -> int:
        return sum(status.st_size for _, status, _ in self._files())

    def _evict(self, max_bytes: int) -> tuple[int, int]:
        """Removes the least recently used entries beyond `max_bytes`; returns how many, and their bytes."""
        files = sorted(self._files(), key=lambda found: (found[1].st_mtime_ns, found[0].name))
        total = sum(status.st_size for _, status, _ in files)
        removed = freed = 0
        for path, status, _ in files:
            if total - freed <= max_bytes:
                break
            # Where an open file cannot be removed (Windows), the entry stays for another time.
            with contextlib.suppress(OSError):
                path.unlink()
                removed, freed = removed + 1, freed + status.st_size
        return removed, freed

    def _files(self) -> Iterator[tuple[Path, os.stat_result, EntryKind]]:
        """The entries' files; those that vanish while we look are passed over."""
        if self.root.exists() and not self.root.is_dir():
            raise CacheError(f"the spectrum cache {self.root} is not a folder; set SPECTRA_CACHE to a folder")
        for kind in _KINDS:
            try:
                shards = sorted(os.scandir(self.root / kind.folder), key=lambda shard: shard.name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable(self.root, error) from error
            for shard in (Path(shard.path) for shard in shards if _SHARD.fullmatch(shard.name)):
                for path in sorted(path for path in shard.glob("*") if _ENTRY.fullmatch(path.name)):
                    with contextlib.suppress(FileNotFoundError):
                        yield path, path.lstat(), kind


def unreadable(path: Path, error: OSError) -> CacheError:
    """The error for a part of the cache that cannot be read."""
    return CacheError(
        f"cannot read the spectrum cache at {path}: {error.strerror or error}; correct its permissions, or set "
        "SPECTRA_CACHE to another folder"
    )
