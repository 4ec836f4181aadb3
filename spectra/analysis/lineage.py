"""Family trees of shifts, which name their parents by content hash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectra.analysis.library import LibraryEntry, read_entry
from spectra.errors import InputError


@dataclass(frozen=True)
class Branch:
    """One line of a family tree.

    Attributes:
        depth: generations above it in the tree, 0 for a shift that was made from no other; its children follow it.
        content_hash: of the shift.
        entries: the files that hold it; none for a parent that is not in the library.
        partners: content hashes of its other parents than the one it stands under.
        repeated: its children stand where it came first.
    """

    depth: int
    content_hash: str
    entries: tuple[LibraryEntry, ...]
    partners: tuple[str, ...]
    repeated: bool


def family(entries: Iterable[LibraryEntry], of: Iterable[LibraryEntry]) -> tuple[Branch, ...]:
    """The family tree of some shifts: their ancestors, themselves, and what was made from them.

    A shift of several parents stands under each of them. One that has neither parents nor children is left out.

    Args:
        entries: of the library, in which relatives are looked for.
        of: the shifts in question.
    """
    files, parents, children = _relations(entries)
    asked = [entry.content_hash for entry in of]
    related = _reach(asked, parents) | _reach(asked, children)
    related = {key for key in related if parents.get(key) or children.get(key)}
    below = {key: [child for child in children.get(key, ()) if child in related] for key in related}

    def place(key: str) -> str:
        return str(files[key][0].path) if key in files else f"~{key}"  # unknown ones last

    branches: list[Branch] = []
    seen: set[str] = set()
    tops = sorted((key for key in related if not parents.get(key)), key=place)
    # What no top leads to claims to be its own ancestor; it is shown all the same.
    for top in [*tops, *sorted(related, key=place)]:
        stack = [] if top in seen else [(0, top, "")]
        while stack:
            depth, key, above = stack.pop()
            partners = tuple(parent for parent in parents.get(key, ()) if parent != above)
            branches.append(Branch(depth, key, tuple(files.get(key, ())), partners, key in seen and bool(below[key])))
            if key not in seen:
                seen.add(key)
                stack += [(depth + 1, child, key) for child in sorted(below[key], key=place, reverse=True)]
    return tuple(branches)


def find_hash(entries: Iterable[LibraryEntry], named: str) -> str:
    """The content hash that someone means by a shift's file or by the hash's first digits.

    Raises:
        InputError: no shift of the library has it, nor names it as a parent; or several do.
        ShiftFileError: a file that cannot be read.
    """
    if Path(named).is_file():
        entry = read_entry(Path(named))
        if entry is None:
            raise InputError(f"{named}: it is no shift; name a shift file or a content hash")
        return entry.content_hash
    known = {key for entry in entries for key in (entry.content_hash, *entry.metadata.parents)}
    found = sorted(key for key in known if named and key.startswith(named.lower()))
    if len(found) != 1:
        raise InputError(
            f"{named!r} is no file, and the start of {len(found)} content hashes in this library; name one shift file, "
            "or more digits of its hash (spectra inspect FILE)"
        )
    return found[0]


def descendants(entries: Sequence[LibraryEntry], content_hash: str) -> tuple[LibraryEntry, ...]:
    """The entries that were made from the shift of this hash, directly or through others."""
    found = _reach([content_hash], _relations(entries)[2]) - {content_hash}
    return tuple(entry for entry in entries if entry.content_hash in found)


def _relations(
    entries: Iterable[LibraryEntry],
) -> tuple[dict[str, list[LibraryEntry]], dict[str, tuple[str, ...]], dict[str, list[str]]]:
    """Files, parents and children of each content hash."""
    files: dict[str, list[LibraryEntry]] = {}
    parents: dict[str, tuple[str, ...]] = {}
    children: dict[str, list[str]] = {}
    for entry in entries:
        key = entry.content_hash
        if key not in files:
            parents[key] = tuple(dict.fromkeys(entry.metadata.parents))
            for parent in parents[key]:
                children.setdefault(parent, []).append(key)
        files.setdefault(key, []).append(entry)
    return files, parents, children


def _reach(start: Iterable[str], steps: Mapping[str, Iterable[str]]) -> set[str]:
    """Everything that can be reached, the start included."""
    found, stack = set(), list(start)
    while stack:
        key = stack.pop()
        if key not in found:
            found.add(key)
            stack += steps.get(key, ())
    return found
