"""Models that are in use: a model is trained, or has shifts loaded, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakSet

from torch import nn

from spectra.adapters.forward_patch import is_patched
from spectra.adapters.served_model import served
from spectra.errors import MismatchError

_TRAINED: WeakSet[nn.Module] = WeakSet()
"""Models in which an adapter computes."""


def claim(models: Mapping[str, nn.Module]) -> None:
    """Note that `models` are about to be trained; raise a MismatchError if they are, or have shifts loaded."""
    check_not_training(models)
    for name, model in models.items():
        state = served(model)
        if state is not None and state.shifts:
            raise MismatchError(f"{name} is already in use for serving; call spectra.unload(pipe) first")
    _TRAINED.update(models.values())


def release(models: Mapping[str, nn.Module]) -> None:
    """Note the end of the training that `claim` noted."""
    _TRAINED.difference_update(models.values())


def check_not_training(models: Mapping[str, nn.Module]) -> None:
    """Raise a MismatchError if an adapter computes in one of the models, or in what one is a copy of."""
    for name, model in models.items():
        if model in _TRAINED:
            raise MismatchError(f"{name} is already in use for training; call adapter.detach() first")
        state = served(model)
        if (state is None or not state.shifts) and is_patched(model):
            raise MismatchError(
                f"{name} is a copy of a model in training, and computes as that did; copy the model before the "
                "training, or after adapter.detach()"
            )
