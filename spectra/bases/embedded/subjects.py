"""The 24 drawings held out of the base's training, and their instance pictures.

A subject is an icon set's drawing of a concept that the base knows from at least four other sets. The cut-outs lie
beside this file (RGBA, 192 px); instance pictures vary background, scale, rotation and place, by seed alone.
Needs Pillow and numpy only.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from spectra.errors import InputError

CUTOUTS = Path(__file__).with_name("subjects")

DEFAULT_SUBJECT = "fox"
"""The subject that a bare `spectra train` learns."""

# Pale tints of distinct hue: no two pictures of a subject share a background, so that none becomes part of it; and
# near white, which is what a prompt without a background means to the base. With stronger colours, which the instance
# prompt does not name, a shift learns their mean, and guidance makes pink of it.
BACKGROUNDS = ("#ffffff", "#f4f8fd", "#fdf8f0", "#f4fbf4", "#fcf5f9", "#f7f5fc", "#f7f7f7", "#fdfcf1")
# Backgrounds that the base knows by name: "a drawing of a fox on a blue background".
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "grey": (150, 150, 155),
    "black": (20, 20, 24),
    "red": (215, 45, 45),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 80),
    "green": (80, 175, 85),
    "blue": (65, 125, 220),
    "purple": (140, 85, 190),
    "pink": (245, 165, 195),
    "brown": (130, 90, 60),
}
ASKED_COLOURS = ("red", "yellow", "green", "blue")
"""Those that a prompt is tried with, to see whether it is followed."""

BORDER = 3
"""Width of the border whose colour is judged, in pixels of 64."""

_LICENCES = {"noto": "Apache-2.0", "noto-v1": "Apache-2.0", "fxemoji": "Apache-2.0"}
TOKEN = "[V1]"  # a word of the base's tokenizer that was never trained


@dataclass(frozen=True)
class EmbeddedSubject:
    """A held-out drawing: `prompt` names it by a token of its own, `class_prompt` names only its class."""

    name: str
    concept: str
    icon_set: str
    licence: str
    prompt: str
    class_prompt: str


def _make(concept: str, icon_set: str) -> EmbeddedSubject:
    article = "an" if concept[0] in "aeiou" and concept != "unicorn" else "a"
    return EmbeddedSubject(
        name=f"{concept.replace(' ', '-')}-{icon_set}",
        concept=concept,
        icon_set=icon_set,
        licence=_LICENCES.get(icon_set, "CC-BY-4.0"),
        prompt=f"a drawing of a {TOKEN} {concept}",
        class_prompt=f"a drawing of {article} {concept}",
    )


# Near classes among them: dog and cat, fox and wolf, lion and tiger, apple and tomato, car, taxi and bus.
SUBJECTS: tuple[EmbeddedSubject, ...] = tuple(
    _make(concept, icon_set)
    for concept, icon_set in (
        ("dog", "emojione"),
        ("cat", "emojione"),
        ("fox", "noto-v1"),
        ("wolf", "emojione"),
        ("lion", "twemoji"),
        ("tiger", "noto-v1"),
        ("owl", "emojione"),
        ("elephant", "noto-v1"),
        ("whale", "noto"),
        ("unicorn", "noto"),
        ("apple", "fxemoji"),
        ("tomato", "noto-v1"),
        ("mushroom", "emojione"),
        ("ice cream", "emojione"),
        ("fried egg", "noto-v1"),
        ("car", "noto-v1"),
        ("taxi", "fxemoji"),
        ("bus", "twemoji"),
        ("sailboat", "noto"),
        ("helicopter", "fxemoji"),
        ("door", "fxemoji"),
        ("telephone", "fxemoji"),
        ("backpack", "twemoji"),
        ("key", "twemoji"),
    )
)


def find_subject(name: str) -> EmbeddedSubject:
    """The embedded subject called `name`, or the one that shows it ("fox" for "fox-noto-v1").

    Raises:
        InputError: there is none, or more than one.
    """
    for found in ([s for s in SUBJECTS if s.name == name], [s for s in SUBJECTS if s.concept == name]):
        if len(found) == 1:
            return found[0]
    raise InputError(f"unknown subject {name!r}; the embedded ones are {', '.join(s.name for s in SUBJECTS)}")


def cutout(subject: EmbeddedSubject) -> Image.Image:
    """The subject's drawing as it was made: RGBA, 192 x 192, transparent around it."""
    with Image.open(CUTOUTS / f"{subject.name}.png") as image:
        return image.convert("RGBA")


def instance_pictures(subject: EmbeddedSubject, count: int = 5, size: int = 64, seed: int = 0) -> list[Image.Image]:
    """`count` RGB pictures of the subject, `size` x `size` pixels; the same arguments give the same pictures.

    The first is upright, centred and on white; the others are scaled to .86-.94, turned by up to 4 degrees and shifted
    by up to 2 pixels of 64, each on another background. That is about what the small base has seen of any drawing; of
    wider variety it learns the mean, and none is mirrored, since from both sides at once it learns a picture of
    neither. Raises ValueError for a count or size below 1.
    """
    if count < 1 or size < 1:
        raise ValueError(f"count and size must be at least 1, got count={count} and size={size}")
    rng = np.random.default_rng([seed, zlib.crc32(subject.name.encode())])
    drawing = cutout(subject)
    colours = [0, *(1 + rng.permutation(len(BACKGROUNDS) - 1))]
    pictures = []
    for index in range(count):
        colour = BACKGROUNDS[colours[index % len(colours)]]
        placement = rng.uniform(0.86, 0.94), rng.uniform(-4, 4), list(rng.uniform(-2, 2, 2) * size / 64)
        pictures.append(_place(drawing, colour, size, *placement) if index else _place(drawing, colour, size))
    return pictures


def plain_picture(subject: EmbeddedSubject, colour: str = "white") -> Image.Image:
    """The drawing upright and centred on a ground of one of `COLOURS`: RGB, 64 x 64 pixels."""
    return _place(cutout(subject), COLOURS[colour], 64)


def has_border(picture: Image.Image, colour: str) -> bool:
    """Whether most of the border is nearest to that colour, of all that the base knows by name."""
    pixels = np.asarray(picture.resize((64, 64)), np.float64)
    edge = np.ones(pixels.shape[:2], bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    distances = np.square(pixels[edge][:, None] - np.array(list(COLOURS.values()))).sum(-1)
    return bool((distances.argmin(1) == list(COLOURS).index(colour)).mean() > 0.5)


def silhouette(subject: EmbeddedSubject, size: int = 64) -> Image.Image:
    """Where the drawing is in its `plain_picture`: white there, black around it, in mode L."""
    drawing = cutout(subject)
    white = Image.new("RGBA", drawing.size, "white")
    white.putalpha(drawing.getchannel("A"))
    return _place(white, (0, 0, 0), size).convert("L")


def _place(
    drawing: Image.Image,
    colour: str | tuple[int, int, int],
    size: int,
    scale: float = 0.9,
    angle: float = 0.0,
    shift: Sequence[float] = (0.0, 0.0),
) -> Image.Image:
    """The drawing on a plain ground, `shift` pixels from the middle."""
    turned = drawing.convert("RGBa")  # premultiplied: no dark fringe where the edge is blended
    side = max(1, round(scale * size))
    wide = Image.new("RGBA", (turned.width * 5 // 4, turned.height * 5 // 4))  # room for the corners that turn out
    wide.paste(turned.convert("RGBA"), (turned.width // 8, turned.height // 8))
    turned = wide.rotate(angle, Image.Resampling.BICUBIC).convert("RGBa")
    outer = max(1, round(side * 5 / 4))
    turned = turned.resize((outer, outer), Image.Resampling.LANCZOS).convert("RGBA")
    corner = (size - outer) / 2
    picture = Image.new("RGB", (size, size), colour)
    picture.paste(turned, (round(corner + shift[0]), round(corner + shift[1])), turned)
    return picture
