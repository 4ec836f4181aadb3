"""The shifts that one live model has: which are loaded, which are in force, and how that is put there and undone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from spectra.adapters.adapter_weights import Weights
from spectra.adapters.binding import Binding
from spectra.adapters.others_work import check_no_fused_lora, check_not_on_disk
from spectra.adapters.projections import check_unfused, refresh_fused, refuse_fusing
from spectra.adapters.served_changes import stacked, total_changes
from spectra.errors import MismatchError
from spectra.layers.change import Change
from spectra.layers.per_sample import Samples
from spectra.naming.blocks import sees_one_sequence
from spectra.shift.shift import SpectralShift

_ATTRIBUTE = "_spectra_shifts"
"""Of a model: what is loaded into it. So a deep copy of the model has its own, and it goes when the model goes."""


class ServedModel:
    """The shifts loaded into one model.

    Attributes:
        component: what it is called in a pipeline.
        shifts: by the name they were loaded under; those that change a weight of this model.
        active: weights by name of those in force, or to be when `enabled`.
        enabled: whether active shifts are in force.
        fused: whether they are in the weights, or computed beside where that takes no more than their rank.
        bindings: of every weight that a shift has, by name.
        sampling: every sample of a batch has shifts of its own now.
    """

    def __init__(self, component: str) -> None:
        self.component = component
        self.shifts: dict[str, SpectralShift] = {}
        self.active: dict[str, Weights] = {}
        self.enabled = self.fused = True
        self.bindings: dict[str, Binding] = {}
        self.sampling = self._refuses_fusing = False

    def __deepcopy__(self, memo: dict[int, Any]) -> ServedModel:
        """For a copy of the model: shifts are shared, since they are never changed."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.shifts, twin.active = dict(self.shifts), dict(self.active)
        twin.bindings = copy.deepcopy(self.bindings, memo)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, as by torch.save, it is nothing: a model that is read again has the weights that were in force."""
        return _nothing, ()

    def __copy__(self) -> ServedModel:
        twin = ServedModel(self.component)
        vars(twin).update(vars(self))
        return twin

    def check_ready(self, model: nn.Module) -> None:
        """Check, before anything changes, that shifts can be changed now.

        Raises:
            MismatchError: a block of `per_sample` has not ended, or another program has changed the weights.
            WeightError: weights are offloaded so that they cannot be changed.
        """
        if self.sampling:
            raise MismatchError("shifts cannot be changed within spectra.per_sample; leave its block first")
        check_not_on_disk(model)
        for binding in self.bindings.values():
            binding.check_present()
        written = [binding for binding in self.bindings.values() if binding.live.frozen is not None]
        check_no_fused_lora(model, {module for binding in written for module in binding.target.modules})
        for binding in written:
            binding.check_unwritten()

    def put(self, model: nn.Module, active: Mapping[str, Weights]) -> None:
        """Put exactly these shifts in force, one weight after the other. What fails midway leaves the base."""
        beside = not self.fused or any(binding.target.quantised for binding in self.bindings.values())
        if beside and active and not self._refuses_fusing:
            check_unfused([model])
        try:
            changes = self._total(active)
            for name, binding in self.bindings.items():
                binding.put(changes.get(name), beside=not self.fused)
        except BaseException:
            self.restore(model)
            self.active = {}
            raise
        self.active, self.enabled = dict(active), True
        self._settle(model)

    def restore(self, model: nn.Module) -> None:
        """Give every module its own weight and forward back."""
        for binding in self.bindings.values():
            binding.restore()
        self._settle(model)

    def disable(self, model: nn.Module) -> None:
        """The base, until `enable` puts what is active in force again."""
        self.restore(model)
        self.enabled = False

    def enable(self, model: nn.Module) -> None:
        """What is active is in force."""
        if not self.enabled:
            self.put(model, self.active)

    def forget(self, model: nn.Module, names: set[str]) -> None:
        """Forget shifts, and weights that no other has: they are the base's again."""
        left = {name: weights for name, weights in self.active.items() if name not in names}
        if len(left) < len(self.active) and self.enabled:
            self.put(model, left)
        self.active = left
        self.shifts = {name: shift for name, shift in self.shifts.items() if name not in names}
        unused = self.bindings.keys() - {key for shift in self.shifts.values() for key in shift}
        for key in unused:
            self.bindings.pop(key).restore()
        if unused:
            self._settle(model)

    @contextmanager
    def per_sample(self, model: nn.Module, rows: Sequence[Mapping[str, Weights]], images: int) -> Iterator[None]:
        """Within the block every sample of a batch takes its own sum of shifts, through patched forwards.

        Before it, nothing is in force; nothing is afterwards.
        """
        check_unfused([model])
        self.sampling = True
        try:
            self._patch(rows, images)
            self._settle(model)
            yield
        finally:
            self.sampling = False
            self.restore(model)

    def _patch(self, rows: Sequence[Mapping[str, Weights]], images: int) -> None:
        distinct = list({str(row): row for row in rows}.values())
        numbers = torch.tensor([distinct.index(row) for row in rows])
        samples, totals = Samples(numbers, images), [self._total(row) for row in distinct]
        for name, binding in self.bindings.items():
            if not any(name in total for total in totals):
                continue
            if sees_one_sequence(name):
                raise MismatchError(
                    f"{name} computes once for all samples of a batch, none of which can have its own change there; "
                    "activate one shift at a time, or train without that weight"
                )
            changes = [total.get(name, Change()) for total in totals]
            change = stacked(changes, binding.live.parameter.device)
            if next(change.tensors(), None) is not None:
                binding.patch(change, samples)

    def _total(self, active: Mapping[str, Weights]) -> dict[str, Change]:
        """The sum of scaled shifts by weight, its deltas as long as the bindings have directions."""
        terms = [(weights, self.shifts[name]) for name, weights in active.items() if name in self.shifts]
        changes = total_changes(terms, self.bindings)
        return {name: self.bindings[name].fitted(change) for name, change in changes.items()}

    def _settle(self, model: nn.Module) -> None:
        """What follows from other values in weights, and from forwards that are patched or no longer."""
        refresh_fused(model)
        beside = any(binding.layers for binding in self.bindings.values())
        if beside != self._refuses_fusing:
            refuse_fusing([model], beside)
            self._refuses_fusing = beside


def served(model: nn.Module) -> ServedModel | None:
    """What is loaded into a model, if anything ever was."""
    found: ServedModel | None = vars(model).get(_ATTRIBUTE)
    return found


def serve(model: nn.Module, component: str) -> ServedModel:
    """What is loaded into a model, nothing at first.

    Raises:
        MismatchError: shifts are loaded into it under another component's name.
    """
    found = served(model)
    if found is None or not found.shifts:
        fresh = ServedModel(component)
        fresh.fused = found is None or found.fused
        vars(model)[_ATTRIBUTE] = found = fresh
    if found.component != component:
        raise MismatchError(
            f"this model has shifts as {found.component!r}, and is given as {component!r}; give the pipeline that they "
            "were loaded into, or unload them first"
        )
    return found


def _nothing() -> None:
    """What is loaded into a model that was pickled."""
