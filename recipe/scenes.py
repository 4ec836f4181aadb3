"""Training scenes: one or two cut-outs on a plain background, with what the caption has to say about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from spectra.bases.embedded.subjects import COLOURS

SIZE = 64
# Little is varied on purpose: wide shifts, scales and mirroring cost a small UNet most of its steps, and where half of
# the drawings are mirrored, pictures are both at once for long.
FLIPPED, COLOURED, PAIRS = 0.0, 0.35, 0.06


@dataclass(frozen=True)
class Scene:
    """What is seen: drawings (indices into the data list) from left to right, and the background's colour name.

    `background` is None where the background is white without being named.
    """

    drawings: tuple[int, ...]
    background: str | None


def paste(canvas: Image.Image, cutout: Image.Image, size: float, centre: tuple[float, float], flip: bool) -> None:
    """Pastes an RGBA cut-out, scaled to `size` pixels, onto an RGB canvas; alpha is premultiplied when scaling."""
    side = max(8, round(size))
    small = cutout.convert("RGBa").resize((side, side), Image.Resampling.BOX if side < 40 else Image.Resampling.LANCZOS)
    small = small.convert("RGBA")
    if flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas.paste(small, (round(centre[0] - side / 2), round(centre[1] - side / 2)), small)


def jittered(colour: tuple[int, int, int], rng: np.random.Generator, amount: float = 12) -> tuple[int, ...]:
    return tuple(int(np.clip(channel + rng.normal(0, amount), 0, 255)) for channel in colour)


def draw_scene(scene: Scene, cutouts: np.ndarray, rng: np.random.Generator, steady: bool = False) -> np.ndarray:
    """A scene as uint8 (64, 64, 3); `steady` leaves out shift, flip and scale (for class means)."""
    colour = COLOURS[scene.background] if scene.background else COLOURS["white"]
    if scene.background and scene.background != "white":
        colour = jittered(colour, rng)
    canvas = Image.new("RGB", (SIZE, SIZE), colour)
    for place, index in enumerate(scene.drawings):
        cutout = Image.fromarray(cutouts[index])
        flip = bool(rng.random() < FLIPPED) and not steady
        if len(scene.drawings) == 1:
            scale = 0.9 if steady else rng.uniform(0.86, 0.94)
            centre = SIZE / 2 + (np.zeros(2) if steady else rng.uniform(-1, 1, 2))
            paste(canvas, cutout, scale * SIZE, (centre[0], centre[1]), flip)
        else:
            shift = rng.uniform(-1, 1, 2)
            centre = (SIZE * (0.26 + 0.48 * place) + shift[0], SIZE / 2 + 4 * shift[1])
            paste(canvas, cutout, rng.uniform(0.45, 0.5) * SIZE, centre, flip)
    return np.asarray(canvas)


def choose_scene(index: int, others: np.ndarray, rng: np.random.Generator, pairs: float = PAIRS) -> Scene:
    """A random scene about one drawing: most on white, some on a named colour, a few with a second drawing."""
    drawings: tuple[int, ...] = (index,)
    if rng.random() < pairs:
        both = [index, int(rng.choice(others))]
        drawings = tuple(int(i) for i in rng.permutation(both))
    background = str(rng.choice(list(COLOURS))) if rng.random() < COLOURED else None
    return Scene(drawings, background)
