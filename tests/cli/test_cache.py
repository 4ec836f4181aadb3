"""`spectra cache`: ls, verify, gc and path."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.cli.tables import readable
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpectrumCache:
    """A cache of three entries, the user's."""
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    cache = default_cache()
    for rows in (4, 6, 9):
        cache.spectrum(torch.randn(rows, 7, generator=torch.Generator().manual_seed(0)))
    for entry in cache.entries():
        os.utime(entry.path, (1000, 1000 + (entry.rank or 0)))
    return cache


def test_ls(cache: SpectrumCache, spectra_cli: Callable[..., Any]) -> None:
    found = json.loads(spectra_cli("cache", "ls", "--json").out)
    assert [entry["shape"] for entry in found["entries"]] == [[9, 7], [6, 7], [4, 7]]
    assert [entry["side"] for entry in found["entries"]] == ["right", "left", "left"]
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"])
    assert (found["path"], found["limit"]) == (str(cache.path), cache.max_bytes)
    ran = spectra_cli("cache", "ls")
    assert "9x7" in ran.out
    assert "3 entries" in ran.out


def test_ls_of_a_damaged_header(cache: SpectrumCache, spectra_cli: Callable[..., Any]) -> None:
    cache.entries()[0].path.write_bytes(b"nothing")
    assert "unreadable" in spectra_cli("cache", "ls").out
    assert None in [entry["shape"] for entry in json.loads(spectra_cli("cache", "ls", "--json").out)["entries"]]


def test_ls_shows_the_latest_and_says_how_many_more(
    cache: SpectrumCache, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectra.cli.cache._SHOWN", 1)
    assert "and 2 more (--all)" in spectra_cli("cache", "ls").out
    assert "4x7" in spectra_cli("cache", "ls", "--all").out


def test_verify(cache: SpectrumCache, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("cache", "verify", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["checked"] == 3
    victim = cache.entries()[1]
    victim.path.write_bytes(victim.path.read_bytes()[:-1])
    ran = spectra_cli("cache", "verify", "--json")
    assert ran.code == 1
    assert list(json.loads(ran.out)["damaged"]) == [victim.fingerprint]
    assert "set aside" in ran.err
    assert spectra_cli("cache", "verify").code == 0


def test_gc(cache: SpectrumCache, spectra_cli: Callable[..., Any]) -> None:
    youngest = cache.entries()[0]
    found = json.loads(spectra_cli("cache", "gc", "--max-size", youngest.size, "--json").out)
    assert (found["removed"], found["kept"], found["bytes"]) == (2, 1, youngest.size)
    assert [entry.fingerprint for entry in cache.entries()] == [youngest.fingerprint]
    assert "1 files removed" in spectra_cli("cache", "gc", "--max-size", "0").out


def test_class_pictures_are_counted_and_removed_when_asked(
    cache: SpectrumCache, spectra_cli: Callable[..., Any]
) -> None:
    kept, mine = (cache.path / "prior" / name for name in ("0123" * 8, "mine"))
    for folder in (kept, mine):
        folder.mkdir(parents=True)
        (folder / "0000.png").write_bytes(b"12345")
    assert json.loads(spectra_cli("cache", "ls", "--json").out)["class_pictures"] == {"sets": 1, "bytes": 5}
    assert "1 sets (5 bytes) of class pictures" in spectra_cli("cache", "ls").out
    spectra_cli("cache", "gc")
    assert kept.is_dir()
    found = json.loads(spectra_cli("cache", "gc", "--class-pictures", "--json").out)
    assert found["class_pictures"] == {"sets": 1, "bytes": 5}
    assert list((cache.path / "prior").iterdir()) == [mine]
    assert len(cache.entries()) == 3


def test_path_is_one_plain_line_however_long(
    tmp_path: Path, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / ("long [name] " * 15).strip()
    monkeypatch.setenv("SPECTRA_CACHE", str(where))
    assert spectra_cli("cache", "path").out == f"{where}\n"
    assert json.loads(spectra_cli("cache", "path", "--json").out) == {"path": str(where)}
    assert not where.exists()


@pytest.mark.parametrize(
    ("arguments", "said"), [(["gc", "--max-size", "huge"], "--max-size"), (["ls"], "not a folder")]
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    spectra_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "file"))
    ran = spectra_cli("cache", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert said in ran.err


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (17_700, "17.7 kB"),
        (999_600, "1 MB"),
        (889 * 10**6, "889 MB"),
        (4 * 10**13, "40 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert readable(count) == text
