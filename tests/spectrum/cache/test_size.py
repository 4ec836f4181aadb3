"""The cache's limit: the least recently used go first, and what is in use stays usable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from spectra.errors import InputError
from spectra.io.locks import locked
from spectra.spectrum.cache.environment import parse_size
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.cache.store import Store
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.fingerprint import fingerprint
from spectra.spectrum.spectrum import Spectrum


def test_the_least_recently_used_go_first(cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]]) -> None:
    given = weights(4)
    for age, w in enumerate(given.values()):
        cache.spectrum(w)
        os.utime(cache._store.place(fingerprint(w)), (1000 + age, 1000 + age))
    cache.spectrum(given["layer0"])  # used again: now the youngest
    sizes = {entry.fingerprint: entry.size for entry in cache.entries()}
    done = cache.gc(sizes[fingerprint(given["layer0"])] + sizes[fingerprint(given["layer3"])])
    assert {entry.fingerprint for entry in cache.entries()} == {
        fingerprint(given["layer0"]),
        fingerprint(given["layer3"]),
    }
    assert (done.removed, done.kept) == (2, 2)
    assert done.size == sum(entry.size for entry in cache.entries())
    assert cache.gc(0).kept == 0


def test_filling_keeps_within_the_limit(
    tmp_path: Path, weights: Callable[[int], dict[str, Tensor]], weight: Callable[..., Tensor]
) -> None:
    one = SpectrumCache(tmp_path / "a")
    one.spectrum(weight())
    limit = int(one.entries()[0].size * 3.5)
    cache = SpectrumCache(tmp_path / "b", max_bytes=limit)
    found = cache.spectra(weights(9))
    assert len(found) == 9
    assert 1 <= len(cache.entries()) <= 3
    assert sum(entry.size for entry in cache.entries()) <= limit


def test_an_evicted_entry_stays_usable_where_it_is_in_use(
    cache: SpectrumCache, weight: Callable[..., Tensor], same: Callable[[Spectrum, Spectrum], bool]
) -> None:
    w = weight()
    cache.spectrum(w)
    loaded = SpectrumCache(cache.path).spectrum(w)
    cache.gc(0)
    assert cache.entries() == []
    assert same(loaded, decompose(w))


def test_gc_removes_what_was_set_aside_and_left_behind(
    cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]]
) -> None:
    cache.spectra(weights(2))
    entry = cache.entries()[0]
    entry.path.write_bytes(b"nothing")
    cache.verify()
    dead, live = (entry.path.with_name(f".spectra-{digits}") for digits in ("0" * 8, "1" * 8))
    for place in (dead, live):
        (place / "new").mkdir(parents=True)
        (place / "new" / entry.path.name).write_bytes(b"half")
    mine = cache.path / "damaged" / "thesis.safetensors"
    mine.touch()
    with locked(live / "lock"):
        done = cache.gc()
        assert (done.removed, done.kept) == (2, 1)
        assert not dead.exists()
        assert live.exists()
    assert cache.gc().removed == 1
    mine.unlink()  # what the cache did not name stays
    assert list((cache.path / "damaged").iterdir()) == []


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("SPECTRA_CACHE_LIMIT", "1.5GiB")
    cache = default_cache()
    assert (cache.path, cache.max_bytes) == (tmp_path / "mine", 1536 * 2**20)
    monkeypatch.delenv("SPECTRA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "platform"))
    assert "spectra" in default_cache().path.parts
    monkeypatch.setenv("SPECTRA_CACHE_LIMIT", "much")
    with pytest.raises(InputError, match="SPECTRA_CACHE_LIMIT"):
        default_cache()


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("500 mib", 500 * 2**20), ("0", 0), (" 7 ", 7), ("2k", 2000), ("1B", 1)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "1 PB", "1.2.3", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="20GB"):
        parse_size(text)


def test_what_is_written_while_the_folder_is_looked_through_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.write("a" * 64, bytes(10))
    look = store._files

    def look_and_write() -> Iterator[Any]:
        found = list(look())
        monkeypatch.setattr(store, "_files", look)
        store.write("b" * 64, bytes(20))  # another thread's, which has not been seen
        return iter(found)

    monkeypatch.setattr(store, "_files", look_and_write)
    store.shrink(25, 10)
    store.shrink(25, 20)
    assert sum(path.stat().st_size for path, *_ in look()) <= 25
