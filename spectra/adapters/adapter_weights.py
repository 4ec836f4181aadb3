"""How much of a shift is in force: one number, or numbers for components and blocks, as diffusers takes them.

    {"unet": {"down": 0.8, "mid": 1.0, "up": {"block_1": 0.4}}, "text_encoder": 0.5}
    {"unet.up_blocks.1": 0.4}

What is not named is in force whole. Blocks go by their names in the model, too: `{"transformer_blocks.3": 0}` under
"transformer".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from spectra.errors import MismatchError

AdapterWeights: TypeAlias = float | Mapping[str, Any]
"""A number, or by component or block a number, a mapping of what is inside, or numbers for its attentions."""

_NAMES = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}
"""What diffusers calls the blocks of a UNet where it takes weights, and what they are called in the model."""


@dataclass(frozen=True)
class Weights:
    """The scale of each weight of one shift.

    Attributes:
        given: as they were given.
        blocks: scales by the name of a component or block, the longest names first.
    """

    given: AdapterWeights
    blocks: tuple[tuple[str, float], ...]

    def of(self, name: str) -> float:
        """The scale of the weight of this name."""
        return next((scale for block, scale in self.blocks if _holds(block, name)), 1.0)


def weights_of(given: AdapterWeights | None, label: str, names: Iterable[str]) -> Weights:
    """The weights that were given for the shift `label`, which has weights of these names; None is 1.

    Raises:
        MismatchError: a scale that is no finite number, or a block in which the shift has no weight.
    """
    known = list(names)
    blocks = list(_blocks("", 1.0 if given is None else given, label))
    for block, scale in blocks:
        if not math.isfinite(scale):
            raise MismatchError(f"expected a finite scale for {label!r}, got {scale}")
        if not any(_holds(block, name) for name in known):
            raise MismatchError(f"shift {label!r} has no weight in {block!r}; it has such as {known[0]!r}")
    return Weights(1.0 if given is None else given, tuple(sorted(blocks, key=lambda each: -len(each[0]))))


def _blocks(block: str, given: Any, label: str) -> Iterator[tuple[str, float]]:
    if isinstance(given, Mapping):
        for key, inner in given.items():
            piece = _NAMES.get(key, key.removeprefix("block_"))
            yield from _blocks(f"{block}.{piece}" if block else piece, inner, label)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        for number, inner in enumerate(given):
            yield from _blocks(f"{block}.attentions.{number}", inner, label)
    elif isinstance(given, (int, float)):
        yield block, float(given)
    else:
        raise MismatchError(f"expected a number or a mapping of blocks as the scale of {label!r}, got {given!r}")


def _holds(block: str, name: str) -> bool:
    return not block or name == block or name.startswith(f"{block}.")
