"""A shift as the arrays of a packed file, and back (docs/file-format.md, version 2)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import StoredTensor
from spectra.shift.metadata import JSON, PACKED_VERSION, ShiftMetadata, from_strings, to_strings
from spectra.shift.packing import coder
from spectra.shift.packing.quantise import count_tokens, dequantise, merge_scales, quantise
from spectra.shift.packing.tokens import COUNT, read_bits, to_tokens, write_bits
from spectra.shift.shift import Delta, SpectralShift

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

DIGITS = ("fingerprints", "rounded_float16", "rounded_bfloat16")
"""Entries of the metadata whose hex digits are arrays of bytes instead, here."""

DESCRIBED = {"weights", *DIGITS}
"""Arrays that `describe` reads."""

_CODES = {"weights": "U8", "tables": "U16", "states": "U32", "words": "U16", "bits": "U8"}

SMALLEST_ERROR, LARGEST_ERROR = 1e-5, 0.5
MOST_VALUES = 1 << 24
"""A file that claims more is refused: what it holds must be decoded into memory. FLUX.1 has 1.4 million."""

_GROUPS = ("matrices", "vectors")
_MOST_CLASSES, _LONGEST_LINE = 256, 1024


def pack(shift: SpectralShift, error: float) -> tuple[dict[str, str], Arrays]:
    """Strings and arrays of a packed file, all but the content hash.

    Args:
        shift: whose deltas are rounded.
        error: allowed, of Delta W: `||delta - packed|| / ||delta||` over all matrices, and over all 1-D weights.

    Raises:
        ShiftFileError: an error out of range, a shift that is packed already, or metadata that cannot be written.
    """
    if not SMALLEST_ERROR <= error <= LARGEST_ERROR:
        raise ShiftFileError(f"expected an error from {SMALLEST_ERROR:g} to {LARGEST_ERROR:g}, got {error:g}")
    if shift.precision == "packed":
        raise ShiftFileError("the shift is packed already, and its errors would add up; pack the one it was made from")
    if shift.outer or shift.words:
        raise ShiftFileError("a shift with outer terms or words cannot be packed yet; write it as float16")
    values = sum(delta.size for delta in shift.values())
    if values > MOST_VALUES:
        raise ShiftFileError(f"expected at most {MOST_VALUES:,} values, got {values:,}; write it as float16")
    ndims = shift.metadata.ndims
    quantised = quantise(list(shift.values()), [int(ndims.get(name) == 1) for name in shift], error)
    coded = np.array(quantised.scales) >= 0
    scale = np.repeat(np.array(quantised.scales)[coded], np.array([delta.size for delta in shift.values()])[coded])
    classes, counts = merge_scales(count_tokens(quantised.k, quantised.odd, scale, max(0, *quantised.scales) + 1))
    tables = np.array([coder.scale_counts(row) for row in counts.reshape(-1, counts.shape[2])])
    states, words = coder.encode(to_tokens(quantised.k)[0], 2 * classes[scale] + quantised.odd, tables, quantised.lanes)
    lines = [
        f"{name} {delta.size} {ndims.get(name, 0)} {'-' if each < 0 else classes[each]}"
        for (name, delta), each in zip(shift.items(), quantised.scales, strict=True)
    ]
    errors: dict[str, JSON] = {group: float(f"{e:.4g}") for group, e in zip(_GROUPS, quantised.errors, strict=False)}
    strings = to_strings(_derived(shift, error, errors))
    strings |= {"version": str(PACKED_VERSION), "steps": json.dumps(quantised.steps)}
    strings.pop("ndims", None)
    arrays: Arrays = {
        "weights": np.frombuffer(zlib.compress("\n".join(lines).encode(), 9), dtype=np.uint8),
        "tables": tables.reshape(-1),
        "states": states,
        "words": words,
        "bits": write_bits(quantised.k, quantised.negative),
    }
    for key in DIGITS:
        if key in strings:
            arrays[key] = np.frombuffer(bytes.fromhex(strings.pop(key)), dtype=np.uint8)
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
        expected = "U8" if key in DIGITS else _CODES.get(key)
        if expected is None:
            raise ShiftFileError(f"a packed shift has no {key!r}; the file is damaged or foreign")
        if array.code != expected or len(array.shape) != 1:
            raise ShiftFileError(
                f"{key}: expected {expected} of shape [n], got {array.code} of shape {list(array.shape)}"
            )
    missing = [key for key in (*_CODES, "fingerprints") if key not in arrays]
    if missing:
        raise ShiftFileError(f"a packed shift needs {', '.join(missing)}; the file is damaged or foreign")


def describe(
    strings: Mapping[str, str], arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[ShiftMetadata, dict[str, int], dict[str, int]]:
    """Metadata, and each weight's length and class in name order, of a packed file whose arrays have been checked.

    Args:
        strings: of the header.
        arrays: those of `DESCRIBED` that the file has.

    Raises:
        ShiftFileError: something is unknown or malformed.
    """
    plain = dict(strings)
    plain.pop("steps", None)
    for key in {"ndims", *DIGITS} & plain.keys():
        raise ShiftFileError(f"the metadata of a packed shift holds no {key!r}; the file is damaged or foreign")
    plain |= {key: arrays[key].tobytes().hex() for key in DIGITS if key in arrays}
    lengths: dict[str, int] = {}
    classes: dict[str, int] = {}
    ndims = ""
    try:
        for line in _decompress(arrays["weights"]).split("\n"):
            name, length, ndim, each = line.split(" ")
            lengths[name], classes[name] = int(length), -1 if each == "-" else int(each)
            ndims += ndim
        if list(lengths) != sorted(lengths):
            raise ValueError("names out of order")
        if min(lengths.values()) < 1 or sum(lengths.values()) > MOST_VALUES or len(ndims) != len(lengths):
            raise ValueError("lengths out of range")
        if not all(-1 <= each < _MOST_CLASSES for each in classes.values()):
            raise ValueError("classes out of range")
    except ValueError as error:
        raise ShiftFileError(f"its list of weights cannot be read ({error}); fetch or make it again") from error
    if "0" not in ndims:
        plain["ndims"] = ndims
    return from_strings(plain, lengths), lengths, classes


def _decompress(compressed: npt.NDArray[np.uint8]) -> str:
    """Text of at most so many bytes as names could have; a small file cannot ask for a large memory."""
    limit = _LONGEST_LINE * max(len(compressed), 16)
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(compressed.tobytes(), limit)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("incomplete or too long")
    return text.decode()


def unpack(strings: Mapping[str, str], arrays: Mapping[str, npt.NDArray[Any]]) -> SpectralShift:
    """The shift that strings and arrays hold, which have been checked.

    Raises:
        ShiftFileError: something is unknown or malformed.
    """
    metadata, length_of, class_of = describe(strings, arrays)
    lengths, each = np.array(list(length_of.values())), np.array(list(class_of.values()))
    coded = each >= 0
    try:
        steps = _steps(strings.get("steps", ""))
        tables = _tables(arrays["tables"], int(each.max()) + 1)
        step = steps[[int(metadata.ndims.get(name) == 1) for name in length_of]]
        tokens, odd = coder.decode(arrays["states"], arrays["words"], np.repeat(each[coded], lengths[coded]), tables)
        k, negative = read_bits(tokens, arrays["bits"])
    except (ValueError, RecursionError) as error:
        raise ShiftFileError(f"its packed values cannot be read ({error}); fetch or make it again") from error
    values: Delta = np.zeros(int(lengths.sum()), dtype=np.float32)
    values[np.repeat(coded, lengths)] = dequantise(k, odd, negative, np.repeat(step[coded], lengths[coded]))
    pieces = np.split(values, np.cumsum(lengths)[:-1])
    return SpectralShift(dict(zip(length_of, pieces, strict=True)), metadata, precision="packed")


def _steps(text: str) -> npt.NDArray[np.float64]:
    """Steps of matrices and 1-D weights."""
    given = json.loads(text)
    if not isinstance(given, list) or not 1 <= len(given) <= len(_GROUPS):
        raise ValueError("expected the steps of matrices and 1-D weights")
    if not all(isinstance(step, float) and 0 <= step < np.inf for step in given):
        raise ValueError("expected steps that are finite and not negative")
    return np.array([*given, 0.0][: len(_GROUPS)])


def _tables(flat: npt.NDArray[np.uint16], classes: int) -> npt.NDArray[np.uint16]:
    """Frequencies `[2 * classes, tokens]`."""
    contexts = 2 * max(classes, 1)
    width, rest = divmod(len(flat), contexts)
    if rest or not 1 <= width <= COUNT:
        raise ValueError(f"expected frequencies for {contexts} contexts, got {len(flat)}")
    return flat.reshape(contexts, width)
