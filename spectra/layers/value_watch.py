"""Sees that deltas have other values though their versions are the same.

What layers make of delta is made anew when the tensor's version has changed. A change through `.data`, as classes for
moving averages (EMA) copy, leaves the version as it is. So the values themselves are compared before each forward of a
model whose deltas have kept their versions since the last: a training with one forward per step compares nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import register_optimizer_step_post_hook

from spectra.spectrum.spectrum import has_no_values


def watch_values(deltas: Mapping[nn.Module, Sequence[Tensor]]) -> Callable[[], None]:
    """Before each forward of a model, increase the versions of its deltas if only their values have changed.

    Args:
        deltas: by the model that computes with them.

    Returns:
        A function that ends the watch.
    """
    hooks = ExitStack()
    for model, watched in deltas.items():
        if watched and not any(has_no_values(delta) for delta in watched):
            hooks.callback(model.register_forward_pre_hook(_Watch(watched)).remove)
    return hooks.close


class _Watch:
    """The forward pre-hook of one model: remembers versions and values."""

    def __init__(self, deltas: Sequence[Tensor]) -> None:
        self._deltas = deltas
        self._versions: list[int] = []
        self._values: dict[torch.device, Tensor] = {}

    def __call__(self, *_: object) -> None:
        if torch.compiler.is_compiling():  # a graph makes everything anew in each forward
            return
        values = self._copied()
        if self._versions == [delta._version for delta in self._deltas] and self._differ(values):
            increment_version(list(self._deltas))
        self._versions, self._values = [delta._version for delta in self._deltas], values

    def _copied(self) -> dict[torch.device, Tensor]:
        """All values, one vector for each device: a model may be spread over several."""
        flat: dict[torch.device, list[Tensor]] = {}
        for delta in self._deltas:
            flat.setdefault(delta.device, []).append(delta.detach().flatten())
        return {device: torch.cat(parts) for device, parts in flat.items()}

    def _differ(self, values: Mapping[torch.device, Tensor]) -> bool:
        known = self._values
        return known.keys() != values.keys() or not all(torch.equal(known[device], values[device]) for device in values)


def watch_steps(changed: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Call `changed`, as long as it lives, after every optimizer's step, until what is returned is called."""

    def stepped(*_: Any) -> None:
        if (call := changed()) is not None:
            call()

    remove: Callable[[], None] = register_optimizer_step_post_hook(stepped).remove
    return remove
