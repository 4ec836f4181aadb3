"""What an edit is asked to do: which picture and prompts, how it is learnt, and which variants are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from spectra.bases.embedded import NAME
from spectra.bases.prediction import PREDICTION_TYPE
from spectra.bases.single_file import COMPONENTS_FROM
from spectra.errors import InputError
from spectra.settings import (
    LARGEST_SEED,
    REQUIRED,
    SHARE,
    Setting,
    check_ranges,
    check_types,
    declared_settings,
    embedded_defaults,
    setting,
)
from spectra.training.config import TrainConfig, make_config

TUNING: dict[str, Any] = {
    "preset": "svdiff",
    "prior_weight": 0.0,
    "prior_unconditional": 0.0,
    "keep_prompts": 0.0,
    "prior_follow": 0.0,
    "word": False,
    "validation_count": 0,
    "captions": False,
    "crop": "square",
}
"""What one picture with its own caption asks of a training: no class, and nothing drawn before and after. A picture has
no special word, and a diagonal leaves the rest of it where it is."""

TUNING_EMBEDDED: dict[str, Any] = {"steps": 60, "lr": 1e-2, "lr_1d": 3e-3, "text_encoder": False}
"""What differs for the embedded base. The text encoder stays frozen, or it reads past what the edit says."""

TRAINING_OPTIONS = {"train_steps": "steps"} | {
    name: name
    for name in ("lr", "lr_1d", "targets", "text_encoder", "resolution", "mixed_precision", "gradient_checkpointing")
}
"""Settings of the training that `spectra edit` has options for, by the option's name."""

_LEARNING = "Learning the picture"
_drawing = partial(setting, panel="Drawing; an option that is repeated draws every combination")


def training_settings() -> dict[str, Setting]:
    """The settings of `TRAINING_OPTIONS`, with the defaults that an edit has for them."""
    known = declared_settings(TrainConfig)
    return {
        option: replace(
            known[name],
            panel=_LEARNING,
            brief="",
            default=TUNING.get(name, known[name].default),
            embedded=TUNING_EMBEDDED.get(name, known[name].embedded),
            default_text="" if name in TUNING_EMBEDDED else known[name].default_text,
        )
        for option, name in TRAINING_OPTIONS.items()
    }


@dataclass(frozen=True)
class Variant:
    """One way to draw an edit.

    Attributes:
        scale: of the shift.
        guidance: guidance scale.
        eta: noise of each step, from 0 (DDIM) to 1 (DDPM).
        noise_mix: from 0, the picture's own noise, to 1, fresh noise: no inversion.
        seed: of all fresh noise; decides nothing where there is none.
        keep: from 0, the edit as it is drawn, to 1, nothing of it: a place that it asks to change by less than this, of
            the change where that is largest, shows the unedited picture.
    """

    scale: float
    guidance: float
    eta: float
    noise_mix: float
    seed: int
    keep: float = 0.0

    def differences(self, others: Sequence[Variant]) -> str:
        """The values that are not the same in all of `others`, in words."""
        words = {
            name: getattr(self, name) for name in vars(self) if len({getattr(other, name) for other in others}) > 1
        }
        return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in words.items())


@dataclass(frozen=True)
class EditSettings:
    """One picture and its edits: every combination of what has several values is drawn."""

    image: Path = setting(REQUIRED, "The picture; it is cropped to a square of the base's size.", positional=True)
    caption: str = setting(REQUIRED, "What the picture shows.")
    edits: tuple[str, ...] = setting(
        REQUIRED, "What the picture should show instead, as a whole prompt; repeatable.", option="--edit"
    )
    base: str = setting(
        "", "Base model: a diffusers folder, a .safetensors checkpoint or a hub id.", default_text="embedded"
    )
    components_from: str = setting(**COMPONENTS_FROM)
    prediction_type: str = setting(**PREDICTION_TYPE)
    shift: Path | None = setting(
        None, "Shift file that was learnt from the picture before; nothing is trained.", panel=_LEARNING, metavar="FILE"
    )
    training: dict[str, Any] = field(default_factory=dict)
    scales: tuple[float, ...] = _drawing((1.0,), "Scale of the shift.", option="--scale")
    guidances: tuple[float, ...] = _drawing((3.0,), "Guidance scale.", option="--guidance", least=1, embedded=(1.25,))
    etas: tuple[float, ...] = _drawing(
        (0.0,), "Fresh noise in each step: from 0 (DDIM) to 1 (DDPM).", option="--eta", **SHARE
    )
    noise_mixes: tuple[float, ...] = _drawing(
        (0.0,),
        "Fresh noise in the noise that drawing begins with: from 0, the picture's own by inversion, to 1, fresh alone.",
        option="--noise-mix",
        **SHARE,
    )
    seeds: tuple[int, ...] = _drawing(
        (0,), "Seed of fresh noise; the first is the training's too.", option="--seed", most=LARGEST_SEED
    )
    keeps: tuple[float, ...] = _drawing(
        (0.0,),
        "The unedited picture stays where an edit asks for less than this share of its largest change; 0 for edits of "
        "shapes or of the whole picture.",
        option="--keep",
        embedded=(0.45,),
        **SHARE,
    )
    anchor: str = _drawing(
        "edit",
        "Prompt of the inversion: that of the edit, as in the paper, and guidance leads away from the empty prompt; or "
        "the caption, and guidance leads away from that.",
        choices=("edit", "caption"),
        embedded="caption",
    )
    steps: int = _drawing(50, "DDIM steps of inversions and of drawing.", least=1, most=1000, embedded=25)
    batch: int = _drawing(8, "Number of pictures drawn at once.", least=1)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: a number out of range, no caption, or nothing to draw.
        """
        for name, text in (("caption", self.caption), *(("edit", edit) for edit in self.edits)):
            if not text.strip():
                raise InputError(f'{name}: expected a prompt such as "a photo of a cat", got nothing')
        if not self.edits:
            raise InputError("nothing to draw: give --edit, the prompt of what the picture should show instead")
        check_ranges(self)

    @property
    def variants(self) -> list[Variant]:
        """Every combination; one seed is enough where nothing is random."""
        return [
            Variant(scale, guidance, eta, mix, seed, keep)
            for scale, guidance, eta, mix in product(self.scales, self.guidances, self.etas, self.noise_mixes)
            for seed in (self.seeds if eta or mix else self.seeds[:1])
            for keep in self.keeps
        ]

    @property
    def config(self) -> TrainConfig:
        """The settings of the training.

        Raises:
            InputError: an unknown setting, or a value out of range.
        """
        own = TUNING | ({} if self.base else TUNING_EMBEDDED)
        loading = {"components_from": self.components_from, "prediction_type": self.prediction_type}
        given = {**loading, "base": self.base, "images": str(self.image), "prompt": self.caption}
        return make_config(own | self.training | given, source="edit")


DRAWING_EMBEDDED: dict[str, Any] = embedded_defaults(EditSettings)
"""Defaults of drawing that are others for the embedded base."""


def make_edit_settings(*, training: Mapping[str, Any] | None = None, **given: Any) -> EditSettings:
    """Settings from plain values on top of the defaults for their base, those of `TRAINING_OPTIONS` among them.

    Args:
        training: further settings of the training, by the names that it has for them.

    Raises:
        InputError: an unknown or missing setting, or a value of the wrong type or out of range.
    """
    known = declared_settings(EditSettings) | training_settings()
    values = check_types(known, given, "edit")
    if missing := [name for name, each in known.items() if each.default is REQUIRED and name not in values]:
        raise InputError(
            f"edit: expected {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing"
        )
    learnt = {name: values.pop(option) for option, name in TRAINING_OPTIONS.items() if option in values}
    if values.get("shift") is not None and learnt.keys() - {"resolution"}:
        raise InputError(f"--shift trains nothing: leave out the setting of {', '.join(learnt)}")
    if "seeds" in values:
        learnt["seed"] = values["seeds"][0]
    base = "" if values.get("base") == NAME else values.get("base", "")
    own = {} if base else DRAWING_EMBEDDED
    return EditSettings(**(own | values | {"base": base, "training": learnt | dict(training or {})}))
