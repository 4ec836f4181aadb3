"""What a shift file may ask for when it is read, so that a small one cannot take much memory or time.

What a file leaves out, or packs to nothing, takes memory all the same: zeros of deltas, and packed values. A few
million are always allowed (FLUX.1 has 1.4 million singular values); more than that takes a file that is large itself.
"""

from __future__ import annotations

MOST_VALUES = 1 << 24
"""Values of one shift, however large its file."""

MOST_PIECES = 1 << 16
"""Deltas, vectors of outer terms, and words of a packed file."""

LONGEST_LIST = 1 << 22
"""Characters of a packed file's list of weights."""

_ALWAYS, _PER_BYTE = 1 << 22, 4
_CODED_ALWAYS, _CODED_PER_BYTE = 1 << 18, 64
_MOST_STEPS, _LANES = 2048, 256


def most_values(stored: int) -> int:
    """Values, zeros included, that a file whose tensors take so many bytes may be read as."""
    return min(MOST_VALUES, max(_ALWAYS, _PER_BYTE * stored))


def most_coded(stored: int) -> int:
    """Values that may be entropy-coded in tensors of so many bytes: an eighth of a bit for each, beyond the first."""
    return min(most_values(stored), _CODED_ALWAYS + _CODED_PER_BYTE * stored)


def most_steps(count: int) -> int:
    """Steps in which so many values may be decoded, by one lane or several side by side."""
    return _MOST_STEPS + count // _LANES
