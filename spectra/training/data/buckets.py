"""Sizes that pictures are learnt in: one square, or buckets of about its area for other aspect ratios."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from spectra.errors import PictureWarning
from spectra.training.data.folders import listed
from spectra.training.data.pictures import FittedPicture, Picture, Size

MOST_ASPECT = 2.0
"""No bucket is longer than so many times its width: models have seen few such pictures."""

AREA = 0.1
"""A bucket's area differs from the square's by this share at most."""

STEPS = 16
"""A bucket's sides are multiples of about this part of the square's: finer buckets would have a picture each."""


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """The square of `resolution` pixels, then buckets of about its area, with sides that are multiples of `step`."""
    step *= max(1, round(resolution / STEPS / step))
    found: dict[Size, None] = {(resolution, resolution): None}
    for short in range(resolution // step * step, 0, -step):
        below = int(resolution**2 / short / step) * step
        for long in (below, below + step):
            if short < long <= MOST_ASPECT * short and abs(long * short / resolution**2 - 1) <= AREA:
                found |= dict.fromkeys([(long, short), (short, long)])
    return list(found)


def nearest_size(size: Size, sizes: Sequence[Size]) -> Size:
    """The one of `sizes` of which the aspect ratio is nearest to that of `size`: the least is cut off."""

    def distance(bucket: Size) -> float:
        return abs(math.log(bucket[0] * size[1] / (bucket[1] * size[0])))

    return min(sizes, key=distance)


def fit_pictures(
    pictures: Sequence[Picture], resolution: int, step: int, *, square: bool = False, flip: bool = False
) -> list[FittedPicture]:
    """The pictures in the sizes that they are learnt in; with `flip` each of them mirrored, too, after all others.

    Args:
        resolution: side of a square picture in pixels.
        step: pixels of which sides are multiples.
        square: cut every picture to a square.
    """
    sizes = bucket_sizes(resolution, step)[: 1 if square else None]
    fitted = [FittedPicture(each, nearest_size(each.size, sizes)) for each in pictures]
    return fitted + [FittedPicture(each.picture, each.size, mirrored=True) for each in fitted if flip]


def warn_of_enlarged(pictures: Sequence[FittedPicture]) -> None:
    """Name the pictures that are smaller than they are learnt in, by a PictureWarning."""
    small = [each for each in pictures if each.enlarged > 1 and not each.mirrored]
    if small:
        named = [f"{each.picture.name} ({each.picture.size[0]} x {each.picture.size[1]})" for each in small]
        most = max(each.enlarged for each in small)
        warnings.warn(
            f"smaller than they are learnt, and enlarged by up to {most:.1f} times: {listed(named)}",
            PictureWarning,
            stacklevel=2,
        )
