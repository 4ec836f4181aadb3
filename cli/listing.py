"""How `spectra inspect` shows a folder of shifts: as a table, or as a family tree."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.tables import plural, readable, table

if TYPE_CHECKING:
    from spectra.analysis.library import Library, LibraryEntry
    from spectra.analysis.lineage import Branch
    from spectra.shift.metadata import ShiftMetadata

_SHOWN = 40
"""Rows, and lines of what else there is to say, unless all are asked for."""
_COPIES = 4
"""Names of the same content, likewise."""


def metadata_as_dict(metadata: ShiftMetadata, base_fingerprint: str) -> dict[str, Any]:
    """What a file says of itself, as JSON data."""
    names = ("base_dtype", "reshape", "subset", "settings", "seed", "versions", "licence", "parents", "recipe")
    base = {"base": metadata.base, "base_fingerprint": base_fingerprint}
    return base | output.values_of(metadata, *names, "content_hash")


def library_as_dict(library: Library, chosen: Sequence[LibraryEntry]) -> dict[str, Any]:
    """A library, and those of its shifts that were asked for, as JSON data."""
    from spectra.analysis.library import duplicates

    return {
        "shifts": [
            {
                "file": str(entry.path),
                "changed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.changed)),
                **output.values_of(entry, "bytes", "precision", "weights", "floats", "terms", "words"),
                **metadata_as_dict(entry.metadata, entry.base_fingerprint),
            }
            for entry in chosen
        ],
        "of": len(library.entries),
        "other_files": library.others,
        "damaged": [{"file": str(path), "reason": reason} for path, reason in library.damaged.items()],
        "copies": [[str(entry.path) for entry in group] for group in duplicates(chosen)],
    }


def show_library(
    library: Library, chosen: Sequence[LibraryEntry], root: Path, *, everything: bool
) -> Iterator[output.Part]:
    """The shifts that were asked for, in a table; what all of them share stands once, below."""
    from spectra.analysis.library import duplicates

    limit = len(chosen) + len(library.damaged) if everything else _SHOWN
    columns: dict[str, Callable[[LibraryEntry], str]] = {
        "prompt": lambda entry: entry.origin,
        "subset": lambda entry: entry.metadata.subset,
        "terms": lambda entry: f"{entry.terms:,}" if entry.terms else "",
        "word": lambda entry: ", ".join(entry.words),
        "base": lambda entry: entry.metadata.base,
        "base dtype": lambda entry: entry.metadata.base_dtype,
        "values": lambda entry: entry.precision,
        "size": lambda entry: readable(entry.bytes),
        "changed": lambda entry: time.strftime("%Y-%m-%d", time.localtime(entry.changed)),
    }
    every = {heading: [text(entry) for entry in chosen] for heading, text in columns.items()}
    cells = {heading: texts for heading, texts in every.items() if any(texts)}
    shared = {heading: texts[0] for heading, texts in cells.items() if len(texts) > 1 and len(set(texts)) == 1}
    if chosen:
        varied = {heading: texts for heading, texts in cells.items() if heading not in shared}
        names = [_name(entry.path, root) for entry in chosen[:limit]]
        rows = [(name, *(texts[i] for texts in varied.values())) for i, name in enumerate(names)]
        yield table("file", list(varied), rows, texts=varied, name_width=None)
        yield ""
    yield from _more(len(chosen), limit)
    size = readable(sum(entry.bytes for entry in chosen))
    part = "" if len(chosen) == len(library.entries) else f" of {len(library.entries):,}"
    yield f"{len(chosen):,}{part} shift{'' if len(library.entries) == 1 else 's'} in {root}, {size}"
    if shared:
        yield "all: " + ", ".join(f"{heading} {text}" for heading, text in shared.items())
    for group in (groups := duplicates(chosen))[:limit]:
        names = [_name(entry.path, root) for entry in group]
        more = f" and {len(names) - _COPIES:,} more" if len(names) > _COPIES and not everything else ""
        yield f"copies: {' = '.join(names if everything else names[:_COPIES])}{more}"
    yield from _more(len(groups), limit)
    yield from _show_rest(library, limit)


def _show_rest(library: Library, limit: int) -> Iterator[output.Part]:
    """What is no shift, and what cannot be read."""
    if library.others:
        yield f"{plural(library.others, 'other file')} passed over"
    for path, reason in list(library.damaged.items())[:limit]:
        yield f"damaged: {path}: {reason}"
    yield from _more(len(library.damaged), limit)


def show_tree(library: Library, tree: Sequence[Branch], chosen: int, root: Path) -> Iterator[output.Part]:
    """A family tree: what was made from a shift stands below it."""
    names = {b.content_hash: _name(b.entries[0].path, root) for b in tree if b.entries}
    # Not rich's Tree, which cuts off what stands deeper than the terminal is wide.
    open_at: list[bool] = []  # by depth, whether another branch of that depth follows below
    lines = []
    for i in range(len(tree) - 1, -1, -1):
        branch = tree[i]
        del open_at[branch.depth + 1 :]
        open_at += [False] * (branch.depth + 1 - len(open_at))
        stem = "".join("│   " if more else "    " for more in open_at[1 : branch.depth])
        fork = ("├── " if open_at[branch.depth] else "└── ") if branch.depth else ""
        lines.append(stem + fork + _branch(branch, names))
        open_at[branch.depth] = True
    yield from reversed(lines)
    related = {entry.path for branch in tree for entry in branch.entries}
    alone = chosen - len(related)
    if alone > 0:
        yield f"{alone:,} shift{' has' if alone == 1 else 's have'} neither parents nor children here"
    yield from _show_rest(library, _SHOWN)


def _branch(branch: Branch, names: dict[str, str]) -> str:
    def name_of(key: str) -> str:
        return names.get(key) or f"unknown {key[:8]}"

    copies = f" ({len(branch.entries) - 1} more of the same content)" if len(branch.entries) > 1 else ""
    remarks = [entry.method or entry.prompt for entry in branch.entries[:1]]
    if branch.depth and branch.partners:
        remarks.append("with " + ", ".join(map(name_of, branch.partners)))
    if branch.repeated:
        remarks.append("continued above")
    about = ", ".join(filter(None, remarks))
    return name_of(branch.content_hash) + copies + (f"  {about}" if about else "")


def _name(path: Path, root: Path) -> str:
    """A file's path below the folder in question, without the suffix that all shifts have."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path).removesuffix(".safetensors")


def _more(count: int, limit: int) -> Iterator[output.Part]:
    if count > limit:
        yield f"and {count - limit:,} more (--all)"
