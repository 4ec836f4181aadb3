"""A shift as the arrays of a packed file, and back (docs/file-format.md)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import StoredTensor
from spectra.shift.limits import LONGEST_LIST, MOST_PIECES, MOST_VALUES, most_coded, most_values
from spectra.shift.metadata import (
    FINGERPRINT_DIGITS,
    JSON,
    PACKED_VERSION,
    PARTS_VERSION,
    ShiftMetadata,
    from_strings,
    to_strings,
    version_of,
)
from spectra.shift.packing import coder
from spectra.shift.packing.decoding import Pieces, decode_values, decompress, read_masks
from spectra.shift.packing.pieces import packed_pieces, parts_of
from spectra.shift.packing.quantise import count_tokens, merge_scales, quantise
from spectra.shift.packing.tokens import to_tokens, write_bits
from spectra.shift.packing.weights import GROUPS, PackedWeight, read_line, write_line
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import read_words, words_text

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

DIGITS = ("fingerprints", "rounded_float16", "rounded_bfloat16")
"""Entries of the metadata whose hex digits are arrays of bytes instead, here."""

DESCRIBED = frozenset(("weights", *DIGITS))
"""Arrays that `describe` reads."""

_CODES = {"weights": "U8", "tables": "U16", "states": "U32", "words": "U16", "bits": "U8"}
_OPTIONAL = {**dict.fromkeys(DIGITS, "U8"), "masks": "U8"}

SMALLEST_ERROR, LARGEST_ERROR = 1e-5, 0.5

_MOST_CLASSES = 256
_LONGEST_LINE = 1024
"""Characters for each weight; a small file cannot ask for a large memory."""


@dataclass(frozen=True)
class Described:
    """What a packed file says before its values are decoded.

    Attributes:
        metadata: of the shift.
        weights: what each weight has, in name order.
        classes: of each piece of each weight; -1 if it is all zero.
        words: token ids and text, by the names of embedding weights.
    """

    metadata: ShiftMetadata
    weights: tuple[PackedWeight, ...]
    classes: tuple[int, ...]
    words: Mapping[str, tuple[tuple[int, ...], str]]

    @property
    def lengths(self) -> dict[str, int]:
        """Floats of each delta, by weight name."""
        return {weight.name: weight.length for weight in self.weights}


def pack(shift: SpectralShift, error: float) -> tuple[dict[str, str], Arrays]:
    """Strings and arrays of a packed file, all but the content hash.

    Args:
        shift: whose values are rounded.
        error: allowed, of Delta W: `||delta - packed|| / ||delta||` over all matrices, their outer terms included, over
            all 1-D weights, and over the vectors of words.

    Raises:
        ShiftFileError: an error out of range, a shift that is packed already, or metadata that cannot be written.
    """
    if not SMALLEST_ERROR <= error <= LARGEST_ERROR:
        raise ShiftFileError(f"expected an error from {SMALLEST_ERROR:g} to {LARGEST_ERROR:g}, got {error:g}")
    if shift.precision == "packed":
        raise ShiftFileError("the shift is packed already, and its errors would add up; pack the one it was made from")
    total = sum(each.size for each in shift.values()) + sum(
        each.floats for part in (shift.outer, shift.words) for each in part.values()
    )
    if total > MOST_VALUES:
        raise ShiftFileError(f"expected at most {MOST_VALUES:,} values, got {total:,}; write it as float16")
    pieces, deltas_only = packed_pieces(shift)
    quantised = quantise(pieces.values, pieces.groups, error, bundles=pieces.bundles, measure=pieces.measure)
    known = np.array(quantised.scales)
    scale = np.repeat(known[known >= 0], np.array([piece.size for piece in pieces.values])[known >= 0])
    classes, counts = merge_scales(count_tokens(quantised.k, quantised.odd, scale, max(0, *quantised.scales) + 1))
    tables = np.array([coder.scale_counts(row) for row in counts.reshape(-1, counts.shape[2])])
    states, words = coder.encode(to_tokens(quantised.k)[0], 2 * classes[scale] + quantised.odd, tables, quantised.lanes)
    told = iter([-1 if each < 0 else int(classes[each]) for each in quantised.scales])
    lines = [
        write_line(weight, [next(told) for _ in weight.pieces], deltas_only=deltas_only) for weight in pieces.weights
    ]
    text = "\n".join(lines)
    if len(text) > min(_LONGEST_LINE * len(lines), LONGEST_LIST) or len(pieces.values) > MOST_PIECES:
        raise ShiftFileError("the shift has too many outer terms to be packed; write it as float16, or merge to fewer")
    errors: dict[str, JSON] = {group: float(f"{e:.4g}") for group, e in zip(GROUPS, quantised.errors, strict=False)}
    strings = to_strings(_derived(shift, error, errors)) | {"steps": json.dumps(quantised.steps)}
    strings["version"] = str(PACKED_VERSION if deltas_only else PARTS_VERSION)
    strings.pop("ndims", None)
    arrays: Arrays = {
        "weights": np.frombuffer(zlib.compress(text.encode(), 9), dtype=np.uint8),
        "tables": tables.reshape(-1),
        "states": states,
        "words": words,
        "bits": write_bits(quantised.k, quantised.negative),
    }
    if shift.words:
        strings["words"] = words_text(shift.words)
    if pieces.masks:
        bits = np.packbits(np.concatenate(pieces.masks)).tobytes()
        arrays["masks"] = np.frombuffer(zlib.compress(bits, 9), dtype=np.uint8)
    for key in DIGITS:
        if key in strings:
            arrays[key] = np.frombuffer(bytes.fromhex(strings.pop(key)), dtype=np.uint8)
    stored = sum(each.nbytes for each in arrays.values())
    if max(total, sum(each.size for each in shift.values())) > most_values(stored) or len(scale) > most_coded(stored):
        raise ShiftFileError(
            f"{total:,} values in {stored:,} bytes are more than a reader takes; allow a smaller error"
        )
    return strings, arrays


def _derived(shift: SpectralShift, error: float, errors: dict[str, JSON]) -> ShiftMetadata:
    """The metadata of the packed shift: that of the shift, and that it was made from it."""
    metadata = shift.metadata
    recipe: dict[str, JSON] = {"method": "pack", "error": error, "errors": errors}
    if metadata.recipe is not None:
        recipe["recipe"] = metadata.recipe
    parents = metadata.parents
    if metadata.content_hash:
        recipe |= {"parents": list(parents)} if parents else {}
        parents = (metadata.content_hash,)
    return replace(metadata, parents=parents, recipe=recipe, content_hash="")


def stated_error(metadata: ShiftMetadata) -> float | None:
    """The relative error of Delta W that a packed shift says it was allowed, if it says one."""
    recipe = metadata.recipe
    error = recipe.get("error") if isinstance(recipe, dict) and recipe.get("method") == "pack" else None
    return error if isinstance(error, float) else None


def check_arrays(arrays: Mapping[str, StoredTensor]) -> None:
    """Checks keys, dtypes and shapes of a packed file's arrays.

    Raises:
        ShiftFileError: one is missing, unknown or of another kind.
    """
    for key, array in arrays.items():
        expected = (_CODES | _OPTIONAL).get(key)
        if expected is None:
            raise ShiftFileError(f"a packed shift has no {key!r}; the file is damaged or foreign")
        if array.code != expected or len(array.shape) != 1:
            raise ShiftFileError(
                f"{key}: expected {expected} of shape [n], got {array.code} of shape {list(array.shape)}"
            )
    missing = [key for key in (*_CODES, "fingerprints") if key not in arrays]
    if missing:
        raise ShiftFileError(f"a packed shift needs {', '.join(missing)}; the file is damaged or foreign")


def describe(strings: Mapping[str, str], arrays: Mapping[str, npt.NDArray[Any]], stored: int) -> Described:
    """What a packed file whose arrays have been checked says of itself.

    Args:
        strings: of the header.
        arrays: those of `DESCRIBED` that the file has.
        stored: bytes of all its arrays.

    Raises:
        ShiftFileError: something is unknown or malformed.
    """
    plain = {key: text for key, text in strings.items() if key != "steps"}
    deltas_only = version_of(strings) == PACKED_VERSION
    words = {} if deltas_only else read_words(plain.pop("words", "{}"))
    for key in {"ndims", *DIGITS} & plain.keys():
        raise ShiftFileError(f"the metadata of a packed shift holds no {key!r}; the file is damaged or foreign")
    plain |= {key: arrays[key].tobytes().hex() for key in DIGITS if key in arrays}
    try:
        count = 2 * len(arrays["fingerprints"]) // FINGERPRINT_DIGITS
        listed = decompress(arrays["weights"], min(_LONGEST_LINE * count, LONGEST_LIST)).decode()
        if listed.count("\n") + listed.count(",") >= MOST_PIECES:
            raise ValueError("more weights or pieces than there can be")
        lines = listed.split("\n")
        weights, classes = zip(*(read_line(line, deltas_only=deltas_only) for line in lines), strict=True)
        names = [weight.name for weight in weights]
        if names != sorted(set(names)):
            raise ValueError("names out of order")
        lengths = [weight.length for weight in weights]
        values = sum(size for weight in weights for size, _ in weight.pieces)
        if min(lengths) < 1 or max(sum(lengths), values) > most_values(stored):
            raise ValueError("lengths out of range")
        if not all(-1 <= each < _MOST_CLASSES for told in classes for each in told):
            raise ValueError("classes out of range")
        if {weight.name: weight.tokens for weight in weights if weight.tokens} != {n: len(words[n][0]) for n in words}:
            raise ValueError("words that the metadata does not tell")
    except ValueError as error:
        raise ShiftFileError(f"its list of weights cannot be read ({error}); fetch or make it again") from error
    if all(weight.ndim for weight in weights):
        plain["ndims"] = "".join(str(weight.ndim) for weight in weights)
    return Described(from_strings(plain, names), weights, tuple(each for told in classes for each in told), words)


def unpack(strings: Mapping[str, str], arrays: Mapping[str, npt.NDArray[Any]]) -> SpectralShift:
    """The shift that strings and arrays hold, which have been checked.

    Raises:
        ShiftFileError: something is unknown or malformed.
    """
    stored = sum(array.nbytes for array in arrays.values())
    told = describe(strings, arrays, stored)
    sizes, groups = np.array([piece for weight in told.weights for piece in weight.pieces]).reshape(-1, 2).T
    each = np.array(told.classes)
    try:
        masks = read_masks(arrays.get("masks"), told.weights)
        values = decode_values(strings, arrays, Pieces(sizes, groups, each), stored)
        deltas, outer, words = parts_of(told.weights, values, masks, told.words)
    except ValueError as error:
        raise ShiftFileError(f"its packed values cannot be read ({error}); fetch or make it again") from error
    return SpectralShift(deltas, told.metadata, outer=outer, words=words, precision="packed")
