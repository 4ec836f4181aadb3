"""The entropy coder: an asymmetric numeral system (rANS; Duda, arXiv:1311.2540), many sequences in lockstep.

Whole numbers only, so that every machine decodes the same. It is written here, and not taken from a library, because a
token's frequencies depend on the trellis' state, and so on the tokens before it: no library's call decodes that
without going token by token through Python.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra.shift.packing.trellis import Integers, successors

PRECISION = 12
"""Frequencies of a context sum up to 2**PRECISION."""

_TOTAL = 1 << PRECISION
_LOWEST, _WORD = 1 << 16, 16
"""A coder's state lies from `_LOWEST` to below `_LOWEST << _WORD`; what does not fit leaves as words of 16 bits."""


def scale_counts(counts: Integers) -> npt.NDArray[np.uint16]:
    """Frequencies that sum up to 2**PRECISION, at least 1 for whatever occurs; `[tokens]`.

    Without any count, token 0 has all of them.
    """
    if not counts.any():
        counts = np.eye(1, len(counts), dtype=np.int64)[0]
    scaled = np.where(counts > 0, np.maximum(counts * _TOTAL // counts.sum(), 1), 0)
    while (excess := int(scaled.sum()) - _TOTAL) != 0:
        largest = scaled.argmax()
        scaled[largest] -= min(excess, int(scaled[largest] + 1) // 2)
    return scaled.astype(np.uint16)


def encode(
    tokens: Integers, contexts: Integers, frequencies: npt.NDArray[np.uint16], lanes: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    """The final state of every lane, and the words that `decode` reads.

    Args:
        tokens: `[n]`; token i belongs to lane `i % lanes`.
        contexts: `[n]`, rows of the frequencies.
        frequencies: `[contexts, tokens]`, each row from `scale_counts`.
        lanes: as for the trellis.
    """
    starts = np.cumsum(frequencies, axis=1, dtype=np.int64) - frequencies
    frequency, start = frequencies[contexts, tokens].astype(np.int64), starts[contexts, tokens]
    state = np.full(lanes, _LOWEST, dtype=np.int64)
    words: list[Integers] = []
    for first in range((len(tokens) - 1) // lanes * lanes, -1, -lanes):
        f, c = frequency[first : first + lanes], start[first : first + lanes]
        x = state[: len(f)]
        full = x >= f << (2 * _WORD - PRECISION)
        words.append((x[full] & 0xFFFF)[::-1])
        x = np.where(full, x >> _WORD, x)
        state[: len(f)] = (x // f << PRECISION) + x % f + c
    reversed_words = np.concatenate(words)[::-1] if words else np.empty(0)
    return state.astype(np.uint32), reversed_words.astype(np.uint16)


def decode(
    states: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint16],
    classes: npt.NDArray[np.integer],
    frequencies: npt.NDArray[np.uint16],
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Tokens, and whether the trellis' state was odd before each.

    Args:
        states: of the lanes, from `encode`.
        words: from `encode`.
        classes: `[n]`; the context is `2 * class + odd`.
        frequencies: `[contexts, tokens]`.

    Raises:
        ValueError: states and words are not what `encode` made.
    """
    if (frequencies.sum(1, dtype=np.int64) != _TOTAL).any():
        raise ValueError(f"expected frequencies that sum up to {_TOTAL}")
    flat = frequencies.reshape(-1)
    starts = (np.cumsum(frequencies, axis=1, dtype=np.int64) - frequencies).astype(np.uint16).reshape(-1)
    # For each context and slot: its token, the token's frequency, and the slot's place in its interval.
    token_of = np.repeat(np.tile(np.arange(frequencies.shape[1], dtype=np.uint16), len(frequencies)), flat)
    frequency = np.repeat(flat, flat)
    offset = np.tile(np.arange(_TOTAL, dtype=np.uint16), len(frequencies)) - np.repeat(starts, flat)

    count, lanes, following = len(classes), len(states), successors().reshape(-1)
    tokens, odd = np.empty(count, dtype=np.uint16), np.empty(count, dtype=np.uint8)
    state, place = states.astype(np.int64), 0
    trellis = np.zeros(lanes, dtype=np.int64)
    for first in range(0, count, lanes):
        row = classes[first : first + lanes].astype(np.int64) << (PRECISION + 1)
        if len(row) < lanes:
            trellis = trellis[: len(row)]
        x, was_odd = state[: len(row)], trellis & 1
        entry = row + (was_odd << PRECISION) + (x & (_TOTAL - 1))
        token = token_of[entry]
        x = frequency[entry] * (x >> PRECISION) + offset[entry]
        low = np.flatnonzero(x < _LOWEST)
        read = words[place : place + len(low)]
        if len(read) < len(low):
            raise ValueError("the words end too early")
        x[low] = x[low] << _WORD | read
        place += len(low)
        state[: len(row)] = x
        tokens[first : first + lanes], odd[first : first + lanes] = token, was_odd
        trellis = following[2 * trellis + (token & 1)]
    if place != len(words) or (state != _LOWEST).any():
        raise ValueError("the words do not end where the values do")
    return tokens, odd
