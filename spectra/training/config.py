"""What a training is asked to do: every setting of `spectra train`, checked, and its defaults for a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.bases.embedded import NAME
from spectra.bases.quantisation import parse_quantisation
from spectra.errors import InputError, Mistakes
from spectra.io.toml_files import read_toml, toml_value
from spectra.settings import check_ranges, check_types, embedded_defaults
from spectra.training.data.prompts import check_template, follow_prompt
from spectra.training.declared_steps import TrainSettings
from spectra.training.form import check_directions, check_outer
from spectra.training.presets import DEFAULT_PRESET, PRESETS

if TYPE_CHECKING:
    from spectra.families.family import Family

MOST_SUBJECTS = 4


@dataclass(frozen=True)
class TrainConfig(TrainSettings):
    """Settings of one training, checked (`defaults` knows those of the embedded base)."""

    def __post_init__(self) -> None:
        """Check every value that can be checked without touching the disk.

        Raises:
            InputError: a value out of range, or settings that exclude each other.
        """
        mistakes = Mistakes()
        for check in (
            lambda: check_ranges(self),
            lambda: check_directions(self.directions),
            lambda: check_outer(self.outer),
            self._check_cost,
            self._check_prior,
            self._check_schedule,
            self._check_given,
        ):
            with mistakes.noted():
                check()
        mistakes.tell()

    def _check_cost(self) -> None:
        if parse_quantisation(self.quantize) is not None:
            self._check_quantised()
        if self.low_memory and (self.directions, self.outer, self.word) != ("all", "0", False):
            raise InputError(
                "low memory keeps both sides of all directions in place of the weights: leave it out, or directions, "
                "outer terms and word, which need less memory by themselves"
            )

    def _check_prior(self) -> None:
        for template in self.follow_prompts:
            follow_prompt(template, "a")
        needs = {
            "prior_unconditional": "without a prompt",
            "keep_prompts": "for other words",
            "prior_follow": "for follow prompts",
        }
        for name, meant in needs.items():
            if self._prior_shares[name] and self.prior_target != "base":
                raise InputError(
                    f'{name.replace("_", " ")} needs prior target "base": pictures of one class are not what the base '
                    f"draws {meant}"
                )
        if (whole := sum(self._prior_shares.values())) > 1 + 1e-9:
            raise InputError(
                "prior unconditional, keep prompts and prior follow are shares of the same pictures: expected a sum of "
                f"at most 1, got {whole:g}"
            )

    def _check_schedule(self) -> None:
        if self.lr_warmup_steps >= max(1, self.steps):
            raise InputError(f"lr warmup steps: expected fewer than the {self.steps} steps, got {self.lr_warmup_steps}")
        if self.ema_decay and self.optimizer == "adamwschedulefree":
            raise InputError("adamwschedulefree writes an average of its own: leave ema decay out")

    def _check_given(self) -> None:
        if self.subjects:
            self._check_subjects()
        if self.subject and self.images:
            raise InputError("give either an embedded subject or a folder of pictures (--images), not both")
        if self.images and not self.prompt:
            raise InputError('--images needs --prompt, an instance prompt with a rare token such as "a [V1] dog"')

    def _check_quantised(self) -> None:
        if self.directions == "all":
            raise InputError(
                f"--quantize {self.quantize} cannot move all directions of a weight: expected a few (--directions 32) "
                "or outer terms alone (--preset balanced)"
            )
        if not self.base:
            raise InputError("--quantize is for a base of yours (--base): the embedded one is small enough as it is")

    def _check_subjects(self) -> None:
        if not 2 <= len(self.subjects) <= MOST_SUBJECTS:
            raise InputError(
                f"subjects: expected two to {MOST_SUBJECTS}, got {len(self.subjects)}; for one, use --images DIR and "
                "--prompt, or --subject NAME"
            )
        for name in ("subject", "images", "prompt", "class_prompt", "class_images"):
            if getattr(self, name):
                raise InputError(f"{name.replace('_', ' ')} is for one subject, and here are {len(self.subjects)}")
        if not self.collage_prompts:
            raise InputError("collage prompts: expected at least one")
        for template in self.collage_prompts:
            check_template(template)

    @property
    def _prior_shares(self) -> dict[str, float]:
        """What share of the class pictures stands under which other prompts."""
        return {
            "prior_unconditional": self.prior_unconditional,
            "keep_prompts": self.keep_prompts,
            "prior_follow": self.prior_follow if self.follow_prompts else 0.0,
        }

    @property
    def step_samples(self) -> int:
        """Instance pictures of a step, however many processes share them."""
        return self.batch * self.accumulation

    @property
    def all_targets(self) -> str:
        """`targets`, with the text encoder's if it takes part."""
        return self._targets_with(("text-encoder",))

    def targets_of(self, family: Family | None) -> str:
        """`targets`, with those of the family's text encoders if they take part.

        Raises:
            BaseError: they were asked for, and are none that take part.
        """
        if family is not None and self.text_encoder and "text-encoder" not in self._target_names():
            family.require("text encoder")
        return self._targets_with(family.encoder_targets if family else ())

    def _target_names(self) -> list[str]:
        return [name.strip() for name in self.targets.split(",") if name.strip()]

    def _targets_with(self, encoder_targets: Sequence[str]) -> str:
        names = self._target_names()
        if self.text_encoder is not False and "text-encoder" not in names:
            names += encoder_targets
        return ",".join(names)

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults for this base, as JSON values."""
        default = replace(defaults(self.base, self.preset), base="", preset=DEFAULT_PRESET).as_dict()
        return {name: value for name, value in self.as_dict().items() if value != default[name]}

    def as_dict(self) -> dict[str, Any]:
        """Every setting as a JSON value."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def to_toml(self) -> str:
        """Every setting as TOML, one a line; those changed from the defaults come first."""
        given = {name: value for name, value in self.as_dict().items() if value is not None}
        changed = {name: given[name] for name in self.changed() if name in given}
        lines = ["# spectra train --config THIS_FILE -o OUT   repeats this training."]
        lines += [f"{name} = {toml_value(value)}" for name, value in changed.items()]
        lines += ["", "# As by default:"]
        lines += [f"{name} = {toml_value(value)}" for name, value in given.items() if name not in changed]
        return "\n".join(lines) + "\n"


EMBEDDED: dict[str, Any] = embedded_defaults(TrainConfig)
"""Defaults that are others for the embedded base: about two minutes on two CPU cores, chosen by the loss at fixed noise
and by eye.

- The text encoder takes part: the base has learnt to read past tokens that it does not know, and without it, what is
  learnt of the subject goes into the class prompt's pictures too, or not at all.
- The rates are high because they fall to zero: constant ones leave noise in the pictures.
- Class pictures are held to the base's own answers, to their prompt and to none, since guidance multiplies the
  difference between those two: where the answer to no prompt drifted, colours burnt out and the class was lost; where
  they were held to the noise, contrast was driven up. They are drawn with the guidance of later pictures.
- Min-SNR weighting is off: for a base that predicts v it takes the weight from the noisiest steps, where a drawing's
  colour and place are decided.
- Collages shrink their pictures, since an icon fills its own, and their prompts are those by which the base has learnt
  to draw two things: from left to right, without "a drawing of", which asks it for one.
- The unmix term's weight is small: at .1 and above the special words are soon attended to nowhere, on their own half
  either; what they mean then reaches the picture through the words around them.
"""


def defaults(base: str, preset: str = DEFAULT_PRESET) -> TrainConfig:
    """The default settings for a base and a preset; the embedded base is small, and takes larger batches."""
    chosen = PRESETS[preset]
    own = {} if base else {**EMBEDDED, **chosen.everywhere, **chosen.embedded}
    return TrainConfig(**{**chosen.everywhere, **own, "base": base, "preset": preset})


def chosen_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings that a training wrote down those that its base and preset do not mean by themselves.

    Settings that are no training's come back as they are.
    """
    preset = settings.get("preset")
    if not isinstance(preset, str) or preset not in PRESETS:
        return dict(settings)
    usual = defaults(str(settings.get("base", "")), preset).as_dict() | {"preset": ""}
    return {name: value for name, value in settings.items() if name not in usual or usual[name] != value}


def read_config(path: Path, **overrides: Any) -> TrainConfig:
    """The settings in a TOML file, with `overrides` on top of them.

    Raises:
        InputError: no such file, not TOML, an unknown setting, or a value of the wrong type.
    """
    return make_config({**read_toml(path, "--config"), **overrides}, source=str(path))


def make_config(values: dict[str, Any], *, source: str = "settings") -> TrainConfig:
    """A configuration from plain values on top of the defaults for their base.

    Raises:
        InputError: an unknown setting or a value of the wrong type, naming `source`.
    """
    checked = check_types(TrainConfig, values, source)
    if checked.get("base") == NAME:
        checked["base"] = ""
    preset = checked.get("preset", DEFAULT_PRESET)
    if preset not in PRESETS:
        raise InputError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    return replace(defaults(checked.get("base", ""), preset), **checked)
