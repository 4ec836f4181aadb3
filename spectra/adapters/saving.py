"""Writing the shifts that are active in a live model as one file."""

from __future__ import annotations

import os
from typing import Any

from spectra.adapters.adapter_weights import Weights
from spectra.adapters.served_pipeline import Served
from spectra.errors import MismatchError
from spectra.shift.shift import SpectralShift, combine
from spectra.shift.shift_file import write_shift


def active_shift(pipe: Any) -> SpectralShift:
    """What is active in a pipeline or model, as one shift: the sum of the scaled shifts, block by block.

    Raises:
        MismatchError: nothing is active, or shifts of different bases are.
    """
    served = Served(pipe)
    active = {name: weights for _, state in served for name, weights in state.active.items()}
    terms = [term for name, weights in active.items() for term in _terms(served.shifts[name], weights)]
    if not terms:
        loaded = ", ".join(sorted(served.shifts)) or "none"
        raise MismatchError(f"no shift is active; loaded: {loaded}; call spectra.activate(pipe, ...) first")
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    return combine(terms)


def save(pipe: Any, path: str | os.PathLike[str], *, error: float | None = None, force: bool = False) -> SpectralShift:
    """Write what is active as one shift file: loaded at scale 1, it does what these shifts did together.

    Args:
        pipe: as given to `load`.
        path: of the file.
        error: pack the values to this relative error, as `write_shift` does.
        force: replace a file that is there.

    Returns:
        The shift that was written.

    Raises:
        MismatchError: nothing is active, or shifts of different bases are.
        OutputError: the file is there already, or cannot be written.
    """
    shift = active_shift(pipe)
    write_shift(shift, path, error=error, force=force)
    return shift


def _terms(shift: SpectralShift, weights: Weights) -> list[tuple[float, SpectralShift]]:
    """A shift as parts of one scale each."""
    names: dict[float, list[str]] = {}
    for name in shift:
        names.setdefault(weights.of(name), []).append(name)
    if len(names) == 1:
        return [(next(iter(names)), shift)]
    return [(scale, shift.restricted(",".join(chosen))) for scale, chosen in names.items()]
