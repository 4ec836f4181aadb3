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
ICON_SETS = {  # icon set -> licence; `fluent-emoji` repeats the geometry of `fluent-emoji-flat` and is left out
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
    """An icon set's drawing of one concept."""

    concept: str
    icon_set: str
    icon: str
    tags: tuple[str, ...]
    held_out: bool = False

    @property
    def name(self) -> str:
        return f"{self.concept.replace(' ', '-')}-{self.icon_set}"


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
    """The chosen concepts of concepts.txt, in file order."""
    concepts = []
    for line in (HERE / "concepts.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, label, synonyms, fxemoji = (part.strip() for part in line.split("|"))
            words = tuple(word.strip() for word in synonyms.split(",") if word.strip())
            concepts.append(Concept(name, label or name, words, fxemoji))
    return concepts


@cache
def read_icon_set(modules: Path, icon_set: str) -> dict:
    return json.loads((modules / "@iconify-json" / icon_set / "icons.json").read_text())


@cache
def code_points(modules: Path, icon_set: str) -> dict[str, str]:
    path = modules / "@iconify-json" / icon_set / "chars.json"
    return json.loads(path.read_text()) if path.exists() else {}


def find_icon(modules: Path, icon_set: str, concept: Concept, hexcode: str) -> str | None:
    """The icon's name in an icon set, aliases resolved, or None where the set has no drawing of the concept."""
    icons, aliases = read_icon_set(modules, icon_set)["icons"], read_icon_set(modules, icon_set).get("aliases", {})
    code = hexcode.lower().replace("-fe0f", "")
    chars = code_points(modules, icon_set)
    plain, label = slug(concept.name), slug(concept.label)
    names = [chars.get(code), chars.get(f"{code}-fe0f"), label]
    if icon_set == "fxemoji":
        names = [concept.fxemoji] if concept.fxemoji else [label.replace("-", ""), plain.replace("-", "")]
    if icon_set in ("noto-v1", "emojione"):
        names += [f"{label}-face"]
    for name in names:
        if name in aliases:
            name = aliases[name]["parent"]
        if name in icons:
            return name
    return None


def join(modules: Path, held_out: set[str]) -> list[Drawing]:
    """Every drawing of every concept; `held_out` holds the names (`concept-icon set`) of the subjects."""
    table = json.loads((modules / "emojibase-data" / "en" / "data.json").read_text())
    by_label = {entry["label"]: entry for entry in table}
    drawings = []
    for concept in read_concepts():
        entry = by_label[concept.label]
        for icon_set in ICON_SETS:
            icon = find_icon(modules, icon_set, concept, entry["hexcode"])
            if icon is not None:
                drawing = Drawing(concept.name, icon_set, icon, tuple(entry.get("tags", ())))
                drawings.append(Drawing(**{**asdict(drawing), "held_out": drawing.name in held_out}))
    return drawings


def render(modules: Path, drawing: Drawing, size: int = RENDER_SIZE) -> Image.Image:
    """An RGBA cut-out of a drawing, square, `size` pixels wide."""
    import resvg_py

    icons = read_icon_set(modules, drawing.icon_set)
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
