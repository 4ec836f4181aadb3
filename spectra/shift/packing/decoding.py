"""The values of a packed file's arrays, decoded within what the arrays' size justifies."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spectra.io.foreign_values import parse_json
from spectra.shift.limits import most_coded, most_steps
from spectra.shift.packing import coder
from spectra.shift.packing.quantise import dequantise
from spectra.shift.packing.tokens import COUNT, read_bits
from spectra.shift.packing.weights import GROUPS, PackedWeight
from spectra.shift.shift import Delta


def decompress(compressed: npt.NDArray[np.uint8], limit: int) -> bytes:
    """At most `limit` bytes.

    Raises:
        ValueError: it is damaged, incomplete or longer.
    """
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(compressed.tobytes(), limit)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("incomplete or too long")
    return found


class Pieces(NamedTuple):
    """Size, group and class of each piece; the class is -1 if all of it is zero."""

    sizes: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]


def decode_values(
    strings: Mapping[str, str], arrays: Mapping[str, npt.NDArray[Any]], pieces: Pieces, stored: int
) -> Delta:
    """The values of all pieces, one after the other.

    Raises:
        ValueError: more than arrays of `stored` bytes can hold, or not what was packed.
    """
    coded = pieces.classes >= 0
    sizes = pieces.sizes[coded]
    count, lanes = int(sizes.sum()), len(arrays["states"])
    if count > most_coded(stored) or (count and not lanes) or count > lanes * most_steps(count):
        raise ValueError(f"{count:,} values in {stored:,} bytes and {lanes} lanes")
    steps = _steps(strings.get("steps", ""))
    tables = _tables(arrays["tables"], int(pieces.classes.max(initial=-1)) + 1)
    classes = np.repeat(pieces.classes[coded].astype(np.uint8), sizes)
    tokens, odd = coder.decode(arrays["states"], arrays["words"], classes, tables)
    groups = np.repeat(pieces.groups[coded].astype(np.uint8), sizes)
    found: Delta = np.empty(count, dtype=np.float32)
    for part, k, negative in read_bits(tokens, arrays["bits"]):
        found[part] = dequantise(k, odd[part].astype(np.int64), negative, steps[groups[part]])
    values: Delta = np.zeros(int(pieces.sizes.sum()), dtype=np.float32)
    values[np.repeat(coded, pieces.sizes)] = found
    return values


def read_masks(stored: npt.NDArray[np.uint8] | None, weights: Sequence[PackedWeight]) -> list[npt.NDArray[np.bool_]]:
    """Where the values of deltas with a mask belong.

    Raises:
        ValueError: they are not what was packed.
    """
    masked = [weight for weight in weights if weight.masked]
    if (stored is None) == bool(masked):
        raise ValueError("masks that its weights do not ask for" if stored is not None else "its masks are missing")
    if stored is None:
        return []
    total = sum(weight.length for weight in masked)
    found = decompress(stored, -(-total // 8) + 1)
    if len(found) != -(-total // 8):
        raise ValueError(f"expected masks of {total} bits")
    bits = np.unpackbits(np.frombuffer(found, dtype=np.uint8))[:total].astype(np.bool_)
    masks = np.split(bits, np.cumsum([weight.length for weight in masked])[:-1])
    if [int(mask.sum()) for mask in masks] != [weight.count for weight in masked]:
        raise ValueError("masks of other counts")
    return masks


def _steps(text: str) -> npt.NDArray[np.float64]:
    """Steps of matrices, 1-D weights and words."""
    given = parse_json(text)
    if not isinstance(given, list) or not 1 <= len(given) <= len(GROUPS):
        raise ValueError("expected the steps of matrices, 1-D weights and words")
    if not all(isinstance(step, float) and 0 <= step < np.inf for step in given):
        raise ValueError("expected steps that are finite and not negative")
    return np.array([*given, 0.0, 0.0][: len(GROUPS)])


def _tables(flat: npt.NDArray[np.uint16], classes: int) -> npt.NDArray[np.uint16]:
    """Frequencies `[2 * classes, tokens]`."""
    contexts = 2 * max(classes, 1)
    width, rest = divmod(len(flat), contexts)
    if rest or not 1 <= width <= COUNT:
        raise ValueError(f"expected frequencies for {contexts} contexts, got {len(flat)}")
    return flat.reshape(contexts, width)
