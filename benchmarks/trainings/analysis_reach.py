"""How much of what a subject asks of the weights lies along their singular directions: the `reach` rows of analysis.

A shift of `W = U diag(sigma) V^T` reaches the part `sum_i (u_i^T D v_i)^2` of the energy `||D||^2` of any change `D`
(`spectra.convert.closest_shift`). `D` is, for every matrix and convolution of the UNet,

    gradient   that of the subject's loss at the base, over one batch of `BATCH` samples
    full       what full fine-tuning changed, by the steps and the best rate of `spectra bench quality`

and the shares are of the energy of all weights together:

    spectral   along the singular directions: what a shift can do at best
    random     what a change without any direction of its own would have there: `1 / max(rows, columns)` of each weight
    rank K     in the best approximation of rank K of each weight's: what a LoRA of that rank can do at best
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Row

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.training.config import TrainConfig

BATCH = 32
STEPS, RATE = 100, 3e-4
RANKS = (1, 4, 16)
_TINY = 1e-6
"""A gradient has no length of its own: this short, no singular value goes below zero along it."""


def reach(bench: Bench, kind: str, name: str) -> Row:
    """The shares of one subject's gradient, or of full fine-tuning's change."""
    from spectra.bases.pipeline import load_pipeline
    from spectra.training.config import defaults

    base = bench.once("reached", load_pipeline)
    config = replace(defaults("", "svdiff"), subject=name, seed=bench.seed)
    weights = _matrices(base)
    found = {"gradient": _gradient, "full": _change}[kind](base, config)
    return shares(weights, found)


def shares(weights: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, float]:
    """What of the energy of `changes`, each of its weight's shape, is reached by what; see the module."""
    import torch

    from spectra.convert.closest_shift import ChangeOf, find_closest, summed
    from spectra.spectrum.spectrum import matrix

    def taken(own: Tensor) -> ChangeOf:
        return lambda weight: own

    found = find_closest(weights, {name: taken(own) for name, own in changes.items()})
    shift = summed("all", (each.captured for each in found.values()))
    energies = {name: torch.linalg.svdvals(matrix(own).double()).square() for name, own in changes.items()}
    ranked = {f"rank_{k}": sum(float(each[:k].sum()) for each in energies.values()) for k in RANKS}
    by_chance = sum(float(each.sum()) / max(matrix(changes[name]).shape) for name, each in energies.items())
    parts = {"spectral": shift.change - shift.rest, "random": by_chance, **ranked}
    return {name: round(part / shift.change, 5) for name, part in parts.items()}


def _gradient(base: Any, config: TrainConfig) -> dict[str, Tensor]:
    from spectra.benchmarks.trainings.finetune import loop_of
    from spectra.benchmarks.trainings.tuners import tuner

    tuned = tuner("full", base)
    loop_of(tuned, base, replace(config, batch=BATCH)).dry_run()
    return {name: weight.grad * _TINY for name, weight in _matrices(tuned.pipe).items() if weight.grad is not None}


def _change(base: Any, config: TrainConfig) -> dict[str, Tensor]:
    from spectra.benchmarks.trainings.finetune import finetune

    done = finetune("full", base, replace(config, steps=STEPS, lr=RATE, lr_1d=RATE))
    before = _matrices(base)
    return {name: weight.detach() - before[name].detach() for name, weight in _matrices(done.pipe).items()}


def _matrices(pipe: Any) -> dict[str, Tensor]:
    from spectra.families import targets

    return {target.name: target.weight for target in targets(pipe, "unet") if target.weight.ndim > 1}
