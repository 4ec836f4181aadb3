"""Everything that a training is given, checked before anything slow begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from spectra.bases.pipeline import BaseLocation, find_base
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.training.config import TrainConfig
from spectra.training.data.class_pictures import read_class_pictures
from spectra.training.data.subjects import Subject, default_name, fill_in_subjects, pictures_digest, read_subjects
from spectra.training.run.outputs import Outputs
from spectra.training.run.report import check_tensorboard
from spectra.training.run.state import SavedState, check_resumable, read_state


@dataclass(frozen=True)
class ValidatedInputs:
    """What is known once every input has been checked and before anything slow has begun."""

    config: TrainConfig
    outputs: Outputs
    base: BaseLocation
    subjects: tuple[Subject, ...]
    class_pictures: tuple[Image.Image, ...]
    saved: SavedState | None
    init: SpectralShift | None


def validate_inputs(
    config: TrainConfig, out: Path | None, *, resume: bool = False, force: bool = False
) -> ValidatedInputs:
    """Check everything that a training is given; loads no model, and writes nothing.

    Raises:
        SpectraError: of the kind that fits, with the first thing found wrong.
    """
    config = fill_in_subjects(config)
    outputs = Outputs(out or Path("out") / default_name(config))
    outputs.check(force=force, resume=resume)
    base = find_base(config.base)
    check_tensorboard(config.tensorboard)
    subjects = read_subjects(config)
    own: tuple[Image.Image, ...] = ()
    if config.class_images and config.prior_weight > 0:
        own = tuple(read_class_pictures(Path(config.class_images)))
    saved = None
    if resume:
        saved = read_state(outputs.find_state())
        check_resumable(saved, config, pictures_digest(subjects))
    init = read_shift(Path(config.init_shift)) if config.init_shift else None
    return ValidatedInputs(config, outputs, base, subjects, own, saved, init)
