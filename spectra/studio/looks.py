"""Pictures as a training will see them: cut to size, each under its prompt; asked of the library, shown by the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from spectra.families.known import family_of
from spectra.studio.commands import TrainForm, train_config
from spectra.studio.drawer import Drawer
from spectra.studio.settings import StudioSettings
from spectra.training.data.subjects import fill_in_subjects, learnt_pictures, read_subjects
from spectra.training.run.inputs import resolution_of

_LARGEST = 320
"""Pixels of a picture's longer side on the page."""


@dataclass(frozen=True)
class Look:
    """One picture as it is learnt.

    Attributes:
        file: of the picture.
        caption: its own; empty for none.
        prompt: under which it is learnt.
        key: of what is left of it when it is cut to size (`Drawer.fetch`).
        size: of that, in pixels, and that of the whole picture.
    """

    file: Path
    caption: str
    prompt: str
    key: str
    size: str


def look_at(form: TrainForm, settings: StudioSettings, folders: list[Path], drawer: Drawer) -> list[list[Look]]:
    """The pictures of each subject as the training of a form will see them.

    Raises:
        SpectraError: what is wrong with the form or the pictures.
    """
    config = fill_in_subjects(train_config(form, settings, folders))
    subjects = read_subjects(config)
    pipe = drawer.pipe
    family = family_of(pipe)
    resolution = resolution_of(family, pipe, config)
    fitted = learnt_pictures(replace(config, flip=False), subjects, resolution, family.resolution_step(pipe))
    looks = []
    for subject, own in zip(subjects, fitted, strict=True):
        seen = []
        for each, prompt in zip(own, subject.prompts, strict=True):
            pixels = each.pixels()
            pixels.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
            whole = " x ".join(map(str, each.picture.size))
            size = f"{each.size[0]} x {each.size[1]} of {whole}"
            seen.append(Look(Path(str(each.picture.source)), each.picture.caption, prompt, drawer.keep(pixels), size))
        looks.append(seen)
    return looks
