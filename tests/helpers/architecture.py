"""Draws `docs/pictures/architecture.svg` from the code: `make architecture`.

Rooms stand on the floors of `source_tree.FLOORS`, ground floor at the bottom. A box holds the first sentence of the
room's docstring and the rooms that it builds on, from its imports: those that stand under others of them are left out.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from html import escape

from source_tree import FLOORS, ROOT, imports, resolved, sources

import spectra

PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"

PATHS = {
    "learning": "pictures > training > layers > adapters > shift > io > a file",
    "using": "a file > io > shift > adapters > layers > generation > pictures",
}
"""The way that data walks: rooms, between what goes in and what comes out."""

WIDTH, GAP, MARGIN, LABEL = 214, 12, 16, 92
LETTERS = 33
"""Of a line in a box."""
LINE, TITLE = 15, 24
COLOURS = ("#e8e4da", "#dcebe3", "#dfe6f3", "#f3e3dc", "#efe6f2", "#ececf0")
INK, SOFT = "#22262b", "#5c6670"


def uses() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    files = sources()
    found: dict[str, set[str]] = {room: set() for floor in FLOORS.values() for room in floor}
    for module, file in files.items():
        if module not in ("spectra", "spectra.__main__"):
            room = module.split(".")[1]
            known = resolved(imports(ast.parse(file.read_text())), files, spectra._HOME)
            found[room] |= {each.module.split(".")[1] for each in known if "." in each.module} - {room}
    return found


def direct(graph: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """What each room builds on, without what another of those builds on anyway; in the order of the floors."""
    order = [room for floor in FLOORS.values() for room in floor]
    below: dict[str, set[str]] = {}
    for room in order:
        below[room] = set().union(graph[room], *(below[other] for other in graph[room]))
    return {
        room: [other for other in order if other in own and not any(other in below[third] for third in own)]
        for room, own in graph.items()
    }


def sentence(room: str) -> str:
    """The first sentence of a room's docstring."""
    files = sources()
    text = ast.get_docstring(ast.parse(files[f"spectra.{room}"].read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".").replace("`", "")


def svg() -> str:
    """The picture."""
    below = direct(uses())
    boxes = {
        floor: [(room, textwrap.wrap(sentence(room), LETTERS), _on(below[room])) for room in rooms]
        for floor, rooms in FLOORS.items()
    }
    heights = {
        floor: TITLE + 14 + LINE * (max(len(text) for _, text, _ in row) + max(len(on) for _, _, on in row))
        for floor, row in boxes.items()
    }
    width = 2 * MARGIN + LABEL + max(len(row) for row in boxes.values()) * (WIDTH + GAP) - GAP
    head = MARGIN + 34 * len(PATHS) + 6
    height = head + sum(heights.values()) + GAP * 2 * len(boxes) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="12" fill="{INK}">',
        "<title>The rooms of spectra, and the way that data walks through them</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{SOFT}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (name, path) in enumerate(PATHS.items()):
        parts += _path(name, path.split(" > "), MARGIN + 34 * number)
    y = head + GAP
    for colour, floor in zip(reversed(COLOURS), reversed(boxes), strict=True):
        parts += _floor(floor, boxes[floor], y, heights[floor], colour)
        y += heights[floor] + 2 * GAP
    return "\n".join([*parts, "</svg>", ""])


def _on(rooms: list[str]) -> list[str]:
    return textwrap.wrap("on " + ", ".join(rooms), LETTERS) if rooms else ["on nothing"]


def _text(x: int, y: int, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}"{more}>{escape(text)}</text>'


def _path(name: str, stations: list[str], y: int) -> Iterator[str]:
    rooms = {room for floor in FLOORS.values() for room in floor}
    yield _text(MARGIN, y + 17, name, f' fill="{SOFT}"')
    x = MARGIN + LABEL
    for station in stations:
        wide = 8 * len(station) + 22
        if x > MARGIN + LABEL:
            yield (
                f'<path d="M{x - 32} {y + 13}H{x - 3}" stroke="{SOFT}" stroke-width="1.5" fill="none" '
                'marker-end="url(#tip)"/>'
            )
        if station in rooms:
            yield f'<rect x="{x}" y="{y}" width="{wide}" height="26" rx="4" fill="{_colour(station)}" stroke="{SOFT}"/>'
        weight = ' font-weight="bold"' if station in rooms else ""
        yield _text(x + wide // 2, y + 17, station, f' text-anchor="middle"{weight}')
        x += wide + 34


def _colour(room: str) -> str:
    return next(colour for colour, rooms in zip(COLOURS, FLOORS.values(), strict=True) if room in rooms)


def _floor(floor: str, row: list[tuple[str, list[str], list[str]]], y: int, height: int, colour: str) -> Iterator[str]:
    for number, line in enumerate(textwrap.wrap(floor, 12)):
        yield _text(MARGIN, y + 18 + LINE * number, line, f' fill="{SOFT}"')
    for number, (room, text, on) in enumerate(row):
        x = MARGIN + LABEL + number * (WIDTH + GAP)
        yield f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="4" fill="{colour}" stroke="{SOFT}"/>'
        yield _text(x + 8, y + 19, room, ' font-weight="bold" font-size="14"')
        for index, line in enumerate(text):
            yield _text(x + 8, y + TITLE + 13 + LINE * index, line, ' font-size="11"')
        for index, line in enumerate(on):
            yield _text(x + 8, y + height - 8 - LINE * (len(on) - 1 - index), line, f' fill="{SOFT}" font-size="11"')


if __name__ == "__main__":
    PICTURE.write_text(svg())
