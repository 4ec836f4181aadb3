"""The tensors that spectra's layers hold on the card beside the model's own, to be counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spectra.layers.singular_vectors import SingularVectors

if TYPE_CHECKING:
    from spectra.adapters.binding import Layer

_NOT_OWN = ("module", "_module", "delta", "change", "spectrum", "_directions", "_shifted")
"""What a layer holds that is counted elsewhere, or lies in main memory."""


def held_tensors(layers: Iterable[Layer]) -> list[Tensor]:
    """Every tensor that the layers hold, what is trained, the module's own and spectra in main memory apart."""
    return [
        tensor
        for layer in layers
        for holder in (layer, *(v for v in vars(layer).values() if isinstance(v, SingularVectors)))
        for tensor in _tensors({name: v for name, v in vars(holder).items() if name not in _NOT_OWN})
    ]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _tensors(vars(value))
