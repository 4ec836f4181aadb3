"""What a subject asks of each weight: the leading singular triplets of its gradient, from a few samples.

With that, `--directions 32:gradient` chooses directions and `--outer 64kB` shares its bytes out. No weight's gradient G
is made: outer terms read it. With `a = 0` the gradient of `a` is `b G^T`, with `b = 0` that of `b` is `a G`, and both
leave the model the base. Two passes, the second with `a` an orthonormal frame of what the first found, are a randomised
singular value decomposition of G (Halko, Martinsson and Tropp, arXiv:0909.4061).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from spectra.adapters.live_parameters import Form, split_key
from spectra.adapters.training_adapter import Adapter
from spectra.errors import InputError
from spectra.training.form import CANDIDATES, ChosenDirections, ChosenTerms
from spectra.training.run.loop import Loop

SAMPLES = 64
"""Samples of each concept that the gradient is taken of."""

WIDTH = 8
"""Outer terms that read it: so many singular triplets are found, the last of them roughly."""

NAME_BYTES = 90
"""Bytes that a file has of a weight beside its name and numbers: in its header, and its fingerprints."""


class WeightGradient(NamedTuple):
    """What was found of one weight's gradient G.

    Attributes:
        delta: `u_i^T G v_i` of the leading directions that were asked for, `[M]`; None for none.
        energy: of each outer term that could take a part of it, the square of its singular value; `[WIDTH]`,
            descending. Of a convolution, the part that a separable term can hold.
        numbers: floats of one outer term.
    """

    delta: Tensor | None
    energy: list[float]
    numbers: int


def choose_form(
    directions: ChosenDirections,
    outer: ChosenTerms,
    attach: Callable[[Form], Adapter],
    make_loop: Callable[[Adapter], Loop],
    *,
    vectors: bool,
) -> Form:
    """The form that a training's settings mean, by the gradient of its subjects where they ask for that.

    Args:
        attach: makes an adapter of a form on the base.
        make_loop: makes the loop of a training with it.
        vectors: whether 1-D weights move.

    Raises:
        InputError: bytes that no term fits into.
    """
    plain = Form(directions.number, outer.each, vectors=vectors)
    if not directions.by_gradient and not outer.budget:
        return plain
    count = (directions.number or 0) * CANDIDATES if directions.by_gradient else 0
    found = _probe(Form(count, WIDTH, vectors=False, separable=False), attach, make_loop)
    if directions.by_gradient:
        chosen = {name: _strongest(each.delta, directions.number or 0) for name, each in found.items()}
        plain = replace(plain, directions=chosen)
    return replace(plain, outer=share_out(found, outer.budget)) if outer.budget else plain


def _probe(
    form: Form, attach: Callable[[Form], Adapter], make_loop: Callable[[Adapter], Loop]
) -> dict[str, WeightGradient]:
    adapter = attach(form)
    try:
        parameters, loop = adapter.train().by_key, make_loop(adapter)
        loop.take_gradient(SAMPLES)
        deltas = {split_key(key)[0]: _gradient(value) for key, value in parameters.items() if key.endswith(".delta")}
        left = {
            name: value for key, value in parameters.items() for name, part in [split_key(key)] if part == "outer.a"
        }
        with torch.no_grad():
            for name, a in left.items():
                frame, _ = torch.linalg.qr(_gradient(a).T.double())
                a.zero_()
                a[: frame.shape[1]] = frame.T.to(a.dtype)
                parameters[f"{name}.outer.b"].zero_()
        loop.take_gradient(SAMPLES)
        found = {}
        for name, a in left.items():
            energy, numbers = _energies(_gradient(parameters[f"{name}.outer.b"]), adapter.shape(name))
            found[name] = WeightGradient(deltas.get(name), energy, numbers + a.shape[1])
        return found
    finally:
        adapter.detach()


def _gradient(parameter: Tensor) -> Tensor:
    """A parameter's gradient, zeros where nothing reached it; taken away from it."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    parameter.grad = None
    return gradient.detach()


def _energies(projected: Tensor, shape: torch.Size) -> tuple[list[float], int]:
    """Energy of each leading term of a gradient, and floats of a term on its right side.

    Args:
        projected: `Q G [k, columns]`, Q an orthonormal frame of its leading left vectors.
        shape: of the weight.
    """
    _, sigma, right = torch.linalg.svd(projected.double(), full_matrices=False)
    if math.prod(shape[2:]) == 1 or shape[1] == 1:
        return sigma.square().tolist(), right.shape[1]
    kernels = right.reshape(len(right), shape[1], -1)
    separable = torch.linalg.svdvals(kernels)[:, 0].square()
    return (sigma.square() * separable).tolist(), shape[1] + kernels.shape[2]


def _strongest(delta: Tensor | None, count: int) -> list[int]:
    """Numbers of the `count` directions of the largest gradient, ascending."""
    if delta is None:
        return []
    return sorted(delta.abs().topk(min(count, len(delta))).indices.tolist())


def share_out(found: Mapping[str, WeightGradient], budget: int) -> dict[str, int]:
    """How many terms each weight gets of `budget` bytes, by name.

    The next is always that with the most energy for its bytes among the weights with the fewest terms: many weights
    with a term each drift less from the base than few with many.

    Raises:
        InputError: not one fits.
    """
    counts = dict.fromkeys(found, 0)
    left = budget
    while True:
        fitting = {name: cost for name in found if (cost := _cost(name, found[name], counts[name])) <= left}
        fitting = {name: cost for name, cost in fitting.items() if counts[name] < len(found[name].energy)}
        if not fitting:
            break
        fewest = min(counts[name] for name in fitting)
        rivals = [name for name in fitting if counts[name] == fewest]
        best = max(rivals, key=lambda name: found[name].energy[fewest] / fitting[name])
        counts[best] += 1
        left -= fitting[best]
    if not any(counts.values()):
        least = min(_cost(name, each, 0) for name, each in found.items())
        raise InputError(f"outer: expected bytes for one term at least, {least} here, got {budget}")
    return {name: count for name, count in counts.items() if count}


def _cost(name: str, gradient: WeightGradient, have: int) -> int:
    """Bytes of one term more in a float16 file."""
    return 2 * gradient.numbers + (0 if have else len(name) + NAME_BYTES)
