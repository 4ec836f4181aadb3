"""Which settings make a training fit a card: the fewest, tried in the order of what they cost in quality and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spectra.planning.memory import Memory, checkpoints
from spectra.planning.plan import Planner
from spectra.planning.request import PlanRequest

FEW = "32"
"""Directions in place of more."""


@dataclass(frozen=True)
class Change:
    """One setting that takes memory away.

    Attributes:
        name: in words.
        makes: what it sets in a request; nothing where it is so already.
    """

    name: str
    makes: Callable[[PlanRequest], Mapping[str, Any]]


def _checkpointing(request: PlanRequest) -> Mapping[str, Any]:
    return {} if request.config.gradient_checkpointing else {"gradient_checkpointing": True}


def _half(request: PlanRequest) -> Mapping[str, Any]:
    return {} if request.config.precision == "bfloat16" else {"precision": "bfloat16"}


def _encoders_leave(request: PlanRequest) -> Mapping[str, Any]:
    return {"text_encoder": False, "word": False, "cache_prompts": True, "cache_latents": True}


def _one_picture(request: PlanRequest) -> Mapping[str, Any]:
    config = request.config
    return {"batch": 1, "accumulation": config.batch * config.accumulation} if config.batch > 1 else {}


def _few_directions(request: PlanRequest) -> Mapping[str, Any]:
    number = request.directions
    return {"directions": FEW, "low_memory": False} if number is None or number > int(FEW) else {}


def _eight_bits(request: PlanRequest) -> Mapping[str, Any]:
    done = request.config.quantize or not request.config.base  # the embedded base is not quantised
    return {} if done else {"quantize": "int8", **_fewer(request)}


def _four_bits(request: PlanRequest) -> Mapping[str, Any]:
    done = request.config.quantize == "nf4" or not request.config.base
    return {} if done else {"quantize": "nf4", **_fewer(request)}


def _fewer(request: PlanRequest) -> Mapping[str, Any]:
    """A quantised weight cannot move in all of its directions."""
    return {"low_memory": False} | ({"directions": FEW} if request.directions is None else {})


CHANGES = (
    Change("gradient checkpointing", _checkpointing),
    Change("weights in bfloat16", _half),
    Change("one picture at a time", _one_picture),
    Change(f"{FEW} directions of each weight", _few_directions),
    Change("text encoders not trained: prompts are encoded once, and encoders leave", _encoders_leave),
    Change("denoiser in 8 bits", _eight_bits),
    Change("denoiser in 4 bits", _four_bits),
)
"""From what costs least: time, then precision, then what the shift can say, then the base's own precision."""


@dataclass(frozen=True)
class Fit:
    """Settings by which a training fits.

    Attributes:
        changes: their names; none where it fits as asked for.
        request: with them.
        memory: of a step then.
        fits: False where even all of them do not suffice.
    """

    changes: tuple[str, ...]
    request: PlanRequest
    memory: Memory
    fits: bool

    @property
    def largest(self) -> str:
        """The phase that takes the most."""
        return self.memory.largest(checkpointing=self.checkpointing)

    @property
    def total(self) -> int:
        """Bytes of the largest phase, what is estimated included."""
        return self.memory.total(checkpointing=self.checkpointing)

    @property
    def checkpointing(self) -> bool:
        """Whether blocks are computed once more in the backward pass."""
        return checkpoints(self.request, self.memory)


def fit(planner: Planner, request: PlanRequest) -> Fit:
    """The fewest of `CHANGES` with which a step fits `request.vram`; those come first that cost least."""
    chosen: list[Change] = []
    found = _with(planner, request, chosen)
    for change in CHANGES:
        if found.fits:
            break
        more = _with(planner, request, [*chosen, change])
        if more.total < found.total:
            chosen, found = [*chosen, change], more
    for change in list(chosen):  # an earlier one may not be needed beside a later one that does more
        fewer = [each for each in chosen if each is not change]
        without = _with(planner, request, fewer)
        if found.fits and without.fits:
            chosen, found = fewer, without
    return found


def _with(planner: Planner, request: PlanRequest, changes: list[Change]) -> Fit:
    changed = request
    for change in changes:
        changed = changed.changed(**change.makes(changed))
    memory = planner.memory(changed)
    total = memory.total(checkpointing=checkpoints(changed, memory))
    return Fit(tuple(change.name for change in changes), changed, memory, total <= request.vram)
