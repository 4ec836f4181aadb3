"""How `spectra inspect` shows one shift: what it says of itself, its parts, and where it acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spectra.cli.exactness import exactness_line
from spectra.cli.tables import facts, length, percent, plural, readable, table

if TYPE_CHECKING:
    from rich.table import Table

_LISTED = 8
"""Number of items shown of a long list, such as a thousand parents; the JSON has all."""

_COUNTED = {"delta": "direction", "outer": "term", "word": "token"}
"""What each part of a shift has a number of; their plurals are keys of a group's or weight's data."""


def tables(found: dict[str, Any], headings: list[str], every_layer: bool) -> Iterator[Table]:
    """The tables of one shift.

    Args:
        found: what the JSON holds.
        headings: of the facts shown, keys of `found`.
        every_layer: list the weights, too.
    """
    error = "" if found["error"] is None else f", error of Delta W at most {100 * found['error']:g} %"
    about = [("file", f"{found['file']} ({found['bytes']:,} bytes, {found['precision']}{error})")]
    about += [
        ("word", f"{word['text'] or 'unnamed'}: {plural(len(word['ids']), 'token')} of {name}")
        for name, word in found["words"].items()
    ]
    about += [(key.replace("_", " "), _text(found[key])) for key in headings if found[key] is not None]
    yield facts([*about, exactness_line(found)])
    yield _parts(found)
    yield _table("block", found["blocks"], found)
    yield _table("kind", found["kinds"], found)
    if every_layer:
        yield _table("weight", found["layers"], found)


def _parts(found: dict[str, Any]) -> Table:
    """What is in the file: a row for each part, and one for all of it."""
    whole = found["total"]

    def row(part: str, stored: Mapping[str, Any]) -> tuple[str, ...]:
        counts = [count for layer in found["layers"] if (count := layer[_COUNTED[part] + "s"])]
        least, most = min(counts, default=0), max(counts, default=0)
        each = plural(most, _COUNTED[part]) if least == most else f"{least:,} to {plural(most, _COUNTED[part])}"
        size = "" if stored["bytes"] is None else readable(stored["bytes"])
        share = percent(whole[part] ** 2 / whole["norm"] ** 2) if whole["norm"] else ""
        numbers = f"{stored['weights']:,}", each, f"{stored['floats']:,}"
        return (part, *numbers, size, length(whole[part]), share)

    sizes = [each["bytes"] for each in found["stored"].values()]
    floats = sum(each["floats"] for each in found["stored"].values())
    total = ("file", f"{whole['weights']:,}", "", f"{floats:,}", readable(found["bytes"]), length(whole["norm"]), "")
    rows = [row(part, stored) for part, stored in found["stored"].items()]
    if None not in sizes:
        rows.append(("header", "", "", "", readable(found["bytes"] - sum(sizes)), "", ""))
    headings = ["weights", "in each", "floats", "bytes", "norm", "energy"]
    return table("part", headings, rows, footer=total, name_width=6)


def _text(value: Any) -> str:
    """Data in lines: an entry each, the last of many left out."""
    if isinstance(value, dict):
        return "\n".join(line for key, item in value.items() for line in _entry(key, item))
    return "\n".join(_first(value)) if isinstance(value, list) else str(value)


def _entry(key: str, item: Any) -> list[str]:
    """One entry of a dictionary; the tables of a list stand below its name."""
    if isinstance(item, list) and any(isinstance(each, dict) for each in item):
        return [f"{key}:", *(f"  {line}" for line in _first(item))]
    return [f"{key} = {', '.join(_first(item)) if isinstance(item, list) else item}"]


def _first(items: list[Any]) -> list[str]:
    lines = [
        ", ".join(f"{key} {value}" for key, value in item.items()) if isinstance(item, dict) else str(item)
        for item in items[:_LISTED]
    ]
    return [*lines, f"and {len(items) - _LISTED:,} more"] if len(items) > _LISTED else lines


def _table(title: str, parts: list[dict[str, Any]], found: dict[str, Any]) -> Table:
    """A row for each of some groups or weights: the norm of each part, if there are several, and of the whole."""
    whole, present = found["total"], list(found["stored"])
    counts = ["weights", *(_COUNTED[part] + "s" for part in present)] if len(present) == 1 else []
    norms = [*([] if counts else present), "norm", *(["largest"] if present == ["delta"] else [])]

    def row(part: dict[str, Any]) -> tuple[str, ...]:
        energy = percent(part["norm"] ** 2 / whole["norm"] ** 2) if whole["norm"] else ""
        lengths = (length(part[key]) if part[key] or key in ("norm", "largest") else "" for key in norms)
        return (part["name"], *(f"{part[key]:,}" for key in counts), *lengths, energy)

    return table(title, [*counts, *norms, "energy"], map(row, parts), footer=row(whole))
