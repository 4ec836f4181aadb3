"""What a plan is asked for: a base, the settings of a training, precision, and a card."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from spectra.bases.shapes import BaseShapes, base_shapes, published_shapes
from spectra.errors import InputError
from spectra.families.known import find_family_of_class
from spectra.naming.target_subsets import DENOISERS
from spectra.training.config import TrainConfig, defaults
from spectra.training.form import CANDIDATES, check_directions, check_outer

_UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is asked for.

    Attributes:
        config: the training, as `spectra train` takes it.
        family: name of a published base, of which `config.base` is the hub id; empty for any other.
        vram: bytes of the card, 0 for none in particular.
    """

    config: TrainConfig = field(default_factory=lambda: defaults(""))
    family: str = ""
    vram: int = 0

    def shapes(self) -> BaseShapes:
        """The base, without its weights; errors as `base_shapes`."""
        return published_shapes(self.family) if self.family else base_shapes(self.config.base)

    @property
    def samples(self) -> int:
        """Pictures in one call of the model: as many class pictures as instance pictures, with prior preservation."""
        return self.config.batch * (1 + (self.config.prior_weight > 0))

    @property
    def prompts(self) -> int:
        """Different prompts that a trained text encoder reads in a step, at most."""
        if not self.config.prior_weight:
            return 1
        several = self.config.keep_prompts or self.config.prior_unconditional or self.config.follow_prompts
        return 1 + (self.config.batch if several else 1)

    @property
    def directions(self) -> int | None:
        """Directions of each weight that move, None for all."""
        return check_directions(self.config.directions).number

    @property
    def needed_directions(self) -> int | None:
        """Directions of each weight that are decomposed for that."""
        number, by_gradient = check_directions(self.config.directions)
        return number * CANDIDATES if number is not None and by_gradient else number

    @property
    def terms(self) -> int:
        """Outer terms of each weight; of a number of bytes that all share, one."""
        each, budget = check_outer(self.config.outer)
        return each or int(bool(budget))

    def dtype(self, shapes: BaseShapes) -> str:
        """The dtype in which a training holds this base's weights and computes."""
        if self.config.precision != "stored":
            return self.config.precision
        return "bfloat16" if shapes.dtypes.get(denoiser_of(shapes)) == frozenset({"bfloat16"}) else "float32"

    def targets(self, pipeline: str) -> str:
        """What is trained of a base whose pipeline is of that class; errors as `TrainConfig.targets_of`."""
        return self.config.targets_of(find_family_of_class(pipeline))

    def changed(self, **changes: object) -> PlanRequest:
        """The same with other values, of this or of its configuration."""
        own = {name: value for name, value in changes.items() if name in PlanRequest.__dataclass_fields__}
        config = replace(self.config, **{name: value for name, value in changes.items() if name not in own})  # type: ignore[arg-type]
        return replace(self, config=config, **own)  # type: ignore[arg-type]


def denoiser_of(shapes: BaseShapes) -> str:
    """The name of a base's denoiser.

    Raises:
        InputError: it has none.
    """
    for name in DENOISERS:
        if name in shapes.parts:
            return name
    raise InputError(f"{shapes.name}: expected a pipeline with one of {', '.join(DENOISERS)}")


def read_memory(text: str) -> int:
    """Bytes of a text such as `24GB` or `80 GiB`; cards are sold by GB of 2^30 bytes, which counts as 10^9 here.

    Raises:
        InputError: it is something else.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(GB|GiB|MB|MiB)", text.strip())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not size:
        raise InputError(f"vram: expected a size such as 24GB, got {text!r}")
    return size
