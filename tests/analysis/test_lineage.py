"""Family trees of shifts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spectra.analysis.library import LibraryEntry, scan
from spectra.analysis.lineage import descendants, family, find_hash
from spectra.errors import InputError, ShiftFileError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift


def entry(name: str, *parents: str) -> LibraryEntry:
    metadata = ShiftMetadata("b", {}, parents=tuple(parents), content_hash=name)
    return LibraryEntry(Path(name), 0, 0.0, "float32", 1, 1, 0, (), "", metadata)


def lines(entries: list[LibraryEntry], of: list[LibraryEntry] | None = None) -> list[str]:
    return [
        f"{branch.depth}{branch.content_hash}{'?' * (not branch.entries)}{'^' * branch.repeated}"
        for branch in family(entries, entries if of is None else of)
    ]


def test_children_stand_below_each_parent() -> None:
    entries = [entry("a"), entry("b"), entry("ab", "a", "b"), entry("abc", "ab", "x"), entry("z")]
    assert lines(entries) == ["0a", "1ab", "2abc", "0b", "1ab^", "0x?", "1abc"]
    (branch,) = [b for b in family(entries, entries) if b.content_hash == "abc" and b.depth == 2]
    assert branch.partners == ("x",)


def test_only_relatives_are_shown() -> None:
    entries = [entry("a"), entry("b"), entry("ab", "a", "b"), entry("c"), entry("cd", "c")]
    assert lines(entries, [entries[2]]) == ["0a", "1ab", "0b", "1ab"]
    assert lines(entries, [entries[3]]) == ["0c", "1cd"]
    assert lines(entries, []) == []


def test_copies_are_one_and_a_parent_counts_once() -> None:
    entries = [entry("a"), entry("a"), entry("aa", "a", "a")]
    branches = family(entries, entries)
    assert [(b.depth, b.content_hash, len(b.entries)) for b in branches] == [(0, "a", 2), (1, "aa", 1)]


def test_a_circle_and_a_long_line_end() -> None:
    """Hashes are taken as the files tell them: a forged file may claim anything."""
    assert lines([entry("a", "b"), entry("b", "a"), entry("self", "self")]) == ["0a", "1b", "2a^", "0self", "1self^"]
    chain = [entry("n0"), *(entry(f"n{i}", f"n{i - 1}") for i in range(1, 3000))]
    assert family(chain, chain)[-1].depth == 2999


def test_real_files(tmp_path: Path) -> None:
    def write(name: str, value: float, *parents: str) -> str:
        path = tmp_path / f"{name}.safetensors"
        shift = SpectralShift({"unet.a": np.full(2, value)}, ShiftMetadata("b", {"unet.a": "0" * 8}, parents=parents))
        write_shift(shift, path)
        return read_shift(path).metadata.content_hash

    fox = write("fox", 1.0)
    soft = write("soft", 0.5, fox)
    write("softer", 0.2, soft)
    entries = scan([tmp_path]).entries
    assert [e.path.stem for e in descendants(entries, fox)] == ["soft", "softer"]
    assert find_hash(entries, str(tmp_path / "fox.safetensors")) == fox == find_hash(entries, fox[:9].upper())
    (tmp_path / "notes").write_text("x" * 20)
    for wrong in ("nothing", "", str(tmp_path / "notes")):
        with pytest.raises((InputError, ShiftFileError)):
            find_hash(entries, wrong)
