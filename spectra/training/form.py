"""How a training's settings say what of each weight moves: `--directions 32:gradient`, `--outer 64kB`."""

from __future__ import annotations

import re
from typing import NamedTuple

from spectra.errors import InputError

CANDIDATES = 4
"""Directions that the gradient chooses are chosen among so many times as many leading ones."""

_UNITS = {"B": 1, "kB": 1_000, "MB": 1_000_000}


class ChosenDirections(NamedTuple):
    """How many directions of each weight move, None for all; and whether the gradient says which."""

    number: int | None
    by_gradient: bool = False


class ChosenTerms(NamedTuple):
    """How many outer terms each weight has, or how many bytes of a float16 file all have together."""

    each: int = 0
    budget: int = 0


def check_directions(text: str) -> ChosenDirections:
    """What a setting such as "all", "32" or "32:gradient" means.

    Raises:
        InputError: it means nothing.
    """
    if text == "all":
        return ChosenDirections(None)
    match = re.fullmatch(r"([0-9]{1,6})(:gradient)?", text)
    if match is None or (match[2] and not int(match[1])):
        raise InputError(f'directions: expected all, a number such as 32, or 32:gradient, got "{text}"')
    return ChosenDirections(int(match[1]), by_gradient=bool(match[2]))


def check_outer(text: str) -> ChosenTerms:
    """What a setting such as "1" or "64kB" means.

    Raises:
        InputError: it means nothing.
    """
    match = re.fullmatch(r"([0-9]{1,9})( ?)(B|kB|MB)?", text)
    if match is None or (match[3] is None and (match[2] or int(match[1]) > 1024)):
        raise InputError(f'outer: expected a number of terms such as 1, or bytes such as 64kB, got "{text}"')
    if match[3] is None:
        return ChosenTerms(int(match[1]))
    if not int(match[1]):
        raise InputError(f'outer: expected bytes for one term at least, or 0 for none, got "{text}"')
    return ChosenTerms(budget=int(match[1]) * _UNITS[match[3]])
