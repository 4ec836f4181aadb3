"""Everything that a training is given, checked before anything slow begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

from spectra.bases.pipeline import BaseLocation, find_base
from spectra.bases.quantisation import parse_quantisation
from spectra.errors import BaseError, InputError, Mistakes, OutputError
from spectra.families.family import Family
from spectra.generation.prompt_words import has_word
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.shift.trajectory import find_shift
from spectra.training.config import TrainConfig
from spectra.training.data.folders import read_folder
from spectra.training.data.pictures import Picture
from spectra.training.data.prompts import rare_word
from spectra.training.data.subjects import Subject, fill_in_subjects, read_subjects, special_word_of
from spectra.training.run.concepts import CONCEPT_SETTINGS, ConceptSpec
from spectra.training.run.contents import Contents
from spectra.training.run.optimizer import ONE_CONCEPT, check_optimizer
from spectra.training.run.outputs import EARLIER_STATE, Outputs
from spectra.training.run.state import SavedState, check_resumable, read_state
from spectra.training.run.trackers import check_trackers


@dataclass(frozen=True)
class ValidatedInputs:
    """One concept's inputs, every one of them read and found right.

    The configuration has its prompts filled in, `class_pictures` are the user's own, `saved` is the state to continue,
    and `init` the shift to start from.
    """

    name: str
    config: TrainConfig
    outputs: Outputs
    base: BaseLocation
    subjects: tuple[Subject, ...]
    class_pictures: tuple[Picture, ...]
    saved: SavedState | None
    init: SpectralShift | None

    @property
    def contents(self) -> Contents:
        """What lies at the paths that were given, by which a resumed training knows it again."""
        return Contents.of(self.subjects, self.class_pictures, self.init)


def validate_inputs(concept: ConceptSpec, *, resume: bool = False, force: bool = False) -> ValidatedInputs:
    """Check everything that a training of a concept is given; loads no model, and writes nothing.

    Raises:
        SpectraError: of the kind that fits, with everything that was found wrong.
    """
    mistakes = Mistakes()
    config, subjects, found = concept.config, (), {}  # type: TrainConfig, tuple[Subject, ...], dict[str, Any]
    with mistakes.noted():
        config = fill_in_subjects(config)
        subjects = read_subjects(config)
    name = "-and-".join(subject.name.replace(" ", "-") for subject in subjects)
    outputs = Outputs(concept.out or Path("out") / (name or "subject"))
    with mistakes.noted():
        if subjects or concept.out:
            outputs.check(force=force, resume=resume)
    with mistakes.noted():
        found["base"] = find_base(config.base, config.components_from, config.prediction_type)
    with mistakes.noted():
        if quantisation := parse_quantisation(config.quantize):
            quantisation.require()
    with mistakes.noted():
        check_optimizer(config.optimizer)
    with mistakes.noted():
        check_trackers(config)
    with mistakes.noted():
        own = config.class_images and config.prior_weight > 0
        found["class_pictures"] = _class_pictures(config, subjects) if own else ()
    for subject in subjects if config.word else ():
        with mistakes.noted():
            rare_word(subject.prompt, subject.class_prompt)
    with mistakes.noted():
        found["init"] = read_shift(find_shift(config.init_shift)) if config.init_shift else None
    mistakes.tell()
    saved = None
    if resume:
        saved = read_state(outputs.find_state())
        contents = Contents.of(subjects, found["class_pictures"], found["init"])
        check_resumable(saved, config, contents, finished=saved.path.parent != outputs.unfinished)
    return ValidatedInputs(name=concept.name, config=config, outputs=outputs, subjects=subjects, saved=saved, **found)


def _class_pictures(config: TrainConfig, subjects: Sequence[Subject]) -> tuple[Picture, ...]:
    """The user's own class pictures, each with its caption if captions are asked for.

    Raises:
        PictureError: one of them cannot be read.
        InputError: a caption has the special word.
    """
    found = read_folder(Path(config.class_images), captions=config.captions).pictures
    words = [word for each in subjects if (word := special_word_of(each))]
    for picture in found:
        for word in words:
            if has_word(picture.caption, word):
                raise InputError(
                    f"class picture {picture.name}: its caption has the special word {word!r}, which is for the "
                    "subject alone; take it out, or leave captions alone with --no-captions"
                )
    return found


def check_together(concepts: Sequence[ValidatedInputs]) -> None:
    """Check that concepts can train together: the same common settings, and folders that do not touch.

    Raises:
        InputError: common settings differ, or allow one concept only.
        OutputError: two concepts would write into one folder.
    """
    if len(concepts) == 1:
        return
    first = concepts[0].config
    for each in concepts:
        for name, value in each.config.as_dict().items():
            if name not in CONCEPT_SETTINGS and value != first.as_dict()[name]:
                raise InputError(f"{each.name}: {name} is common to all concepts, got {value!r} for this one alone")
    if first.mixed_precision == "fp16":
        raise InputError(
            "mixed precision fp16 scales one loss, and would skip the steps of all concepts when one overflows; "
            "use bf16 or no"
        )
    if first.optimizer in ONE_CONCEPT:
        raise InputError(
            f"optimizer {first.optimizer} trains one concept at a time, got {len(concepts)}; use adamw or "
            "adamwschedulefree"
        )
    if first.low_memory:
        raise InputError(f"low memory trains one concept at a time, got {len(concepts)}; leave low_memory out")
    if first.tune:
        raise InputError(f"tune measures one concept at a time, got {len(concepts)}; leave tune out")
    for one, other in combinations(concepts, 2):
        folders = [(each.outputs.folder.resolve(), each.outputs.unfinished.resolve()) for each in (one, other)]
        for mine, theirs in product(*folders):
            if mine.is_relative_to(theirs) or theirs.is_relative_to(mine):
                raise OutputError(
                    f"{one.name} and {other.name} would both write into {mine}; give each a folder of its own"
                )


def at_one_step(concepts: Sequence[ValidatedInputs]) -> list[ValidatedInputs]:
    """The concepts, with the states before the newest where a kill came while those of all were replaced."""
    steps = [each.saved.progress["step"] for each in concepts if each.saved is not None]
    found = []
    for each in concepts:
        earlier = each.saved
        if each.saved is not None and each.saved.progress["step"] > min(steps):
            path = each.saved.path.with_name(EARLIER_STATE)
            earlier = read_state(path) if path.is_file() else each.saved
        found.append(replace(each, saved=earlier))
    return found


def resolution_of(family: Family, pipe: Any, config: TrainConfig) -> int:
    """Pixels of the training pictures' side.

    Raises:
        BaseError: a resolution that the base cannot take.
    """
    step = family.resolution_step(pipe)
    if not config.resolution:
        return family.native_resolution(pipe)
    if config.resolution % step:
        raise BaseError(f"resolution: this base takes multiples of {step} pixels, got {config.resolution}")
    return config.resolution
