"""Pictures that tests draw, as a training takes them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from spectra.training.data.latents import Entry
from spectra.training.data.pictures import FittedPicture, Picture


def as_they_are(pictures: Sequence[Image.Image]) -> list[FittedPicture]:
    """Each picture in its own size."""
    return [FittedPicture(Picture.checked(each), each.size) for each in pictures]


def in_turn(prompts: Sequence[str]) -> list[Entry]:
    """A round in which each picture comes once, with the prompt of its number."""
    return [Entry(number, prompt) for number, prompt in enumerate(prompts)]
