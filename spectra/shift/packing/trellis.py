"""Trellis-coded quantisation: a coarse quantiser whose levels depend on the numbers before, and the path through it.

A level is a multiple of the step. In an even state the even multiples can be reached, 2 k; in an odd state 0 and the
odd ones, (2 k - 1) with the sign of the value, where k = 0, 1, 2, ... The parity of k leads to the next state. So each
number costs what a quantiser of twice the step costs, and the Viterbi algorithm finds the path whose levels lie
nearest: 1.26 dB less error than a uniform quantiser's at 64 states, of 1.53 dB that any quantiser could gain.

(Marcellin and Fischer, Trellis coded quantization of memoryless and Gauss-Markov sources, IEEE Trans. Comm. 38, 1990;
the two sets of levels are those of dependent quantisation in H.266.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Rate: TypeAlias = Callable[[Integers, int], Floats]
"""Bits that the magnitudes k [n] cost in the even (0) or the odd (1) states."""

STATES = 64

_PARITY, _INPUT = 0o103, 0o024
"""Ungerboeck's parity-check polynomials for 64 states (IEEE Trans. Inf. Theory 28, 1982, table I)."""

RATE_WEIGHT = 0.35
"""Squared steps that a bit is worth: at high rates d(error)/d(bits) = 2 ln 2 times the squared error of 0.26."""


def successors() -> Integers:
    """The next state, `[STATES, 2]`, by the state and the parity of k."""
    state, parity = np.arange(STATES)[:, None], np.arange(2)
    return (state >> 1) ^ ((_PARITY >> 1) * (state & 1)) ^ ((_INPUT >> 1) * parity)


def level(k: Integers, odd: Integers | int) -> Integers:
    """The magnitude of the level, in steps, that `k` stands for in a state that is odd (1) or even (0)."""
    levels: Integers = np.maximum(2 * k - odd, 0)
    return levels


def find_path(values: Floats, lanes: int, rate: Rate | None = None) -> tuple[Integers, Integers]:
    """The magnitudes k, and whether the state was odd before each, for the cheapest path of every lane.

    Args:
        values: `[n]`, in steps. Value i belongs to lane `i % lanes`; the lanes are sequences of their own.
        lanes: number of sequences that are searched side by side.
        rate: weighed against the squared error; by default the error alone counts.

    Returns:
        k and odd, both `[n]`.
    """
    count, steps = len(values), -(-len(values) // lanes)
    magnitudes = np.abs(values)
    choices = np.empty((4, count), dtype=np.int64)
    costs = np.zeros((4, steps * lanes), dtype=np.float32)  # what fills up the last step costs nothing
    for subset in range(4):
        choices[subset], costs[subset, :count] = _nearest(magnitudes, subset >> 1, subset & 1, rate)
    taken = _viterbi(costs.reshape(4, steps, lanes)).reshape(-1)[:count]
    return choices[taken, np.arange(count)], taken >> 1


def _nearest(magnitudes: Floats, odd: int, parity: int, rate: Rate | None) -> tuple[Integers, Floats]:
    """The cheapest k of one parity for each value, and its cost."""
    below = 2 * np.floor((magnitudes + odd - 2 * parity) / 4).astype(np.int64) + parity
    found: list[tuple[Integers, Floats]] = []
    for k in (np.maximum(below, parity), np.maximum(below, parity - 2) + 2):
        cost = np.square(level(k, odd) - magnitudes)
        found.append((k, cost if rate is None else cost + RATE_WEIGHT * rate(k, odd)))
    (near, cost), (far, other) = found
    farther = other < cost
    return np.where(farther, far, near), np.where(farther, other, cost)


def _viterbi(costs: npt.NDArray[np.float32]) -> Integers:
    """The cheapest path from state 0: which subset (2 * odd + parity) each value takes, `[steps, lanes]`.

    Args:
        costs: of each subset, `[4, steps, lanes]`.
    """
    _, steps, lanes = costs.shape
    # Two transitions enter every state: whence they come, and the subset that they take.
    origin, subset = np.empty((2, STATES), dtype=np.int64), np.empty((2, STATES), dtype=np.int64)
    entered = np.zeros(STATES, dtype=np.int64)
    for state, row in enumerate(successors()):
        for parity, following in enumerate(row):
            which = entered[following]
            origin[which, following], subset[which, following] = state, 2 * (state & 1) + parity
            entered[following] += 1
    total = np.full((STATES, lanes), np.float32(1e30))
    total[0] = 0
    second = np.empty((steps, STATES * lanes // 8), dtype=np.uint8)
    for step in range(steps):
        here = costs[:, step]
        first, other = total[origin[0]] + here[subset[0]], total[origin[1]] + here[subset[1]]
        second[step] = np.packbits(other < first)
        total = np.minimum(first, other)
        total -= total.min(0)  # so that float32 keeps its digits
    state, lane = total.argmin(0), np.arange(lanes)
    path = np.empty((steps, lanes), dtype=np.int64)
    for step in range(steps - 1, -1, -1):
        bit = state * lanes + lane
        which = (second[step, bit >> 3] >> (7 - (bit & 7))) & 1
        path[step] = subset[which, state]
        state = origin[which, state]
    return path
