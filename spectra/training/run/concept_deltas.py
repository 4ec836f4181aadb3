"""The deltas of all concepts of a training, on one attached base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spectra.adapters.training_adapter import Adapter
from spectra.layers.per_sample import Samples
from spectra.shift.shift import SpectralShift


class ConceptDeltas:
    """One parameter for each weight: the adapter's own `[r]` for one concept, `[concepts, r]` for several.

    Attributes:
        parameters: by weight name.
        rows: which concept each sample of a batch belongs to; None for one concept.
    """

    def __init__(self, adapter: Adapter, concepts: int) -> None:
        """Begin at zero, in training mode."""
        self.adapter = adapter
        self.rows = Samples(torch.arange(concepts)) if concepts > 1 else None
        self.parameters = adapter.deltas
        if self.rows is not None:
            self.parameters = {
                name: nn.Parameter(delta.new_zeros(concepts, len(delta))) for name, delta in adapter.deltas.items()
            }
        self.train()

    def start_from(self, shift: SpectralShift, concept: int) -> None:
        """Let a concept begin at a shift.

        Raises:
            MismatchError: it was trained on another base, or on other targets.
        """
        check = self.adapter.compare(shift, "init_shift")
        check.require_base("start from a shift of this base, or carry it over to this one (spectra transplant)")
        check.require_original("start from a shift of this very base, or from none")
        self.adapter.set(shift)
        if self.rows is not None:
            with torch.no_grad():
                for name, delta in self.adapter.deltas.items():
                    self.parameters[name][concept] = delta

    def train(self) -> None:
        """Let the model compute with all concepts' deltas, a row for each sample."""
        if self.rows is None:
            self.adapter.train()
        else:
            self.adapter.patch(self.parameters, self.rows)

    @contextmanager
    def drawing(self, concept: int) -> Iterator[None]:
        """Within the block the model draws with one concept's shift, at the speed of the base."""
        if self.rows is not None:
            self.adapter.set(self.of(concept))
            self.adapter.patch()
        self.adapter.eval()
        try:
            yield
        finally:
            self.train()

    def of(self, concept: int) -> dict[str, Tensor]:
        """One concept's deltas, `[r]` by weight name."""
        rows = self.rows
        return {name: (delta if rows is None else delta[concept]).detach() for name, delta in self.parameters.items()}

    def shift(self, concept: int, **metadata: Any) -> SpectralShift:
        """One concept's shift; `metadata` as `Adapter.shift` takes it."""
        if self.rows is not None:
            self.adapter.set(self.of(concept))
        return self.adapter.shift(**metadata)
