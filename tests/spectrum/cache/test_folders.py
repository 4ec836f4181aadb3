"""Folders that cannot be made, read or written, and processes side by side."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from spectra.errors import CacheError, CacheWarning
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.fingerprint import fingerprint
from spectra.spectrum.spectrum import Spectrum


def test_a_file_in_the_folders_place_is_one_clear_error(tmp_path: Path, weight: Callable[..., Tensor]) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = SpectrumCache(tmp_path / "cache")
    for use in (lambda: cache.spectrum(weight()), cache.entries, cache.verify, cache.gc):
        with pytest.raises(CacheError, match="SPECTRA_CACHE"):
            use()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path, weight: Callable[..., Tensor]) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(CacheError, match="SPECTRA_CACHE"):
        SpectrumCache(tmp_path / "file" / "cache").spectrum(weight())


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_nothing_can_be_stored_it_goes_on_and_says_so_once(
    cache: SpectrumCache,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    weights: Callable[[int], dict[str, Tensor]],
    weight: Callable[..., Tensor],
    same: Callable[[Spectrum, Spectrum], bool],
) -> None:
    known = weight(seed=1)
    cache.spectrum(known)

    def refuse(path: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    limited = SpectrumCache(cache.path)
    with pytest.warns(CacheWarning) as said:
        found = limited.spectra({**weights(3), "known": known})
    assert len(said) == 1
    assert "SPECTRA_CACHE" in str(said[0].message)
    assert same(found["layer0"], decompose(weight(seed=0)))
    assert found["layer0"].fingerprint == fingerprint(weight(seed=0))
    assert limited.usage.hits == 2  # `known` is layer1
    assert len(cache.entries()) == 1


def test_no_handles_left_is_one_clear_error(
    cache: SpectrumCache, monkeypatch: pytest.MonkeyPatch, weight: Callable[..., Tensor]
) -> None:
    """That is no entry's fault: none is set aside."""
    cache.spectrum(weight())
    real = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.suffix == ".safetensors":
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    for use in (lambda: cache.spectrum(weight()), cache.verify):
        with pytest.raises(CacheError, match="Too many open files"):
            use()
    monkeypatch.undo()
    assert cache.verify().damaged == {}


@pytest.mark.parametrize("what", ["folder", "pipe", "forbidden", "broken disk", "loop of links"])
def test_an_entry_that_is_no_readable_file_stops_nothing(
    what: str,
    cache: SpectrumCache,
    monkeypatch: pytest.MonkeyPatch,
    weight: Callable[..., Tensor],
    same: Callable[[Spectrum, Spectrum], bool],
) -> None:
    cache.spectrum(weight())
    (entry,) = cache.entries()
    numbers = {"forbidden": errno.EACCES, "broken disk": errno.EIO}
    real = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        if self == entry.path:
            raise OSError(numbers[what], os.strerror(numbers[what]))
        return real(self, *arguments, **more)

    def spoil() -> None:
        if what in numbers:
            monkeypatch.setattr(Path, "open", refuse)
            return
        entry.path.unlink()
        if what == "folder":
            entry.path.mkdir()
        elif what == "pipe":
            os.mkfifo(entry.path)
        else:
            entry.path.symlink_to(entry.path)

    spoil()
    assert [each.shape for each in cache.entries()] == [None]
    assert list(cache.verify().damaged) == [entry.fingerprint]
    assert not os.path.lexists(entry.path)
    cache.spectrum(weight())
    spoil()
    with pytest.warns(CacheWarning, match="damaged entry"):
        assert same(cache.spectrum(weight()), decompose(weight()))
    cache.gc()


def test_a_failed_write_leaves_nothing_behind(
    cache: SpectrumCache, monkeypatch: pytest.MonkeyPatch, weight: Callable[..., Tensor]
) -> None:
    def broken(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", broken)
        with pytest.warns(CacheWarning, match="No space left"):
            cache.spectrum(weight())
    assert [path for path in cache.path.rglob("*") if path.is_file()] == []
