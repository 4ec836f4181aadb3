"""Merging shifts: methods (`linear`, `spherical`, `ties_and_dare`), recipes, and what a merge does to its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectra.combine.merging import linear, spherical, ties_and_dare
from spectra.combine.merging.recipe import Parent, Recipe, find_parents, read_recipe
from spectra.combine.merging.registry import METHODS
from spectra.combine.merging.run import Merged, replay
from spectra.combine.merging.sources import ShiftOrPath
from spectra.errors import InputError

__all__ = ["METHODS", "Merged", "Parent", "Recipe", "find_parents", "merge", "read_recipe", "replay"]

_REGISTERED = (linear, ties_and_dare, spherical)


def merge(
    shifts: Sequence[ShiftOrPath],
    method: str = "weighted",
    *,
    weights: Sequence[float] = (),
    scales: Sequence[float] = (),
    blocks: Mapping[str, float | Sequence[float]] | None = None,
    seed: int = 0,
    outer_rank: int | None = None,
    **parameters: float,
) -> Merged:
    """Merge shifts of one base.

        merge([dog, "style.safetensors"], "ties", density=0.3, blocks={"unet.up_blocks.1": (1, 0)}).shift

    Args:
        shifts: shifts, or their files.
        method: one of `METHODS`.
        weights: one for each shift, or one for all; for `interpolate` and `slerp` alpha alone (1 is the first).
        scales: factors on the shifts, 1 by default.
        blocks: by pattern, the weights (or alpha) for the layers that it means.
        seed: of methods that draw at random.
        outer_rank: outer terms kept of each weight, the best of that number; all by default.
        parameters: of the method.

    Raises:
        SpectraError: as `replay`.
    """
    if scales and len(scales) != len(shifts):
        raise InputError(f"expected one scale for each of {len(shifts)} shifts, got {len(scales)}")
    factors = scales or [1.0] * len(shifts)
    layers = {
        pattern: (given,) if isinstance(given, (int, float)) else tuple(given)
        for pattern, given in (blocks or {}).items()
    }
    recipe = Recipe(
        method=method,
        parents=tuple(Parent(scale=float(scale)) for scale in factors),
        weights=tuple(weights),
        blocks=tuple(layers.items()),
        parameters=parameters,
        seed=seed,
        outer_rank=outer_rank,
    )
    return replay(shifts, recipe)
