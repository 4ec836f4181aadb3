"""What is loaded into the models of a pipeline together: a name means the same in all, and all change or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from torch import nn

from spectra.adapters.adapter_weights import AdapterWeights, Weights, weights_of
from spectra.adapters.served_model import ServedModel, serve, served
from spectra.errors import MismatchError
from spectra.families import components
from spectra.shift.shift import SpectralShift


class Served:
    """The models of a pipeline that have shifts, or had some.

    Args:
        pipe: a pipeline, a mapping of components or a bare model.
        make: of the parts with these names begin with no shift where none was ever loaded.

    Attributes:
        models: all that can carry a shift, by component.
    """

    def __init__(self, pipe: Any, make: Callable[[str], bool] = lambda name: False) -> None:
        self.models = components(pipe)
        self._states: dict[str, ServedModel] = {}
        for name, model in self.models.items():
            state = serve(model, name) if make(name) else served(model)
            if state is not None:
                self._states[name] = state

    def __iter__(self) -> Iterator[tuple[nn.Module, ServedModel]]:
        return ((self.models[name], state) for name, state in self._states.items())

    @property
    def shifts(self) -> dict[str, SpectralShift]:
        """All that are loaded, by name."""
        return {name: shift for state in self._states.values() for name, shift in state.shifts.items()}

    def checked(self) -> Self:
        """The same, once every model was found ready for a change (see `ServedModel.check_ready`)."""
        for model, state in self:
            state.check_ready(model)
        return self

    def check_loaded(self, name: str) -> None:
        """Raise a MismatchError if no shift of that name is loaded."""
        if name not in self.shifts:
            loaded = ", ".join(sorted(self.shifts)) or "none"
            raise MismatchError(f"no shift named {name!r} is loaded; loaded: {loaded}")

    def weights(self, scales: Mapping[str, AdapterWeights] | str) -> dict[str, Weights]:
        """Weights by name, each of a loaded shift; `scales` may be one name at scale 1.

        Raises:
            MismatchError: a name that is not loaded, or a scale that is none.
        """
        scales, found = {scales: 1.0} if isinstance(scales, str) else scales, {}
        for name, given in scales.items():
            self.check_loaded(name)
            found[name] = weights_of(given, name, self.shifts[name])
        return found

    def put(self, active: Mapping[str, Weights]) -> None:
        """Put exactly these shifts in force, in all models or in none."""
        with self.checked().unchanged_by_failure():
            for model, state in self:
                state.put(model, {name: weights for name, weights in active.items() if name in state.shifts})

    @contextmanager
    def unchanged_by_failure(self) -> Iterator[None]:
        """What fails within the block leaves everything as it was before."""
        before = [
            (model, state, dict(state.shifts), dict(state.bindings), dict(state.active), state.enabled, state.fused)
            for model, state in self
        ]
        try:
            yield
        except BaseException:
            for model, state, shifts, bindings, active, enabled, fused in before:
                state.restore(model)
                state.shifts, state.bindings, state.fused = shifts, bindings, fused
                state.active, state.enabled = active, enabled
                if enabled:
                    state.put(model, active)
            raise
