"""Folders of shift files: what is there, found and sorted by what the files say of themselves.

A file costs a tenth of a millisecond: of its header only the metadata and the end are looked at. That tells a file
that is cut short; changed values are told by reading it whole (`spectra.read_shift`).
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spectra.errors import InputError, ShiftFileError
from spectra.io.safetensors_header import HeaderError, leading_metadata, parse_header, read_header_text
from spectra.progress import SILENT, Progress, working
from spectra.shift.metadata import (
    FINGERPRINT_DIGITS,
    FORMAT,
    PARTS_VERSION,
    VERSION,
    ShiftMetadata,
    from_strings,
    is_packed,
)
from spectra.shift.part_arrays import STRINGS
from spectra.shift.shift import Precision
from spectra.shift.shift_header import read_shift_header
from spectra.shift.word_vectors import read_words

SUFFIX = ".safetensors"

_PLAIN = (str(VERSION), str(PARTS_VERSION))
"""Versions of files whose values stand as they are."""
_LAST = re.compile(rb'"dtype":"[FU](?:32|16)","shape":\[\d+(?:,\d+)?\],"data_offsets":\[\d+,(\d+)\]\}\} *\Z')
_PLACES = re.compile(rb'"dtype":"U(32|16)","shape":\[(\d+)\]')
_TERMS = re.compile(rb'\.outer":\{"dtype":"F(?:32|16)","shape":\[(\d+),')
"""Of the JSON of a header, in which a quotation mark inside of a text has a backslash before it."""

_WEIGHTWISE = ("fingerprints", "ndims", "rounded_float16", "rounded_bfloat16", *STRINGS)
"""Entries of the metadata that hold something for each weight."""


@dataclass(frozen=True)
class LibraryEntry:
    """One shift file of a library.

    Attributes:
        bytes: its size.
        changed: when the file was last written, in seconds since the epoch.
        weights, floats: how many weights it changes, and how many numbers it stores for them.
        terms: how many outer terms it holds.
        words: the special words that it has vectors for.
        base_fingerprint: 16 hex digits, one name for all the weights that it fits.
        metadata: as `SpectralShift.metadata`, without what it says of each weight (such as `fingerprints`).
    """

    path: Path
    bytes: int
    changed: float
    precision: Precision
    weights: int
    floats: int
    terms: int
    words: tuple[str, ...]
    base_fingerprint: str
    metadata: ShiftMetadata

    @property
    def content_hash(self) -> str:
        """The content hash that the file states; it is not computed here."""
        return self.metadata.content_hash

    @property
    def prompt(self) -> str:
        """The instance prompt that the shift was trained with; empty if the file names none."""
        prompt = self.metadata.settings.get("prompt")
        return prompt if isinstance(prompt, str) else ""

    @property
    def method(self) -> str:
        """The method by which the shift was made from others; empty if the file names none."""
        recipe = self.metadata.recipe
        method = recipe.get("method") if isinstance(recipe, dict) else recipe
        return method if isinstance(method, str) else ""

    @property
    def origin(self) -> str:
        """The shift in a few words: its prompt, else how it was made; empty if the file tells neither."""
        return self.prompt or (f"({self.method})" if self.method else "")


@dataclass(frozen=True)
class Library:
    """The contents of some folders and files.

    Attributes:
        entries: the shift files, sorted by path.
        others: number of files that are no shifts.
        damaged: why a shift file, or a folder, cannot be read, by path.
    """

    entries: tuple[LibraryEntry, ...]
    others: int
    damaged: Mapping[Path, str]


def scan(paths: Iterable[str | os.PathLike[str]], progress: Progress = SILENT) -> Library:
    """Every shift file among `paths` and in their folders, however deep; hidden files and folders are passed over.

    Raises:
        InputError: a path that does not exist.
    """
    damaged: dict[Path, str] = {}
    files = list(_files([Path(path) for path in paths], damaged))
    entries, others = [], 0
    with working(progress, "shifts", len(files)):
        for path in files:
            try:
                entry = read_entry(path) if path.suffix == SUFFIX else None
            except ShiftFileError as error:
                damaged[path] = str(error).removeprefix(f"{path}: ")
            else:
                others += entry is None
                entries += [entry] if entry else []
            progress.advance()
    return Library(tuple(sorted(entries, key=lambda entry: entry.path)), others, dict(sorted(damaged.items())))


def _files(paths: Sequence[Path], damaged: dict[Path, str]) -> list[Path]:
    """Each file once. Folders that cannot be read go to `damaged`."""
    found: dict[Path, Path] = {}  # by absolute path
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
        for file in _walk(path, damaged) if path.is_dir() else [path]:
            found.setdefault(file.absolute(), file)
    return list(found.values())


def _walk(folder: Path, damaged: dict[Path, str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        damaged[Path(error.filename)] = f"cannot be read ({error.strerror}); check its permissions"

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def read_entry(path: Path) -> LibraryEntry | None:
    """The entry of one file, or None if it is something else than a shift.

    Raises:
        ShiftFileError: a shift that is damaged or of a later format, or a file that cannot be read.
    """
    text, status = _header_text(path)
    strings = _strings(path, text, status.st_size)
    if strings is not None and strings.get("format") != FORMAT:
        return None
    ends = _LAST.search(text, max(0, len(text) - 200))
    known = strings and ends and strings.get("version") in _PLAIN and 8 + len(text) + int(ends[1]) == status.st_size
    if strings and ends and known and not is_packed(strings):
        plain = {key: value for key, value in strings.items() if key not in _WEIGHTWISE}
        metadata = from_strings(plain | {"fingerprints": ""}, ())
        precision: Precision = "float16" if b'"dtype":"F16"' in text else "float32"
        places = sum(int(bits) // 8 * int(count) for bits, count in _PLACES.findall(text))
        floats = (int(ends[1]) - places) // (2 if precision == "float16" else 4)
        weights = len(strings.get("fingerprints", "")) // FINGERPRINT_DIGITS
        terms = sum(map(int, _TERMS.findall(text)))
        words = tuple(dict.fromkeys(word for _, word in read_words(strings.get("words", "{}")).values()))
        fingerprint = strings["base_fingerprint"]
    else:  # laid out by another writer, of another version, or damaged: looked at closely
        header = read_shift_header(path)
        metadata = replace(header.metadata, fingerprints={}, ndims={}, rounded={})
        precision, weights, floats = header.precision, len(header.lengths), header.floats
        terms, words = sum(header.outer.values()), tuple(dict.fromkeys(header.words.values()))
        fingerprint = header.metadata.base_fingerprint
    return LibraryEntry(
        path, status.st_size, status.st_mtime, precision, weights, floats, terms, words, fingerprint, metadata
    )


def _header_text(path: Path) -> tuple[bytes, os.stat_result]:
    """The JSON of a safetensors header; empty if there is none."""
    if not path.is_file():
        raise ShiftFileError("it is no file, or a link to nothing; check the path")
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            with contextlib.suppress(HeaderError):
                return read_header_text(stream, status.st_size), status
            return b"", status
    except OSError as error:
        raise ShiftFileError(f"cannot be read ({error.strerror}); check its permissions") from error


def _strings(path: Path, text: bytes, size: int) -> Mapping[str, str] | None:
    """The metadata of a header, or None if it cannot be made out. Where it comes first, the rest is not parsed."""
    try:
        strings = leading_metadata(text)
        return parse_header(path, text, size).metadata if strings is None else strings
    except HeaderError:
        return None


def duplicates(entries: Iterable[LibraryEntry]) -> list[tuple[LibraryEntry, ...]]:
    """Files of the same content, where there are several."""
    groups: dict[str, list[LibraryEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.content_hash, []).append(entry)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def select(
    entries: Iterable[LibraryEntry], *, find: str = "", base: str = "", prompt: str = "", subset: str = ""
) -> tuple[LibraryEntry, ...]:
    """The entries that meet every condition that is not empty. Upper and lower case are the same.

    Args:
        entries: of a library.
        find: words that must all occur in what a file says of itself, its path, or its content hash.
        base: a part of the base's name, or the start of its fingerprint.
        prompt: a part of the instance prompt or the class prompt.
        subset: what was trained, such as `unet-ca`; a pattern such as `unet*` will do.
    """
    words, base, prompt, subset = find.lower().split(), base.lower(), prompt.lower(), subset.lower()

    def meets(entry: LibraryEntry) -> bool:
        metadata = entry.metadata
        prompts = (str(metadata.settings.get(key, "")).lower() for key in ("prompt", "class_prompt", "subjects"))
        subsets = (item.strip() for item in metadata.subset.lower().split(","))
        return (
            (base in metadata.base.lower() or entry.base_fingerprint.startswith(base))
            and (not prompt or any(prompt in text for text in prompts))
            and (not subset or any(fnmatch.fnmatch(item, subset) for item in subsets))
            and (not words or all(word in text for text in [_all_text(entry)] for word in words))
        )

    return tuple(entry for entry in entries if meets(entry))


def _all_text(entry: LibraryEntry) -> str:
    metadata = entry.metadata
    chosen = [value for value in metadata.settings.values() if isinstance(value, (str, list))]
    described = [chosen, dict(metadata.versions), metadata.recipe, list(metadata.parents)]
    plain = [entry.path, metadata.base, entry.base_fingerprint, metadata.subset, metadata.licence, entry.content_hash]
    plain += entry.words
    return "\n".join([*map(str, plain), json.dumps(described, ensure_ascii=False)]).lower()


SORTS: Mapping[str, Any] = {
    "name": lambda entry: str(entry.path),
    "date": lambda entry: -entry.changed,
    "size": lambda entry: -entry.bytes,
    "floats": lambda entry: -entry.floats,
    "prompt": lambda entry: entry.origin.lower(),
    "base": lambda entry: (entry.metadata.base, entry.base_fingerprint),
    "subset": lambda entry: entry.metadata.subset,
}
"""Orders in which entries can be listed: text from A to Z, the newest and the largest first."""


def sort_entries(entries: Iterable[LibraryEntry], by: str) -> tuple[LibraryEntry, ...]:
    """Sorts entries by one of `SORTS`; equal ones by name.

    Raises:
        InputError: it is none of them.
    """
    if by not in SORTS:
        raise InputError(f"cannot sort by {by!r}; expected one of {', '.join(SORTS)}")
    return tuple(sorted(sorted(entries, key=SORTS["name"]), key=SORTS[by]))
