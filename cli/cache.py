"""`spectra cache`: looks after the spectra that are kept."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from spectra.cli import output
from spectra.cli.options import command, json_option
from spectra.cli.tables import readable, table
from spectra.io.workplaces import remove_leftovers, workplace
from spectra.settings import setting
from spectra.spectrum.cache.environment import parse_size, prior_root

_SHOWN = 20
"""Entries that `ls` shows a person without --all."""


@dataclass(frozen=True)
class _Options:
    json: bool = json_option()


@dataclass(frozen=True)
class _ListOptions:
    everything: bool = setting(False, "List every entry, not only the latest used.", option="--all")
    json: bool = json_option()


@dataclass(frozen=True)
class _CleanOptions:
    max_size: str | None = setting(
        None, "Size that the cache may keep, such as 5GB or 0.", metavar="SIZE", default_text="the cache's limit"
    )
    class_pictures: bool = setting(False, "Remove kept class pictures too; trainings draw them again.")
    json: bool = json_option()


@command(_ListOptions, "spectra cache ls --all")
def ls(options: _ListOptions) -> None:
    """Lists the entries, the most recently used first."""
    from spectra.spectrum.cache.spectrum_cache import default_cache

    cache = default_cache()
    entries = cache.entries()
    size = sum(entry.size for entry in entries)
    found: dict[str, Any] = {
        "path": str(cache.path),
        "bytes": size,
        "limit": cache.max_bytes,
        "class_pictures": _class_pictures(),
        "entries": [
            output.values_of(entry, "fingerprint", "shape", "side", "rank", "tail", "directions")
            | {"bytes": entry.size, "used": round(entry.used, 3)}
            for entry in entries
        ],
    }
    shown = found["entries"] if options.everything else found["entries"][:_SHOWN]
    output.result(found, json=options.json, human=lambda: _list(found, shown))


@command(_Options, "spectra cache verify --json")
def verify(options: _Options) -> None:
    """Reads every entry against its checksums; damaged ones are set aside and computed again when needed."""
    from spectra.spectrum.cache.spectrum_cache import default_cache

    cache = default_cache()
    done = cache.verify(output.progress())
    found = {"path": str(cache.path), "checked": done.checked, "bytes": done.size, "damaged": done.damaged}
    lines = [f"{done.checked:,} entries, {readable(done.size)} sound, {len(done.damaged)} damaged"]
    lines += [f"{fingerprint[:12]}: {reason}" for fingerprint, reason in done.damaged.items()]
    output.result(found, json=options.json, human=lambda: lines)
    if done.damaged:
        output.failure(
            f"{len(done.damaged)} damaged entries were set aside in {cache.path / 'damaged'}; they are computed again "
            "when needed, and `spectra cache gc` removes them"
        )
        raise typer.Exit(1)


@command(_CleanOptions, "spectra cache gc --max-size 5GB")
def gc(options: _CleanOptions) -> None:
    """Removes damaged and half-written files, and the least recently used entries beyond a size."""
    from spectra.spectrum.cache.spectrum_cache import default_cache

    cache = default_cache()
    limit = cache.max_bytes if options.max_size is None else parse_size(options.max_size, what="--max-size")
    done = cache.gc(limit)
    found: dict[str, Any] = {
        "path": str(cache.path),
        "limit": limit,
        "removed": done.removed,
        "freed": done.freed,
        "kept": done.kept,
        "bytes": done.size,
        "class_pictures": _remove_class_pictures() if options.class_pictures else {"sets": 0, "bytes": 0},
    }
    removed = f"{done.removed:,} files removed ({readable(done.freed)})"
    lines = [f"{removed}, {done.kept:,} entries kept ({readable(done.size)})"]
    if options.class_pictures:
        lines.append(_count(found["class_pictures"]) + " of class pictures removed")
    output.result(found, json=options.json, human=lambda: lines)


@command(_Options, "du -sh $(spectra cache path)")
def path(options: _Options) -> None:
    """Prints the cache's folder, whether it exists yet or not."""
    from spectra.spectrum.cache.spectrum_cache import default_cache

    where = str(default_cache().path)
    output.result({"path": where}, json=options.json, human=lambda: [where])


cache = typer.Typer(
    name="cache",
    help="Looks after the spectra that are kept on this machine.",
    epilog="Example:  spectra cache ls     |     spectra cache gc --max-size 5GB",
    no_args_is_help=True,
)
cache.registered_commands += [ls, verify, gc, path]


def _sets() -> list[Path]:
    """The folders of class pictures, each called by a digest; whatever else lies beside them is not the cache's."""
    return [folder for folder in prior_root().glob("*") if re.fullmatch("[0-9a-f]{32}", folder.name)]


def _class_pictures() -> dict[str, int]:
    """How many sets of class pictures are kept, and their bytes."""
    sets = _sets()
    return {"sets": len(sets), "bytes": sum(file.stat().st_size for folder in sets for file in folder.glob("*"))}


def _remove_class_pictures() -> dict[str, int]:
    """Removes them; a set goes whole, by a rename first, so that no training reads half of one."""
    removed = _class_pictures()
    for folder in _sets():
        with workplace(folder.parent) as place:
            folder.rename(place / "new" / folder.name)
    remove_leftovers(prior_root())
    return removed


def _count(pictures: dict[str, int]) -> str:
    return f"{pictures['sets']:,} sets ({readable(pictures['bytes'])})"


def _list(found: dict[str, Any], shown: list[dict[str, Any]]) -> Iterator[output.Part]:
    if shown:
        rows = []
        for entry in shown:
            shape = "x".join(map(str, entry["shape"])) if entry["shape"] is not None else "unreadable"
            facts = ["" if entry[key] is None else str(entry[key]) for key in ("rank", "directions", "side", "tail")]
            rows.append((entry["fingerprint"][:12], shape, *facts, readable(entry["bytes"]), _ago(entry["used"])))
        headings = ("shape", "rank", "known", "side", "tail", "size", "last used")
        yield table("fingerprint", headings, rows, texts=("shape", "side"), name_width=None)
    hidden = len(found["entries"]) - len(shown)
    if hidden:
        yield f"and {hidden:,} more (--all)"
    sizes = f"{readable(found['bytes'])} of {readable(found['limit'])}"
    yield f"{len(found['entries']):,} entries, {sizes}, in {found['path']}"
    if found["class_pictures"]["sets"]:
        yield _count(found["class_pictures"]) + " of class pictures beside them (gc --class-pictures)"


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
