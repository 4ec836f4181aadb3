"""The full-precision weights of which a quantised model is a copy: their spectra and fingerprints are the shift's."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from spectra.errors import MismatchError

MOST_ERROR = 0.5
"""The relative error up to which a quantised weight counts as a copy: 4 bits leave .1 to .3, another weight's is 1 and
more."""

_NOTED: WeakKeyDictionary[nn.Module, FullPrecision] = WeakKeyDictionary()


class FullPrecision:
    """The full-precision weights of one base, by the names of shifts, each read when it is asked for.

    Attributes:
        source: what they were called by, for messages.
        errors: relative error of each quantised weight that was held against its own, by name.
    """

    def __init__(self, weights: Mapping[str, Tensor], source: str) -> None:
        self.source = source
        self.errors: dict[str, float] = {}
        self._weights = weights

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def weight(self, name: str, copy: Tensor) -> Tensor:
        """The weight of this name in float32, of which `copy` is what its quantised one stands for.

        Raises:
            MismatchError: it is another weight.
        """
        weight = self._weights[name].to(copy.device, copy.dtype)
        if name not in self.errors:
            if weight.shape != copy.shape:
                raise MismatchError(
                    f"{self.source}: {name} is of shape {list(weight.shape)}, the quantised one of {list(copy.shape)}; "
                    "take spectra from the base that was quantised"
                )
            self.errors[name] = relative_error(copy, weight)
        if not self.errors[name] <= MOST_ERROR:
            raise MismatchError(
                f"{self.source}: {name} is another weight than the one that was quantised (they differ by "
                f"{100 * self.errors[name]:.0f} %); take spectra from the base that was quantised"
            )
        return weight


def relative_error(copy: Tensor, weight: Tensor) -> float:
    """`||copy - weight|| / ||weight||`."""
    return float((copy - weight).norm() / weight.norm().clamp_min(1e-30))


def note(model: nn.Module, weights: FullPrecision) -> None:
    """Remember, as long as it lives, of which weights a model is a quantised copy."""
    _NOTED[model] = weights


def noted(model: nn.Module) -> FullPrecision | None:
    """What `note` remembers of a model."""
    return _NOTED.get(model)
