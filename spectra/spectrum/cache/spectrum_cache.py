"""The spectrum cache: every spectrum is computed once per user, and then mapped into memory.

Entries are addressed by the fingerprint of their weight, so all models and processes share them, whatever the models
are called:

    <root>/v1/<first two digits>/<fingerprint>.safetensors      an entry (entry.py)
    <root>/damaged/                                              entries that failed their checksum, until `gc`

An entry appears whole or not at all (written beside its place, then renamed), so two processes may fill the cache at
once: the worst that happens is that both compute the same. Using an entry touches its modification time, and the
least recently used go first when the limit is passed; a process that holds an evicted entry keeps its memory map.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from spectra.errors import CacheWarning
from spectra.progress import SILENT, Progress, working
from spectra.spectrum.cache import entry as cache_entry
from spectra.spectrum.cache.entry import DamagedEntryError
from spectra.spectrum.cache.environment import default_limit, default_root
from spectra.spectrum.cache.statistics import Usage
from spectra.spectrum.cache.store import CacheEntry, RemovedEntries, Store, VerifiedEntries, unreadable
from spectra.spectrum.fingerprint import fingerprint

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch
    from torch import Tensor

    from spectra.spectrum.spectrum import Spectrum

T = TypeVar("T")
Visitor: TypeAlias = "Callable[[str, Tensor, Spectrum | None], T]"
Device: TypeAlias = "torch.device | str | None"

MAX_WORKERS = 4
"""Each holds one weight in float64 several times over. Torch's threads are divided among them."""


class SpectrumCache:
    """Spectra by the weight they belong to.

    Args:
        root: folder of the cache; by default that of `SPECTRA_CACHE`, else the user's cache folder of the platform.
        max_bytes: limit of its size; by default that of `SPECTRA_CACHE_LIMIT`, else `DEFAULT_LIMIT`.

    Nothing is touched before the first use. Every method may raise CacheError: the folder cannot be made or read. A
    folder that can be read but not written still serves its entries; what is missing is computed each time, and one
    `CacheWarning` says so.
    """

    def __init__(self, root: Path | None = None, max_bytes: int | None = None) -> None:
        self._store = Store(default_root() if root is None else Path(root))
        self.max_bytes = default_limit() if max_bytes is None else max_bytes
        self.usage = Usage()
        self._warned_unwritable = False
        self._lock = threading.Lock()
        self._accelerator = threading.Lock()

    @property
    def path(self) -> Path:
        """The cache's folder, which need not exist yet."""
        return self._store.root

    def spectrum(self, weight: Tensor, *, name: str = "weight", device: Device = None) -> Spectrum:
        """The spectrum of one weight, on the CPU: loaded if it is known, else computed and stored.

        Args:
            weight: of any shape of two or more dimensions.
            name: of the weight, for errors.
            device: where to compute it; by default where the weight is.

        Raises:
            WeightError: the weight has no spectrum (see `decompose`).
            CacheError: the folder cannot be made or read.
        """
        digits = fingerprint(weight, name=name)
        known = self._read(self._store.place(digits), cache_entry.read_spectrum)
        spectrum = known or self._compute(weight, name, device, digits)
        with self._lock:
            self.usage.count(weight, spectrum, hit=known is not None)
        return spectrum

    def spectra(
        self, weights: Mapping[str, Tensor], progress: Progress = SILENT, *, device: Device = None
    ) -> dict[str, Spectrum]:
        """The spectra of all weights with two or more dimensions, by name, on the CPU; 1-D weights are passed over.

        Arguments and errors as `visit`.
        """
        found = self.visit(weights, lambda name, weight, spectrum: spectrum, "spectra", progress, device=device)
        return {name: spectrum for name, spectrum in found.items() if spectrum is not None}

    def fill(self, weights: Mapping[str, Tensor], progress: Progress = SILENT, *, device: Device = None) -> Usage:
        """Like `spectra`, but keeps nothing in memory. Returns what was done, these weights alone."""
        before = replace(self.usage)
        self.visit(weights, lambda name, weight, spectrum: None, "spectra", progress, device=device)
        return self.usage.since(before)

    def visit(
        self,
        weights: Mapping[str, Tensor],
        use: Visitor[T],
        label: str,
        progress: Progress = SILENT,
        *,
        device: Device = None,
    ) -> dict[str, T]:
        """Results of `use(name, weight, spectrum)` for each weight, by name; nothing else stays in memory.

        Several weights are in work at once, in threads. A mapping that reads each tensor when it is asked for makes
        this a walk over a model at bounded memory.

        Args:
            weights: by name.
            use: given each weight with its spectrum, on the CPU; None for a 1-D weight.
            label: of the progress bar, which advances once per weight.
            progress: shows it.
            device: where to compute spectra; by default where each weight is.

        Raises:
            As `spectrum`, and whatever `use` raises, once the weights in work are done.
        """
        from concurrent.futures import as_completed

        def one(name: str) -> tuple[str, T]:
            weight = weights[name]
            spectrum = self.spectrum(weight, name=name, device=device) if weight.ndim > 1 else None
            return name, use(name, weight, spectrum)

        found: dict[str, T] = {}
        workers = max(1, min(MAX_WORKERS, len(weights), _processors()))
        with working(progress, label, len(weights)), side_by_side(workers) as pool:
            pending = [pool.submit(one, name) for name in weights]
            try:
                for done in as_completed(pending):
                    name, value = done.result()
                    found[name] = value
                    progress.advance(1, name)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {name: found[name] for name in weights}

    def sigma(self, digits: str) -> np.ndarray | None:
        """Singular values (float64, descending) of a weight known by its fingerprint, or None. Needs no torch.

        Args:
            digits: all 64 of the fingerprint, or the first 8 or more that a shift file holds; None where they are
                those of several entries.
        """
        return self._find(digits, cache_entry.read_sigma)

    def find(self, digits: str) -> Spectrum | None:
        """The spectrum of a weight known by its fingerprint, or None; arguments as `sigma`."""
        return self._find(digits, cache_entry.read_spectrum)

    def entries(self) -> list[CacheEntry]:
        """All entries, the most recently used first."""
        return self._store.entries()

    def verify(self, progress: Progress = SILENT) -> VerifiedEntries:
        """Reads every entry against its checksums and sets aside those that fail, to be computed again when needed."""
        return self._store.verify(progress)

    def gc(self, max_bytes: int | None = None) -> RemovedEntries:
        """Removes what was set aside or left half-written, then the least recently used entries beyond `max_bytes`.

        Args:
            max_bytes: by default this cache's limit; 0 empties it.
        """
        return self._store.collect(self.max_bytes if max_bytes is None else max_bytes)

    def _find(self, digits: str, read: Callable[[Path], T]) -> T | None:
        matches = self._store.matching(digits)
        return self._read(matches[0], read) if len(matches) == 1 else None

    def _read(self, path: Path, read: Callable[[Path], T]) -> T | None:
        """An entry's file, read; None if there is none, or it was damaged and has been set aside."""
        try:
            found = read(path)
        except FileNotFoundError:
            return None
        except DamagedEntryError as damage:
            with self._lock:
                self.usage.damaged += 1
            moved_to = self._store.set_aside(path)
            self._warn(
                f"damaged entry of the spectrum cache ({damage}), it will be built again; "
                + (f"set aside as {moved_to}" if moved_to else f"{path} could not be set aside")
            )
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        self._store.touch(path)
        return found

    def _compute(self, weight: Tensor, name: str, device: Device, digits: str) -> Spectrum:
        """The spectrum of a weight, stored where that is possible; over its file's memory map, so that its own memory
        can go.
        """
        import torch

        from spectra.spectrum.decomposition import decompose

        place = torch.device(device or weight.device)
        # An accelerator does one at a time: its memory is dear, and it is busy with one anyway.
        with self._accelerator if place.type != "cpu" else contextlib.nullcontext():
            spectrum = decompose(weight.detach().to(place), name=name).to("cpu")
        spectrum = replace(spectrum, fingerprint=digits)
        if not spectrum.rank:
            return spectrum
        try:
            content = cache_entry.encode(spectrum, digits)
            path = self._store.write(digits, content)
        except OSError as error:
            with self._lock:
                warned, self._warned_unwritable = self._warned_unwritable, True
            if not warned:
                self._warn(
                    f"spectrum cache {self.path} cannot be written ({error.strerror or error}): spectra are computed "
                    "but not kept; set SPECTRA_CACHE to a folder with room that you may write"
                )
            return spectrum
        with contextlib.suppress(OSError, DamagedEntryError):  # evicted, or replaced, in the meantime
            spectrum = cache_entry.read_spectrum(path, verify=False)
        with self._lock:
            self._store.shrink(self.max_bytes, len(content))
        return spectrum

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, CacheWarning, stacklevel=3)


def default_cache() -> SpectrumCache:
    """The cache of this user: `SPECTRA_CACHE` and `SPECTRA_CACHE_LIMIT`, else the platform's cache folder.

    Raises:
        InputError: `SPECTRA_CACHE_LIMIT` is no size.
    """
    return SpectrumCache()


def _processors() -> int:
    """Processors that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def side_by_side(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that decomposes several weights at once, torch's threads divided among them.

    An eigenproblem gains less from a second thread than a second eigenproblem does.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
