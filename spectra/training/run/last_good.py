"""The parameters of the last step whose loss was finite: what is worth keeping when the next one is not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SKIPPED_IN_A_ROW = 20
"""Steps that the gradient scaler of half precision may skip one after the other: it has halved its scale each time."""


class LastGood:
    """A copy of the parameters that goes one step behind them.

    Attributes:
        step: how many steps had led to the copy; None where there is none.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._values: dict[str, Tensor] = {}
        self._now: dict[str, Tensor] = {}
        self._skipped = 0
        self.step: int | None = None

    def begin(self) -> None:
        """Take a copy, before a step's loss is known and its update made."""
        self._now = {key: value.detach().clone() for key, value in self._parameters.items()}

    def confirm(self, step: int) -> None:
        """The loss of what `begin` copied is finite, after `step` steps."""
        self._values, self._now, self.step = self._now, {}, step

    def restore(self) -> None:
        """Put the copy back into the parameters."""
        with torch.no_grad():
            for key, value in self._values.items():
                self._parameters[key].copy_(value)

    def finite(self) -> bool:
        """Whether all parameters are finite as they are now."""
        norms = [value.detach().norm() for value in self._parameters.values()]
        return bool(torch.stack(norms).isfinite().all())

    def overflows(self, skipped: bool) -> bool:
        """Count a step that was skipped, or not, since a gradient overflowed; whether it was one too many."""
        self._skipped = self._skipped + 1 if skipped else 0
        return self._skipped >= SKIPPED_IN_A_ROW
