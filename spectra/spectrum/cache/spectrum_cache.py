"""The spectrum cache: every spectrum is computed once per user, and then read.

Entries are addressed by the fingerprint of their weight, so all models and processes share them, whatever the models
are called:

    <root>/v1/<first two digits>/<fingerprint>.safetensors           a whole spectrum (entry.py)
    <root>/leading-v1/<first two digits>/<fingerprint>.safetensors   leading directions (leading_entry.py)
    <root>/damaged/                                                  what failed its checksum, until `gc`

An entry appears whole or not at all (written beside its place, then renamed), so two processes may fill the cache at
once: the worst that happens is that both compute the same. Using an entry touches its modification time, and the
least recently used go first when the limit is passed. A spectrum in use is in memory, where it was verified: what
happens to its entry afterwards does not reach it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from spectra.progress import SILENT, Progress
from spectra.spectrum.cache import entry as cache_entry
from spectra.spectrum.cache import leading_entry
from spectra.spectrum.cache.checked_entries import CheckedEntries
from spectra.spectrum.cache.entry import FULL
from spectra.spectrum.cache.environment import default_limit, default_root
from spectra.spectrum.cache.leading_entry import LEADING, LeadingVectors
from spectra.spectrum.cache.statistics import Usage
from spectra.spectrum.cache.store import CacheEntry, RemovedEntries, Store, VerifiedEntries
from spectra.spectrum.cache.workers import for_each
from spectra.spectrum.fingerprint import fingerprint

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from spectra.spectrum.partial import PartialSpectrum
    from spectra.spectrum.spectrum import Spectrum

T = TypeVar("T")
Visitor: TypeAlias = "Callable[[str, Tensor, Spectrum | None], T]"
Device: TypeAlias = "torch.device | str | None"


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
        self._lock = threading.Lock()
        self._accelerator = threading.Lock()
        self._entries = CheckedEntries(self._store, self.max_bytes, self.usage, self._lock)

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
        known = self._entries.read(self._store.place(digits), cache_entry.read_spectrum)
        spectrum = known or self._compute(weight, name, device, digits)
        with self._lock:
            self.usage.count(weight, spectrum, hit=known is not None)
        return spectrum

    def leading(
        self, weights: Mapping[str, Tensor], directions: int, progress: Progress = SILENT, *, device: Device = None
    ) -> dict[str, PartialSpectrum]:
        """The first directions of all weights with two or more dimensions, by name, on the CPU.

        What is known serves: an entry of as many directions, or a whole spectrum. One of fewer is gone on from. 1-D
        weights are passed over.

        Args:
            weights: by name.
            directions: K; all of a weight that has fewer.
            progress: shows it.
            device: where to compute; by default where each weight is.

        Raises:
            InputError: `directions` is negative.
            As `spectrum`.
        """
        found = self._visit_leading(weights, directions, lambda spectrum: spectrum, progress, device)
        return {name: spectrum for name, spectrum in found.items() if spectrum is not None}

    def spectra(
        self, weights: Mapping[str, Tensor], progress: Progress = SILENT, *, device: Device = None
    ) -> dict[str, Spectrum]:
        """The spectra of all weights with two or more dimensions, by name, on the CPU; 1-D weights are passed over.

        Arguments and errors as `visit`.
        """
        found = self.visit(weights, lambda name, weight, spectrum: spectrum, "spectra", progress, device=device)
        return {name: spectrum for name, spectrum in found.items() if spectrum is not None}

    def fill(
        self,
        weights: Mapping[str, Tensor],
        progress: Progress = SILENT,
        *,
        device: Device = None,
        directions: int | None = None,
    ) -> Usage:
        """Like `spectra`, or `leading` with `directions`, but keeps nothing in memory.

        Returns what was done, these weights alone.
        """
        self._store.begin()
        before = replace(self.usage)
        if directions is None:
            self.visit(weights, lambda name, weight, spectrum: None, "spectra", progress, device=device)
        else:
            self._visit_leading(weights, directions, lambda spectrum: None, progress, device)
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

        def one(name: str) -> T:
            weight = weights[name]
            spectrum = self.spectrum(weight, name=name, device=device) if weight.ndim > 1 else None
            return use(name, weight, spectrum)

        return for_each(weights, one, label, progress)

    def sigma(self, digits: str) -> np.ndarray | None:
        """Singular values (float64, descending) of a weight known by its fingerprint, or None. Needs no torch.

        Args:
            digits: all 64 of the fingerprint, or the first 8 or more that a shift file holds; None where they are
                those of several entries.
        """
        return self._entries.find(digits, FULL, cache_entry.read_sigma)

    def find(self, digits: str) -> Spectrum | None:
        """The spectrum of a weight known by its fingerprint, or None; arguments as `sigma`."""
        return self._entries.find(digits, FULL, cache_entry.read_spectrum)

    def find_leading(self, digits: str, directions: int) -> PartialSpectrum | None:
        """The first `directions` of a weight known by its fingerprint, or None; arguments as `leading_vectors`."""
        found = self._entries.find(digits, LEADING, leading_entry.read_partial)
        return found.first(directions) if found and found.directions >= min(directions, found.rank) else None

    def leading_vectors(self, digits: str, directions: int) -> LeadingVectors | None:
        """The first `directions` of a weight known by its fingerprint, as `(left, sigma, right)`; needs no torch.

        Args:
            digits: as for `sigma`.
            directions: K; all of a weight that has fewer.

        Returns:
            float32 `[rows, K]`, float64 `[K]`, float32 `[columns, K]`; None where no entry of leading directions has as
            many. (A whole spectrum has one side's vectors only; `leading` finds the others with the weight.)
        """
        return self._entries.find(digits, LEADING, partial(leading_entry.read_vectors, directions=directions))

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

    def _visit_leading(
        self,
        weights: Mapping[str, Tensor],
        directions: int,
        use: Callable[[PartialSpectrum], T],
        progress: Progress,
        device: Device,
    ) -> dict[str, T | None]:
        """Results of `use` by name, None for 1-D weights; as `leading` otherwise."""

        def one(name: str) -> T | None:
            weight = weights[name]
            return use(self._leading(weight, directions, name, device)) if weight.ndim > 1 else None

        return for_each(weights, one, "leading directions", progress)

    def _leading(self, weight: Tensor, directions: int, name: str, device: Device) -> PartialSpectrum:
        """The leading directions of one weight, on the CPU: those that are known, else computed and stored."""
        from spectra.spectrum import leading as algorithm

        digits = fingerprint(weight, name=name)
        known = self._entries.read(self._store.place(digits, LEADING), leading_entry.read_partial)
        if known is not None and known.directions >= min(directions, known.rank):
            found, hit = known.first(directions), True
        else:
            whole = self._entries.read(self._store.place(digits), cache_entry.read_spectrum)
            hit = whole is not None
            with self._working_on(weight, device) as moved:
                if whole is not None:
                    made = algorithm.cut(whole.to(moved.device), moved, directions)
                else:
                    made = algorithm.decompose_leading(moved, directions, start=known, name=name)
            made = made.to("cpu")
            # Laid out as a file is read: products then round alike the first time and later.
            left, right = (side.T.contiguous().T for side in (made.left, made.right))
            found = replace(made, left=left, right=right, fingerprint=digits)
            if found.directions:
                self._entries.keep(digits, LEADING, leading_entry.encode_leading(found, digits))
        with self._lock:
            self.usage.count(weight, found, hit=hit)
            self.usage.full += not hit and found.from_full
        return found

    def _compute(self, weight: Tensor, name: str, device: Device, digits: str) -> Spectrum:
        """The spectrum of a weight, stored where that is possible."""
        from spectra.spectrum.decomposition import decompose

        with self._working_on(weight, device) as moved:
            spectrum = decompose(moved, name=name).to("cpu")
        spectrum = replace(spectrum, fingerprint=digits)
        if spectrum.rank:
            self._entries.keep(digits, FULL, cache_entry.encode(spectrum, digits))
        return spectrum

    @contextlib.contextmanager
    def _working_on(self, weight: Tensor, device: Device) -> Iterator[Tensor]:
        """The weight on the device where it is worked on: one at a time on an accelerator, whose memory is dear, and
        which is busy with one anyway.
        """
        import torch

        place = torch.device(device or weight.device)
        with self._accelerator if place.type != "cpu" else contextlib.nullcontext():
            yield weight.detach().to(place)


def default_cache() -> SpectrumCache:
    """The cache of this user: `SPECTRA_CACHE` and `SPECTRA_CACHE_LIMIT`, else the platform's cache folder.

    Raises:
        InputError: `SPECTRA_CACHE_LIMIT` is no size.
    """
    return SpectrumCache()
