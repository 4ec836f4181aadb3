"""What pictures are wanted: base, shifts, prompts and seeds, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.bases.embedded import GUIDANCE, NAME
from spectra.bases.prediction import PREDICTION_TYPE
from spectra.bases.quantisation import QUANTIZE, SPECTRA_FROM, parse_quantisation
from spectra.bases.single_file import COMPONENTS_FROM
from spectra.settings import LARGEST_SEED, check_ranges, check_types, declared_settings, embedded_defaults, setting

OWN_GUIDANCE = f"what the base's pipeline draws with, none for a distilled one; embedded base: {GUIDANCE:g}"
"""The guidance by default, as settings say it."""


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    steps: int = setting(25, "Denoising steps.", least=1, most=1000)
    guidance: float | None = setting(None, "Guidance scale.", least=0, embedded=GUIDANCE, default_text=OWN_GUIDANCE)
    width: int = setting(0, "Width of the pictures in pixels.", least=0, default_text="the base's own")
    height: int = setting(0, "Height of the pictures in pixels.", least=0, default_text="the base's own")
    batch: int = setting(8, "Number of pictures drawn at once.", least=1)
    eta: float = setting(0.0, "Fresh noise in each step: from 0 (DDIM) to 1 (DDPM).", least=0)

    def __post_init__(self) -> None:
        """Refuse a number out of range by an InputError."""
        check_ranges(self)


@dataclass(frozen=True)
class GenerateSettings:
    """Which pictures are wanted: every prompt with every seed, drawn in one way.

    With several scales of a shift every picture becomes a strip of them: the first scales of all shifts go together,
    then the second; one scale alone holds for all.
    """

    base: str = setting(
        "", "Base model: a diffusers folder, a .safetensors checkpoint or a hub id.", default_text="embedded"
    )
    components_from: str = setting(**COMPONENTS_FROM)
    prediction_type: str = setting(**PREDICTION_TYPE)
    shifts: tuple[str, ...] = setting(
        (),
        "A shift to use; repeatable. With several scales each picture becomes a strip of them; those of several shifts "
        "go together.",
        option="--shift",
        metavar="FILE[:SCALE,...]",
    )
    prompts: tuple[str, ...] = setting((), "What to draw; repeatable.", option="--prompt")
    prompts_file: Path | None = setting(None, "Text file of prompts, one a line.", option="--prompts", metavar="FILE")
    negative: str = setting("", "Negative prompt of all pictures.")
    seeds: tuple[int, ...] = setting(
        (0,), "Seed of the noise; repeatable, a picture of each prompt for each.", option="--seed", most=LARGEST_SEED
    )
    sampling: Sampling = field(default_factory=Sampling)
    dtype: str = setting(
        "float32",
        "Precision of the weights; a shift that was trained in another acts on a rounded copy of its base.",
        choices=("float32", "float16", "bfloat16"),
    )
    quantize: str = setting(**QUANTIZE)
    spectra_from: str = setting(**SPECTRA_FROM)

    def __post_init__(self) -> None:
        """Refuse an unknown precision or quantisation by an InputError."""
        check_ranges(self)
        parse_quantisation(self.quantize)


def make_generate_settings(**given: Any) -> GenerateSettings:
    """Settings from plain values, those of `Sampling` among them, on top of the defaults for its base.

    Raises:
        InputError: an unknown setting, or a value of the wrong type or out of range.
    """
    sampled = declared_settings(Sampling)
    values = check_types(declared_settings(GenerateSettings) | sampled, given, "generate")
    base = "" if values.get("base") == NAME else values.pop("base", "")
    drawing = {name: values.pop(name) for name in sampled if name in values}
    sampling = Sampling(**(({} if base else embedded_defaults(Sampling)) | drawing))
    return GenerateSettings(**(values | {"base": base, "sampling": sampling}))
