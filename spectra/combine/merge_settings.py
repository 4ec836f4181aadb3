"""What a merge can be asked for, and the ranges of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from spectra.settings import LARGEST_SEED, Setting, declared_settings, setting

_merging = partial(setting, panel="How they are merged")


@dataclass(frozen=True)
class MergeSettings:
    """How shifts are merged; None is the method's own default."""

    method: str = _merging(
        "",
        "Merging method, one of --list. add gives what spectra generate draws with these shifts together.",
        default_text="interpolate with --alpha, weighted with --weights, else add",
    )
    alpha: float | None = _merging(None, "Share of the first shift in interpolate and slerp: 1 is the first alone.")
    weights: str = _merging("", "Weight of each shift, or one weight for all.", metavar="W,W,...")
    block_weights: tuple[str, ...] = _merging(
        (),
        "Other weights (or alpha) for some layers: a subset, a block as inspect shows it, or a pattern such as "
        "'unet.*attn2*'. Repeatable; the last one that means a layer holds.",
        metavar="PATTERN=W[,W...]",
    )
    density: float | None = _merging(None, "Share of values that is kept.", above=0, most=1)
    epsilon: float | None = _merging(None, "Spread of the shares that della keeps, around density.", least=0, below=1)
    gamma: float | None = _merging(None, "Share of the largest values that breadcrumbs leaves out.", least=0, below=1)
    outer_rank: int | None = _merging(
        None,
        "Outer terms kept of each weight: the best of that number, with the error told.",
        least=1,
        default_text="all, exactly",
    )
    seed: int | None = _merging(None, "Seed of methods that draw at random.", most=LARGEST_SEED, default_text="0")


PARAMETERS: Mapping[str, Setting] = {
    name: declared
    for name, declared in declared_settings(MergeSettings).items()
    if name in ("density", "epsilon", "gamma")
}
"""Settings that are parameters of single methods."""
