"""What a training was given by paths, by which it is known again when it is resumed: a path may be written anyhow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import InputError
from spectra.settings import declared_settings
from spectra.shift.shift import SpectralShift
from spectra.training.config import TrainConfig
from spectra.training.data.pictures import ALPHA, Picture
from spectra.training.data.subjects import Subject, is_there, pictures_digest, split_subject

PATHS = tuple(name for name, each in declared_settings(TrainConfig).items() if each.path)
"""Settings that are paths: on resuming, what lies there counts, not how they are written."""


@dataclass(frozen=True)
class Contents:
    """Hashes of what lies at the paths that a training was given; its base has a fingerprint of its own.

    Attributes:
        pictures: of the instance pictures with masks, prompts and repeats.
        class_pictures: of the user's own with their captions; empty for none.
        init: of the shift that it began with; empty for none.
    """

    pictures: str
    class_pictures: str
    init: str

    @classmethod
    def of(cls, subjects: Sequence[Subject], class_pictures: Sequence[Picture], init: SpectralShift | None) -> Contents:
        """Of what was read."""
        classes = " ".join(f"{each.digest} {each.caption}".strip() for each in class_pictures)
        return cls(pictures_digest(subjects), classes, init.metadata.content_hash if init is not None else "")

    def check(self, saved: Contents) -> None:
        """Check that these are those that a training began with.

        Raises:
            InputError: one of them is another.
        """
        if self.pictures != saved.pictures:
            raise InputError(
                "cannot resume: the instance pictures are not those that the training began with, or have other "
                "captions, masks or repeats"
            )
        if self.class_pictures != saved.class_pictures:
            raise InputError(
                "cannot resume: the class pictures are not those that the training began with, or have other captions"
            )
        if self.init != saved.init:
            raise InputError("cannot resume: the shift to start from is not the one that the training began with")


def found_again(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Saved settings with the paths that lead nowhere from here, but did from the folder where the training began."""
    moved = {
        name: str(folder / values[name])
        for name in PATHS
        if values.get(name) and not is_there(Path(values[name])) and is_there(folder / values[name])
    }
    subjects = [
        each if is_there(Path(place)) or not is_there(folder / place) else f"{folder / place}={prompt}"
        for each in values.get("subjects", ())
        for place, prompt in [split_subject(each)]
    ]
    return {**values, **moved, "subjects": subjects}


def apart_from_paths(config: TrainConfig) -> dict[str, Any]:
    """The settings as they are compared: of a path only whether it was given."""
    values = config.as_dict()
    values |= {name: bool(values[name]) for name in PATHS if values[name] != ALPHA}
    return values | {"subjects": [split_subject(each)[1] for each in config.subjects]}
