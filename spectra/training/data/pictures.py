"""Pictures as a training takes them: read anew whenever they are needed and forgotten, and cut to size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spectra.errors import PictureError
from spectra.training.data.reading import read_picture, read_with_alpha

ALPHA = "alpha"
"""In place of a mask's file: the picture's own opacity."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Picture:
    """A picture that was read once and found right. Its pixels are not kept: many photographs would fill the memory.

    Attributes:
        source: its file, or the picture itself where it was drawn here.
        size: of the upright picture.
        digest: hash of its pixels, and of its mask's, 16 hex digits.
        caption: its own; empty for none.
        repeats: how often it comes in a round of all pictures.
        mask: file that shows what of the picture counts in the loss, white for all; `ALPHA`; empty for the whole.
    """

    source: Path | Image.Image
    size: Size
    digest: str
    caption: str = ""
    repeats: int = 1
    mask: str = ""

    @classmethod
    def checked(cls, source: Path | Image.Image, *, caption: str = "", repeats: int = 1, mask: str = "") -> Picture:
        """Read a picture to see that it can be; other arguments are attributes.

        An opaque picture counts as a whole where opacity is its mask.

        Raises:
            PictureError: picture or mask cannot be read, the mask is of another shape, or nothing of it is white.
        """
        rgb, weights = _read(source, mask)
        digest = hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes())
        if weights is not None:
            name = mask if mask != ALPHA else f"{source}: its opacity"
            if abs(weights.width * rgb.height - weights.height * rgb.width) > max(*rgb.size, *weights.size):
                raise PictureError(
                    f"{name}: expected the shape of its picture, {rgb.width} x {rgb.height}, got {weights.width} x "
                    f"{weights.height}"
                )
            if weights.getextrema()[1] == 0:
                raise PictureError(f"{name}: the mask is black, so that nothing of the picture counts; remove it")
            digest.update(weights.tobytes())
        return cls(source, rgb.size, digest.hexdigest()[:16], caption, repeats, mask if weights is not None else "")

    @property
    def name(self) -> str:
        """How messages name it."""
        return str(self.source) if isinstance(self.source, Path) else "a drawn picture"

    def read(self) -> Image.Image:
        """The whole picture, in RGB."""
        return _read(self.source, "")[0]


@dataclass(frozen=True)
class FittedPicture:
    """A picture as it is learnt: scaled to cover `size`, what stands over cut off at both ends, perhaps mirrored."""

    picture: Picture
    size: Size
    mirrored: bool = False

    def pixels(self) -> Image.Image:
        """The picture in RGB, read anew."""
        return self._turned(fit(self.picture.read(), self.size))

    def weights(self) -> Image.Image | None:
        """How much each of the pixels counts, in 8-bit grey; None where all count.

        Raises:
            PictureError: nothing counts of what was not cut off.
        """
        if not self.picture.mask:
            return None
        whole = _read(self.picture.source, self.picture.mask)[1]
        weights = fit(whole, self.size) if whole is not None else Image.new("L", self.size)
        if weights.getextrema()[1] == 0:
            raise PictureError(f"{self.picture.name}: nothing of its mask is left once it is cut to size; remove it")
        return self._turned(weights)

    @property
    def enlarged(self) -> float:
        """By how many times the picture is scaled up; less than 1 where it is scaled down."""
        return max(side / own for side, own in zip(self.size, self.picture.size, strict=True))

    def _turned(self, picture: Image.Image) -> Image.Image:
        return ImageOps.mirror(picture) if self.mirrored else picture


def _read(source: Path | Image.Image, mask: str) -> tuple[Image.Image, Image.Image | None]:
    """A picture and its mask in grey; None where there is none."""
    if isinstance(source, Image.Image):
        return source.convert("RGB"), None
    if mask == ALPHA:
        return read_with_alpha(source)
    return read_picture(source), read_picture(Path(mask)).convert("L") if mask else None


def fit(picture: Image.Image, size: Size) -> Image.Image:
    """The picture scaled to cover `size`, and what stands over cut off at both ends."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as float32 `[n, 3, height, width]` in [-1, 1], as a VAE takes them."""
    array = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
