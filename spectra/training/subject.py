"""What a training learns: instance pictures and prompts, from a folder or from the embedded subjects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from spectra.errors import InputError
from spectra.training.config import TrainConfig
from spectra.training.embedded import DEFAULT, find_subject
from spectra.training.pictures import find_pictures, fit, read_picture

INSTANCE_COUNT = 5


@dataclass(frozen=True)
class Subject:
    """Instance pictures as they were read, with where each came from."""

    name: str
    pictures: tuple[Image.Image, ...]
    sources: tuple[str, ...]

    def at(self, size: int) -> list[Image.Image]:
        """The pictures as squares of `size` pixels."""
        return [fit(picture, size) for picture in self.pictures]

    @property
    def digest(self) -> str:
        """Content hash of the pictures, 16 hex digits, by which a resumed training knows them again."""
        whole = hashlib.sha256()
        for picture in self.pictures:
            whole.update(repr(picture.size).encode() + picture.tobytes())
        return whole.hexdigest()[:16]


def settle(config: TrainConfig) -> TrainConfig:
    """The configuration with the subject's prompts filled in: nothing at all means the embedded fox.

    Raises:
        InputError: an unknown embedded subject, no class prompt for prior preservation, or no pictures for a base
            that has no subjects of its own.
    """
    if config.images:
        if config.prior_weight > 0 and not config.class_prompt:
            raise InputError(
                'prior preservation needs --class-prompt, such as "a dog" (or switch it off with --prior-weight 0)'
            )
        return config
    if config.base:
        raise InputError("--base needs --images DIR and --prompt: the embedded subjects are for the embedded base")
    known = find_subject(config.subject or DEFAULT)
    return replace(
        config,
        subject=known.name,
        prompt=config.prompt or known.prompt,
        class_prompt=config.class_prompt or known.class_prompt,
    )


def read_subject(config: TrainConfig) -> Subject:
    """The instance pictures that a settled configuration names, all of them readable.

    Raises:
        PictureError: no pictures, or one that cannot be read.
    """
    if config.images:
        paths = find_pictures(Path(config.images))
        return Subject(default_name(config), tuple(map(read_picture, paths)), tuple(map(str, paths)))
    from spectra.base.subjects import instance_pictures

    known = find_subject(config.subject)
    pictures = instance_pictures(known, count=INSTANCE_COUNT, size=config.resolution or 64, seed=config.seed)
    return Subject(known.concept, tuple(pictures), tuple(f"{known.name}-{i}" for i in range(len(pictures))))


def default_name(config: TrainConfig) -> str:
    """What a settled configuration learns, as the output folder is called where none is given: "fox"."""
    path = Path(config.images).resolve()
    named = path.stem if path.is_file() else path.name
    name = named if config.images else find_subject(config.subject).concept
    return name.replace(" ", "-") or "subject"
