"""Reading pictures strictly: every file of a folder that claims to be a picture is one, or the folder is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spectra.errors import PictureError
from spectra.training.data.reading import SUFFIXES, read_picture


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
        raise PictureError(f"{folder}: no pictures in it; expected files ending in {', '.join(sorted(SUFFIXES))}")
    return [read_picture(path) for path in found]


def fit(picture: Image.Image, size: int) -> Image.Image:
    """A square of `size` pixels: the shorter side resized to it, the longer one cropped at both ends."""
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as float32 `[n, 3, height, width]` in [-1, 1], as a VAE takes them."""
    array = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
