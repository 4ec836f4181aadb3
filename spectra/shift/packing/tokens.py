"""A whole number as a token, which is entropy-coded, and bits below it, which are stored as they are.

Numbers below 32 are tokens of their own. Above, a token stands for an eighth of an octave and keeps the number's last
bit, which decides the trellis' next state. The sign is one bit more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra.shift.packing.trellis import Integers

_DIRECT, _FIRST_OCTAVE, _PER_OCTAVE = 32, 5, 16
HIGHEST = 44
"""Octaves: the largest number is below 2**45."""

COUNT = _DIRECT + _PER_OCTAVE * (HIGHEST - _FIRST_OCTAVE + 1)
"""The number of tokens."""


def to_tokens(k: Integers) -> tuple[Integers, Integers]:
    """The token of each number, and how many bits below it are stored.

    Args:
        k: `[n]`, from 0 to below `2**(HIGHEST + 1)`.
    """
    octave = np.frexp(k.astype(np.float64))[1].astype(np.int64) - 1
    beyond = k >= _DIRECT
    width = np.where(beyond, octave - 4, 0)
    eighth = (k >> (width + 1)) & 7
    direct = _DIRECT + _PER_OCTAVE * (octave - _FIRST_OCTAVE) + 2 * eighth + (k & 1)
    return np.where(beyond, direct, k), width


def widths(tokens: Integers) -> Integers:
    """The number of bits stored below each token."""
    return np.where(tokens < _DIRECT, 0, (tokens - _DIRECT) // _PER_OCTAVE + 1)


def write_bits(k: Integers, negative: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The signs of all numbers but 0, then the bits below the tokens: first the lowest of all that have one, and so on.

    Returns:
        Bytes; the last is filled up with zeros.
    """
    width = to_tokens(k)[1]
    planes = [negative[k > 0]]
    planes += [((k[width > plane] >> (plane + 1)) & 1).astype(bool) for plane in range(int(width.max(initial=0)))]
    return np.packbits(np.concatenate(planes))


def read_bits(tokens: Integers, stored: npt.NDArray[np.uint8]) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Numbers and signs from `write_bits`.

    Raises:
        ValueError: there are more or fewer bits than the tokens ask for.
    """
    width = widths(tokens)
    nonzero = tokens > 0
    wanted = int(nonzero.sum() + width.sum())
    if len(stored) != -(-wanted // 8):
        raise ValueError(f"expected {-(-wanted // 8)} bytes of signs and low bits, got {len(stored)}")
    bits = np.unpackbits(stored)
    negative = np.zeros(len(tokens), dtype=bool)
    place = int(nonzero.sum())
    negative[nonzero] = bits[:place].astype(bool)
    below = np.zeros(len(tokens), dtype=np.int64)
    for plane in range(int(width.max(initial=0))):
        holds = width > plane
        end = place + int(holds.sum())
        below[holds] |= bits[place:end].astype(np.int64) << plane
        place = end
    eighth = ((tokens - _DIRECT) % _PER_OCTAVE) >> 1
    beyond = ((((8 + eighth) << width) | below) << 1) | (tokens & 1)
    return np.where(tokens < _DIRECT, tokens, beyond), negative
