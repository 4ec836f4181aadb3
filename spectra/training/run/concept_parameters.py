"""The parameters of all concepts of a training, on one attached base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spectra.adapters.training_adapter import Adapter
from spectra.layers.per_sample import Samples
from spectra.shift.shift import SpectralShift
from spectra.training.run.concept_words import ConceptWords


class ConceptParameters:
    """The adapter's own parameters for one concept; for several, each with a row for every concept.

    Attributes:
        parameters: by key, see `live_parameters`.
        words: the special words of which vectors are learnt.
        rows: which concept each sample of a batch belongs to; None for one concept.
        lean: make no changed weights for drawing, which take as much memory as the frozen ones.
    """

    def __init__(
        self, adapter: Adapter, concepts: int, words: ConceptWords | None = None, *, lean: bool = False
    ) -> None:
        """Begin where the adapter does, in training mode."""
        self.adapter, self.lean = adapter, lean
        self.words = words or ConceptWords()
        self.rows = Samples(torch.arange(concepts)) if concepts > 1 else None
        self.parameters = adapter.by_key
        if self.rows is not None:
            self.parameters = {
                key: nn.Parameter(own.detach().expand(concepts, *own.shape).clone())
                for key, own in adapter.by_key.items()
            }
            self.words.keep_apart(self.parameters)
        self.train()

    def start_from(self, shift: SpectralShift, concept: int) -> None:
        """Let a concept begin at a shift.

        Raises:
            MismatchError: it was trained on another base, on other targets, or for another special word.
        """
        self.words.check_start(shift, concept)
        check = self.adapter.compare(shift, "init_shift")
        check.require_base("start from a shift of this base, or carry it over to this one (spectra transplant)")
        check.require_original("start from a shift of this very base, or from none")
        self.adapter.set(shift)
        if self.rows is not None:
            with torch.no_grad():
                for key, own in self.adapter.by_key.items():
                    self.parameters[key][concept] = own

    def train(self) -> None:
        """Let the model compute with all concepts' parameters, a row for each sample."""
        if self.rows is None:
            self.adapter.train()
        else:
            self.adapter.patch(self.parameters, self.rows)

    @contextmanager
    def drawing(self, concept: int) -> Iterator[None]:
        """Within the block the model draws with one concept's shift, at the speed of the base unless `lean`."""
        if self.rows is not None:
            self.adapter.copy(self.of(concept))
            self.adapter.patch()
        if not self.lean:
            self.adapter.eval()
        try:
            yield
        finally:
            self.train()

    def of(self, concept: int) -> dict[str, Tensor]:
        """One concept's parameters, by key."""
        rows = self.rows
        return {key: (value if rows is None else value[concept]).detach() for key, value in self.parameters.items()}

    def shift(self, concept: int, **metadata: Any) -> SpectralShift:
        """One concept's shift; `metadata` as `Adapter.shift` takes it."""
        if self.rows is not None:
            self.adapter.copy(self.of(concept))
        return self.words.shift(self.adapter.shift(**metadata), concept)
