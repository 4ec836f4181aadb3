"""Joins the icon sets by concept, and renders their drawings.

`noto`, `twemoji` and `fluent-emoji-flat` name their icons by code point (chars.json); the others are joined by
the slug of the concept's label, or by the name given in concepts.txt.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
HANDS = {  # hand -> licence; `fluent-emoji` repeats the geometry of `fluent-emoji-flat` and is left out
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "fxemoji": "Apache-2.0",
    "emojione": "CC-BY-4.0",
    "twemoji": "CC-BY-4.0",
    "fluent-emoji-flat": "MIT",
}
RENDER_SIZE = 192


@dataclass(frozen=True)
class Drawing:
    """One hand's drawing of one concept."""

    concept: str
    hand: str
    icon: str
    tags: tuple[str, ...]
    held_out: bool = False

    @property
    def name(self) -> str:
        return f"{self.concept.replace(' ', '-')}-{self.hand}"


@dataclass(frozen=True)
class Concept:
    name: str
    label: str
    synonyms: tuple[str, ...]
    fxemoji: str


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("’", "")).strip("-")


@cache
def read_concepts() -> list[Concept]:
    """The hand-chosen concepts of concepts.txt, in file order."""
    concepts = []
    for line in (HERE / "concepts.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, label, synonyms, fxemoji = (part.strip() for part in line.split("|"))
            words = tuple(word.strip() for word in synonyms.split(",") if word.strip())
            concepts.append(Concept(name, label or name, words, fxemoji))
    return concepts


@cache
def icon_set(modules: Path, hand: str) -> dict:
    return json.loads((modules / "@iconify-json" / hand / "icons.json").read_text())


@cache
def code_points(modules: Path, hand: str) -> dict[str, str]:
    path = modules / "@iconify-json" / hand / "chars.json"
    return json.loads(path.read_text()) if path.exists() else {}


def find_icon(modules: Path, hand: str, concept: Concept, hexcode: str) -> str | None:
    """The icon's name in a hand's set, aliases resolved, or None where the hand has not drawn the concept."""
    icons, aliases = icon_set(modules, hand)["icons"], icon_set(modules, hand).get("aliases", {})
    code = hexcode.lower().replace("-fe0f", "")
    chars = code_points(modules, hand)
    plain, label = slug(concept.name), slug(concept.label)
    names = [chars.get(code), chars.get(f"{code}-fe0f"), label]
    if hand == "fxemoji":
        names = [concept.fxemoji] if concept.fxemoji else [label.replace("-", ""), plain.replace("-", "")]
    if hand in ("noto-v1", "emojione"):
        names += [f"{label}-face"]
    for name in names:
        if name in aliases:
            name = aliases[name]["parent"]
        if name in icons:
            return name
    return None


def join(modules: Path, held_out: set[str]) -> list[Drawing]:
    """Every drawing of every concept; `held_out` holds the names (`concept-hand`) of the subjects."""
    table = json.loads((modules / "emojibase-data" / "en" / "data.json").read_text())
    by_label = {entry["label"]: entry for entry in table}
    drawings = []
    for concept in read_concepts():
        entry = by_label[concept.label]
        for hand in HANDS:
            icon = find_icon(modules, hand, concept, entry["hexcode"])
            if icon is not None:
                drawing = Drawing(concept.name, hand, icon, tuple(entry.get("tags", ())))
                drawings.append(Drawing(**{**asdict(drawing), "held_out": drawing.name in held_out}))
    return drawings


def render(modules: Path, drawing: Drawing, size: int = RENDER_SIZE) -> Image.Image:
    """An RGBA cut-out of a drawing, square, `size` pixels wide."""
    import resvg_py

    icons = icon_set(modules, drawing.hand)
    icon = icons["icons"][drawing.icon]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
    svg += f'width="{size}" height="{size}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def save_list(drawings: list[Drawing], path: Path) -> None:
    lines = ",\n".join(json.dumps(asdict(drawing)) for drawing in drawings)
    path.write_text(f"[\n{lines}\n]\n")


def load_list(path: Path) -> list[Drawing]:
    return [Drawing(**{**row, "tags": tuple(row["tags"])}) for row in json.loads(path.read_text())]


def load_cutouts(modules: Path, drawings: list[Drawing], work: Path) -> np.ndarray:
    """Cut-outs of all drawings, uint8 (n, size, size, 4), cached in the work folder under a key of the list."""
    names = "\n".join(drawing.name + drawing.icon for drawing in drawings)
    key = hashlib.sha256(names.encode()).hexdigest()[:12]
    path = work / f"cutouts-{key}.npy"
    if not path.exists():
        stack = np.stack([np.asarray(render(modules, drawing)) for drawing in drawings])
        np.save(path, stack)
    return np.load(path, mmap_mode="r")
