"""What a training gives: its last step's parameters, or an average of those of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spectra.training.config import TrainConfig


class Result:
    """The parameters that a training gives, beside those that it trains.

    They are others where the optimizer averages its steps by itself, or where a moving average of them is kept.

    Attributes:
        average: the moving average by key, empty where none is kept.
        differs: whether they are others.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Any, config: TrainConfig) -> None:
        """Begin where the parameters are."""
        self._parameters, self._optimizer, self._decay = parameters, optimizer, config.ema_decay
        self.average = {key: value.detach().clone() for key, value in parameters.items()} if config.ema_decay else {}
        self.differs = bool(self.average) or config.optimizer == "adamwschedulefree"
        optimizer.train()

    def update(self, step: int) -> None:
        """Take in the parameters after `step` steps; the first few count for more than the decay says."""
        decay = min(self._decay, step / (step + 9))
        for key, average in self.average.items():
            average.lerp_(self._parameters[key].detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the parameters are what the training gives; afterwards they are what they were, exactly."""
        if not self.differs:
            yield
            return
        trained = {key: value.detach().clone() for key, value in self._parameters.items()}
        self._optimizer.eval()  # where it averages, that puts its average into the parameters
        self._fill(self.average)
        try:
            yield
        finally:
            self._optimizer.train()
            self._fill(trained)

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for key, value in values.items():
                self._parameters[key].copy_(value)
