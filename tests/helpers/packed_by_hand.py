"""The values of a packed file, decoded as docs/file-format.md says: to the letter, and one number at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def decoded(parts: Mapping[str, np.ndarray[Any, Any]], pieces: Sequence[tuple[int, int, float]]) -> list[np.ndarray]:
    """The values of each piece, float32.

    Args:
        parts: the file's arrays.
        pieces: length, class (-1: all zero) and step of each.
    """
    classes = 1 + max(each for _, each, _ in pieces)
    tables = parts["tables"].reshape(classes, 2, -1).astype(int)
    x, words = [int(state) for state in parts["states"]], [int(word) for word in parts["words"]]
    trellis, read, coded = [0] * len(x), 0, []
    for each in (each for length, each, _ in pieces if each >= 0 for _ in range(length)):
        lane = len(coded) % len(x)
        odd, slot = trellis[lane] & 1, x[lane] & 4095
        ends = np.cumsum(tables[each, odd])
        token = int(np.searchsorted(ends, slot, side="right"))
        frequency = int(tables[each, odd, token])
        x[lane] = frequency * (x[lane] >> 12) + slot - (int(ends[token]) - frequency)
        if x[lane] < 65536:
            x[lane], read = x[lane] << 16 | words[read], read + 1
        trellis[lane] = (trellis[lane] >> 1) ^ (33 * (trellis[lane] & 1)) ^ (10 * (token & 1))
        coded.append((token, odd))
    assert (read, set(x)) == (len(words), {65536})
    numbers = iter(_numbers(coded, parts["bits"]))
    return [
        np.array([0.0 if each < 0 else np.float32(next(numbers) * step) for _ in range(length)], np.float32)
        for length, each, step in pieces
    ]


def _numbers(coded: Sequence[tuple[int, int]], stored: np.ndarray[Any, Any]) -> list[int]:
    """Levels with their signs, in steps."""
    bits = iter(np.unpackbits(stored).tolist())
    negative = [next(bits) if token else 0 for token, _ in coded]
    widths = [0 if token < 32 else (token - 32) // 16 + 1 for token, _ in coded]
    low = [0] * len(coded)
    for plane in range(max(widths)):
        for i, width in enumerate(widths):
            low[i] |= next(bits) << plane if width > plane else 0
    numbers = []
    for (token, odd), between, sign in zip(coded, low, negative, strict=True):
        octave, rest = divmod(token - 32, 16)
        eighth, last = divmod(rest, 2)
        k = token if token < 32 else (((8 + eighth) << (octave + 1) | between) << 1) | last
        numbers.append((-1) ** sign * max(2 * k - odd, 0))
    return numbers
