"""What an edit is asked to do: which picture and prompts, how it is learnt, and which variants are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from spectra.bases.embedded import NAME
from spectra.errors import InputError
from spectra.training.config import TrainConfig, make_config

ANCHORS = ("edit", "caption")

TUNING: dict[str, Any] = {"prior_weight": 0.0, "prior_unconditional": 0.0, "prior_random_words": 0.0,
                          "validation_count": 0}  # fmt: skip
"""What one picture with its own caption asks of a training: no class, and nothing drawn before and after."""

TUNING_EMBEDDED: dict[str, Any] = {"steps": 60, "lr": 1e-2, "lr_1d": 3e-3, "text_encoder": False}
"""What differs for the embedded base. The text encoder stays frozen, or it reads past what the edit says."""

DRAWING_EMBEDDED: dict[str, Any] = {"guidances": (1.25,), "anchor": "caption", "steps": 25, "keeps": (0.45,)}
"""What differs for it in drawing."""


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
            name: getattr(self, name)
            for name in ("scale", "guidance", "eta", "noise_mix", "seed", "keep")
            if len({getattr(other, name) for other in others}) > 1
        }
        return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in words.items())


@dataclass(frozen=True)
class EditOrder:
    """One picture and its edits.

    Attributes:
        image: the picture's file; it is cropped to a square.
        caption: what it shows.
        edits: what it should show instead, each a whole prompt.
        base: as `spectra.bases.pipeline.find_base` takes it; empty is the embedded base.
        shift: a shift file that was trained on the picture before, instead of a training.
        training: settings of the training, on top of those of an edit.
        scales, guidances, etas, noise_mixes, seeds, keeps: every combination is drawn.
        anchor: the prompt that the inversion is conditioned on. "edit" is the paper's: the edited caption, and guidance
            leads away from the empty prompt. With "caption" it is the picture's own, and guidance leads away from
            that: at 1 the edit is drawn as it is, above it is exaggerated.
        steps: DDIM steps, of inversions and of drawing.
        batch: pictures at once.
    """

    image: Path
    caption: str
    edits: tuple[str, ...]
    base: str = ""
    shift: Path | None = None
    training: dict[str, Any] = field(default_factory=dict)
    scales: tuple[float, ...] = (1.0,)
    guidances: tuple[float, ...] = (3.0,)
    etas: tuple[float, ...] = (0.0,)
    noise_mixes: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)
    keeps: tuple[float, ...] = (0.0,)
    anchor: str = "edit"
    steps: int = 50
    batch: int = 8

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: a number out of range, no caption, or nothing to draw.
        """
        for name, text in (("caption", self.caption), *(("edit", edit) for edit in self.edits)):
            if not text.strip():
                raise InputError(f'{name}: expected a prompt such as "a photo of a cat", got nothing')
        if self.anchor not in ANCHORS:
            raise InputError(f"anchor: expected one of {', '.join(ANCHORS)}, got {self.anchor!r}")
        if not self.edits:
            raise InputError("nothing to draw: give --edit, the prompt of what the picture should show instead")
        for name, values, low, high in (
            ("scale", self.scales, -math.inf, math.inf),
            ("guidance", self.guidances, 1, math.inf),
            ("eta", self.etas, 0, 1),
            ("noise mix", self.noise_mixes, 0, 1),
            ("keep", self.keeps, 0, 1),
            ("steps", (self.steps,), 1, math.inf),
            ("batch", (self.batch,), 1, math.inf),
        ):
            for value in values:
                if not (math.isfinite(value) and low <= value <= high):
                    least = "a finite number" if low == -math.inf else f"a number of at least {low}"
                    raise InputError(f"{name}: expected {least if high > 1 else 'a share from 0 to 1'}, got {value:g}")

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
        given = {"base": self.base, "images": str(self.image), "prompt": self.caption}
        return make_config(own | self.training | given, source="edit")


def make_order(*, base: str = "", **given: Any) -> EditOrder:
    """An order on top of the defaults for its base; lists become tuples.

    Raises:
        InputError: see `EditOrder`.
    """
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    base = "" if base == NAME else base
    return EditOrder(base=base, **(({} if base else DRAWING_EMBEDDED) | values))
