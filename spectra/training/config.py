"""What a training is asked to do: one frozen dataclass, read from and written to TOML."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from spectra.bases.embedded import GUIDANCE, NAME
from spectra.errors import InputError
from spectra.io.toml_files import read_toml, toml_value
from spectra.training.data.prompts import check_template

MIXED_PRECISION = ("no", "fp16", "bf16")
LR_SCHEDULES = ("constant", "cosine")
FILE_DTYPES = ("float32", "float16")
PRIOR_TARGETS = ("noise", "base")
COLLAGE_FITS = ("crop", "shrink")
UNMIX_SCHEDULES = ("constant", "falling", "rising")
MOST_SUBJECTS = 4

_CHOICES = {
    "prior_target": PRIOR_TARGETS,
    "lr_schedule": LR_SCHEDULES,
    "mixed_precision": MIXED_PRECISION,
    "file_dtype": FILE_DTYPES,
    "collage_fit": COLLAGE_FITS,
    "unmix_schedule": UNMIX_SCHEDULES,
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; the defaults are those for a full-sized base (`defaults` knows the embedded one's).

    Attributes:
        base: folder, single-file checkpoint or hub id; empty for the embedded base.
        subject: name of an embedded subject, instead of `images`; empty with `images`.
        subjects: two to four subjects for one shift, instead of `subject` or `images`: "DIR=PROMPT" each, with the
            subject's own special word in brackets ("a photo of a [V1] dog"), or the name of an embedded one. The
            class prompts are the same without that word.
        images: folder of instance pictures, or one picture.
        prompt: instance prompt, with a rare token for the subject ("a photo of a sks dog").
        class_prompt: the same without the token; needed for prior preservation.
        class_images: folder of class pictures, instead of those the base would draw.
        prior_weight: of the prior preservation term; 0 leaves it out.
        prior_target: what noisy class pictures ask the model for: the "noise" in them (DreamBooth, SVDiff), or what
            the frozen "base" answers to the same question, which costs one more forward pass of them.
        prior_unconditional: share of the class pictures that stand without a caption, so that the answer to the empty
            prompt, from which guidance starts, is preserved too; needs `prior_target` "base".
        prior_words: share of the class pictures that stand under another word of the tokenizer's in place of the
            class, so that what all other words mean is preserved too; needs `prior_target` "base".
        prior_count, prior_steps, prior_guidance: how many class pictures are drawn, in how many steps, at which scale.
        collage: probability that a sample of several subjects shows two of them, each on its half; class pictures too.
        collage_fit: how a picture comes to fill a half: "crop" keeps its middle, "shrink" all of it.
        collage_prompts: of collages, each as likely as another: {left} and {right} are the subjects as their prompts
            name them, {before} what stands before that in the left one's.
        unmix_weight: of the term that keeps a special word's attention off the other subject's half; 0 leaves it out.
        unmix_layers: cross-attention layers that it acts on, patterns over their paths, comma separated.
        unmix_schedule: its weight over the steps: "constant", "falling" to zero or "rising" from it.
        init_shift: file of a shift to start from, with the same targets; empty starts from zero. So subjects that were
            trained apart and added are finished together.
        targets: subset names or patterns, comma separated (`spectra.families`).
        text_encoder: train the text encoder's weights too.
        directions: singular values of each weight that may move, the largest first; 0 lets all. Weights of one
            dimension have none, and move.
        lr: learning rate of the shifts of weights with two or more dimensions.
        lr_1d: learning rate of the shifts of 1-D weights (the scales of norms).
        lr_schedule: "constant", or "cosine" for rates that fall to zero over the steps.
        steps: optimizer steps.
        batch: instance pictures in one forward pass (and as many class pictures with prior preservation).
        accumulation: forward passes per optimizer step.
        weight_decay, max_grad_norm: of AdamW and of gradient clipping.
        min_snr_gamma: clips the signal-to-noise ratio in the loss weights (arXiv:2303.09556); 0 switches it off.
        gradient_checkpointing: recompute activations in the backward pass, for memory.
        low_memory: keep both sides of each weight's spectrum instead of the weight (`spectra.layers.low_memory`).
        tune: measure how each layer computes fastest, before the first step (`spectra.adapters.tuning`).
        mixed_precision: "no", "fp16" or "bf16".
        cache_latents, cache_prompts: encode once, ahead of the steps. Prompts are never cached while the text
            encoder trains.
        resolution: pixels of a picture's side; 0 is the base's own.
        file_dtype: "float32" or "float16", the precision of the shift file; it is trained in float32 either way.
        seed: of everything random.
        validation_prompts: drawn before and after, and every `validation_every` steps; empty means the instance and
            the class prompt.
        validation_every: steps between validation pictures; 0 draws them before and after only.
        validation_count, validation_steps, validation_guidance: pictures per prompt (0: none), their steps and scale.
        save_every: steps between saved states, from which `--resume` continues; 0 saves none.
        tensorboard: folder for TensorBoard's log; empty for none.
    """

    base: str = ""
    subject: str = ""
    subjects: tuple[str, ...] = ()
    images: str = ""
    prompt: str = ""
    class_prompt: str = ""
    class_images: str = ""
    prior_weight: float = 1.0
    prior_target: str = "noise"
    prior_unconditional: float = 0.0
    prior_words: float = 0.0
    prior_count: int = 200
    prior_steps: int = 25
    prior_guidance: float = 5.0
    collage: float = 0.6
    collage_fit: str = "crop"
    collage_prompts: tuple[str, ...] = (
        "{before}{left} on the left and {right} on the right",
        "{before}{right} and {left}",
    )
    unmix_weight: float = 1.0
    unmix_layers: str = "*"
    unmix_schedule: str = "constant"
    init_shift: str = ""
    targets: str = "unet"
    text_encoder: bool = False
    directions: int = 0
    lr: float = 1e-3
    lr_1d: float = 1e-6
    lr_schedule: str = "constant"
    steps: int = 500
    batch: int = 1
    accumulation: int = 1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    min_snr_gamma: float = 5.0
    gradient_checkpointing: bool = False
    low_memory: bool = False
    tune: bool = False
    mixed_precision: str = "no"
    cache_latents: bool = True
    cache_prompts: bool = True
    resolution: int = 0
    file_dtype: str = "float32"
    seed: int = 0
    validation_prompts: tuple[str, ...] = ()
    validation_every: int = 0
    validation_count: int = 4
    validation_steps: int = 25
    validation_guidance: float = 5.0
    save_every: int = 0
    tensorboard: str = ""

    def __post_init__(self) -> None:
        """Check every value that can be checked without touching the disk.

        Raises:
            InputError: a value out of range, or settings that exclude each other.
        """
        for name in ("prior_count", "prior_steps", "steps", "batch", "accumulation", "validation_steps"):
            _at_least(self, name, 1)
        for name in ("prior_weight", "lr", "lr_1d", "weight_decay", "max_grad_norm", "min_snr_gamma", "resolution",
                     "validation_every", "validation_count", "save_every", "seed", "directions", "prior_guidance",
                     "validation_guidance", "prior_unconditional", "prior_words", "collage",
                     "unmix_weight"):  # fmt: skip
            _at_least(self, name, 0)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name.replace('_', ' ')}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name in ("prior_unconditional", "prior_words", "collage"):
            if getattr(self, name) > 1:
                raise InputError(
                    f"{name.replace('_', ' ')}: expected a share between 0 and 1, got {getattr(self, name)}"
                )
        for name, meant in (("prior_unconditional", "without a prompt"), ("prior_words", "for other words")):
            if getattr(self, name) and self.prior_target != "base":
                raise InputError(
                    f'{name.replace("_", " ")} needs prior target "base": pictures of one class are not what the base '
                    f"draws {meant}"
                )
        if self.prior_unconditional + self.prior_words > 1:
            raise InputError(
                "prior unconditional and prior words are shares of the same pictures: expected a sum of at most 1, "
                f"got {self.prior_unconditional + self.prior_words:g}"
            )
        if self.subjects:
            self._check_subjects()
        if self.subject and self.images:
            raise InputError("give either an embedded subject or a folder of pictures (--images), not both")
        if self.images and not self.prompt:
            raise InputError('--images needs --prompt, an instance prompt with a rare token such as "a [V1] dog"')

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
    def all_targets(self) -> str:
        """`targets`, with the text encoder's if it was asked for."""
        names = [name.strip() for name in self.targets.split(",") if name.strip()]
        if self.text_encoder and "text-encoder" not in names:
            names.append("text-encoder")
        return ",".join(names)

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults for this base, as JSON values."""
        default = replace(defaults(self.base), base="").as_dict()
        return {name: value for name, value in self.as_dict().items() if value != default[name]}

    def as_dict(self) -> dict[str, Any]:
        """Every setting as a JSON value."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def to_toml(self) -> str:
        """Every setting as TOML, one a line; those changed from the defaults come first."""
        changed = self.changed()
        values = self.as_dict()
        lines = ["# spectra train --config THIS_FILE -o OUT   repeats this training."]
        lines += [f"{name} = {toml_value(values[name])}" for name in changed]
        lines += ["", "# As by default:"]
        lines += [f"{name} = {toml_value(value)}" for name, value in values.items() if name not in changed]
        return "\n".join(lines) + "\n"


EMBEDDED: dict[str, Any] = {
    "steps": 500,
    "batch": 4,
    "text_encoder": True,
    "lr": 3e-2,
    "lr_1d": 1e-2,
    "lr_schedule": "cosine",
    "min_snr_gamma": 0.0,
    "prior_weight": 2.0,
    "prior_target": "base",
    "prior_unconditional": 0.25,
    "prior_count": 24,
    "prior_steps": 20,
    "prior_guidance": GUIDANCE,
    "collage_fit": "shrink",
    "collage_prompts": ("{left} on the left and {right} on the right", "{left} and {right}"),
    "unmix_weight": 0.01,
    "validation_guidance": GUIDANCE,
    "file_dtype": "float16",
}
"""What differs by default for the embedded base: about two minutes on two CPU cores.

Chosen by the loss at fixed noise and by looking at pictures. The text encoder takes part, since the base has learnt to
read past tokens that it does not know: without it, what is learnt of the subject goes into the class prompt's pictures
too, or not at all. The rates are high because they fall to zero: constant ones leave noise in the pictures. What class
pictures are held to is the base's own answer, to their prompt and to none: guidance multiplies the difference between
those two, and where the answer to no prompt drifted, colours burnt out and the class was lost while the subject was
still being learnt. They are drawn with the guidance with which pictures will be, so that the answers are kept where
they will be asked for. (Held to the noise instead, guided pictures came out with their contrast driven up.)
Min-SNR weighting is off: for a base that predicts v it takes the weight from the noisiest steps, where a drawing's
colour and place are decided.
Collages shrink their pictures, since an icon fills its own, and their prompts are those by which the base has learnt to
draw two things: named from left to right, and without "a drawing of", which asks it for one. The unmix term's weight is
small: at .1 and above the special words are soon attended to nowhere, on their own half either, which is the term's
easiest solution; what they mean then reaches the picture through the words around them.
"""


def defaults(base: str) -> TrainConfig:
    """The default settings for a base; the embedded one is small, and takes larger batches and fewer steps."""
    return replace(TrainConfig(), base=base, **({} if base else EMBEDDED))


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
    types = get_type_hints(TrainConfig)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            raise InputError(f"{source}: unknown setting {name!r}; known are {', '.join(types)}")
        checked[name] = _typed(value, types[name], f"{source}: {name}")
    if checked.get("base") == NAME:
        checked["base"] = ""
    return replace(defaults(checked.get("base", "")), **checked)


def _typed(value: Any, wanted: Any, name: str) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_args(wanted):  # tuple[str, ...]
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise InputError(f"{name}: expected a list of strings, got {value!r}")
    if type(value) is not wanted:
        raise InputError(f"{name}: expected {wanted.__name__}, got {value!r}")
    return value


def _at_least(config: TrainConfig, name: str, low: int) -> None:
    value = getattr(config, name)
    if not low <= value < float("inf"):
        raise InputError(f"{name.replace('_', ' ')}: expected a number of at least {low}, got {value}")
