"""Reading pictures strictly: every file of a folder that claims to be a picture is one, or the folder is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from spectra.errors import PictureError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_pictures(folder: Path) -> list[Image.Image]:
    """The pictures of a folder by name, hidden ones left out; a file stands for itself.

    Raises:
        PictureError: no such folder, no picture in it, or one that cannot be read.
    """
    if folder.is_file():
        return [read_picture(folder)]
    if not folder.is_dir():
        raise PictureError(f"{folder}: expected a folder of pictures, or one picture, found nothing")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise PictureError(f"{folder}: no pictures in it; expected files ending in {', '.join(SUFFIXES)}")
    return [read_picture(path) for path in found]


def read_picture(path: Path) -> Image.Image:
    """One picture as RGB, turned upright by its EXIF tag, transparency laid on white.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "not a known kind of picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise PictureError(f"{path}: cannot be read as a picture ({reason}); repair or remove it") from error
    return to_rgb(upright)


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB, with whatever is transparent laid on white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64).clip(0)
        # 16-bit greyscale: Pillow would clip at 255 instead of scaling. Fractions from 0 to 1 are not all black.
        white = 1.0 if picture.mode == "F" and values.max() <= 1 else max(values.max(), 255.0)
        picture = Image.fromarray((values / white * 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return picture.convert("RGB")


def fit(picture: Image.Image, size: int) -> Image.Image:
    """A square of `size` pixels: the shorter side resized to it, the longer one cropped at both ends."""
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as float32 `[n, 3, height, width]` in [-1, 1], as a VAE takes them."""
    array = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
