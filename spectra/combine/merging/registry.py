"""The table of merging methods.

A method is a function on the deltas of one weight, registered under a name, with another for its outer terms:

    @method("mean", shares="each", source="...", terms=mean_of_terms)
    def mean(deltas: Rows, weights: Row, *, density: float = 0.5) -> Row:

    def mean_of_terms(terms: StackedTerms, weights: Row, *, density: float) -> Factors:

Its keyword parameters, with their defaults, are the method's parameters. One that draws random numbers takes `random`
as well: numbers in [0, 1) of the deltas' shape, and for terms two arrays, for rows and for columns; the same for the
same seed on every machine.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from spectra.combine.merge_settings import PARAMETERS
from spectra.combine.merging.stacked_terms import Factors, Row
from spectra.errors import InputError

OnDeltas: TypeAlias = Callable[..., Row]
OnTerms: TypeAlias = Callable[..., Factors]

Shares: TypeAlias = Literal["alpha", "each", "none"]


@dataclass(frozen=True)
class Method:
    """A way to merge.

    Attributes:
        name: in recipes and on the command line.
        function: deltas `[k, n]` and weights `[k]` to the merged delta `[n]`, float64.
        terms: terms `StackedTerms` and weights `[k]` to what becomes of them.
        source: its paper.
        shares: "alpha" takes two shifts and one number, the first one's share; "each" a weight for every shift;
            "none" finds the weights itself.
        default_weight: the weight of a shift where none is given; None is one over their number.
        parameters: names and defaults.
        random: whether it draws random numbers.
    """

    name: str
    function: OnDeltas
    terms: OnTerms
    source: str
    shares: Shares
    default_weight: float | None
    parameters: Mapping[str, float]
    random: bool

    @property
    def about(self) -> str:
        """One line: the first of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def weights(self, given: Sequence[float], count: int) -> Row:
        """The weights of `count` shifts, from none, one number for all, or one each; alpha for methods that take that.

        Raises:
            InputError: another number of weights, or one that is not finite; a method that takes none.
        """
        if self.shares == "none" and given:
            raise InputError(f"{self.name} finds the weights itself; leave out --weights and --block-weights")
        if not all(math.isfinite(weight) for weight in given):
            raise InputError(f"expected finite weights, got {', '.join(map(str, given))}")
        if self.shares == "alpha":
            if count != 2:
                raise InputError(f"{self.name} takes two shifts, got {count}; weighted takes any number")
            if len(given) > 1:
                raise InputError(f"{self.name} takes one number, alpha (1 is the first shift), got {len(given)}")
            alpha = given[0] if given else 0.5
            return np.array([alpha, 1.0 - alpha])
        if len(given) not in (0, 1, count):
            raise InputError(f"expected one weight for each of {count} shifts, or one for all, got {len(given)}")
        if len(given) != count:
            default = 1.0 / count if self.default_weight is None else self.default_weight
            given = [given[0] if given else default] * count
        return np.array(given, dtype=np.float64)

    def complete(self, given: Mapping[str, float]) -> dict[str, float]:
        """Every parameter, those not given at their defaults.

        Raises:
            InputError: a parameter it does not have, or a value out of range.
        """
        for name, value in given.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise InputError(f"{self.name} has no parameter {name!r}; it has: {known}")
            PARAMETERS[name].check(value)
        chosen = {**self.parameters, **given}
        if "epsilon" in chosen and not 0 < chosen["density"] - chosen["epsilon"] / 2 < 1 - chosen["epsilon"] + 1e-12:
            raise InputError(
                "expected density +- epsilon / 2 above 0 and at most 1, got density "
                f"{chosen['density']} and epsilon {chosen['epsilon']}"
            )
        if "gamma" in chosen and chosen["density"] + chosen["gamma"] > 1 + 1e-12:
            raise InputError(
                f"expected density + gamma of at most 1, got {chosen['density']} + {chosen['gamma']}: what is left out "
                "at the top cannot be kept"
            )
        return chosen


METHODS: dict[str, Method] = {}
"""All methods by name, filled by `method` when `spectra.combine.merging` is imported."""


def method(
    name: str, *, shares: Shares, source: str, terms: OnTerms, default_weight: float | None = None
) -> Callable[[OnDeltas], OnDeltas]:
    """Registers a function as a method (see the module's docstring)."""

    def register(function: OnDeltas) -> OnDeltas:
        keywords: dict[str, Any] = {
            parameter.name: parameter.default
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        random = keywords.pop("random", None) is not None
        METHODS[name] = Method(name, function, terms, source, shares, default_weight, keywords, random)
        return function

    return register


def find_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in METHODS:
        raise InputError(f"no merging method is called {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]
