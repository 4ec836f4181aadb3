"""A shift with outer terms, words or deltas of few directions as the arrays of a file (version 3), and back.

    NAME.delta        [n]               values of delta: up to the last nonzero one, or at NAME.directions
    NAME.directions   [n]               where those values belong; U16 or U32
    NAME.outer        [k, n0+n1+taps]   a, b and kernel side by side
    NAME.word         [n, dim]          a row for each token of a word

The strings `ranks`, `outer` and `words` say what these are parts of (docs/file-format.md).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.io.safetensors_header import StoredTensor
from spectra.shift.few_directions import Shortened, lengthen, shorten
from spectra.shift.limits import most_values
from spectra.shift.metadata import PARTS_VERSION, ShiftMetadata, from_strings
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import Precision, SpectralShift
from spectra.shift.sums import Parts
from spectra.shift.word_vectors import WordVectors, read_words, words_text

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

DELTA, DIRECTIONS, OUTER, WORD = ".delta", ".directions", ".outer", ".word"

_MOST_TAPS = 1024
FLOATS, _PLACES = ("F32", "F16"), ("U16", "U32")
STRINGS = ("ranks", "outer", "words")
"""The header's strings beside the metadata's."""


class Sides(NamedTuple):
    """The lengths of the vectors of one weight's outer terms; no taps without a kernel."""

    n0: int
    n1: int
    taps: int


class Described(NamedTuple):
    """What the header of a file tells of its parts.

    Attributes:
        metadata: of the shift.
        lengths: floats of each delta, by weight name.
        sides: of the weights that have outer terms.
        words: token ids and text of the weights that have words.
    """

    metadata: ShiftMetadata
    lengths: dict[str, int]
    sides: dict[str, Sides]
    words: dict[str, tuple[tuple[int, ...], str]]


def to_arrays(shift: SpectralShift, deltas: Mapping[str, npt.NDArray[Any]]) -> tuple[dict[str, str], Arrays]:
    """Strings beside the metadata's, and the arrays of a file.

    Args:
        shift: whose terms and words are written.
        deltas: its deltas in the dtype of the file; the others are rounded to that.

    Raises:
        ShiftFileError: more values than a reader takes.
    """
    dtype = next(iter(deltas.values())).dtype
    arrays: Arrays = {}
    for name, delta in deltas.items():
        values, directions = shorten(delta)
        if values.size or not (name in shift.outer or name in shift.words):  # so that every name is in the file
            arrays[name + DELTA] = values
        if directions is not None:
            arrays[name + DIRECTIONS] = directions
    with np.errstate(over="ignore"):
        for name, terms in shift.outer.items():
            arrays[name + OUTER] = _rounded_terms(terms, dtype)
        for name, words in shift.words.items():
            arrays[name + WORD] = words.vectors.astype(dtype)
    stored = sum(array.nbytes for array in arrays.values())
    if sum(delta.size for delta in deltas.values()) > most_values(stored):
        raise ShiftFileError(f"expected deltas of at most {most_values(stored):,} floats in all in {stored:,} bytes")
    strings = {
        "version": str(PARTS_VERSION),
        "ranks": ",".join(str(delta.size) for delta in deltas.values()),
        "outer": ",".join(f"{t.a.shape[1]}x{t.b.shape[1]}x{t.taps}" for t in shift.outer.values()),
        "words": words_text(shift.words) if shift.words else "",
    }
    return {key: value for key, value in strings.items() if value}, arrays


def _rounded_terms(terms: OuterTerms, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """a, b and kernel side by side in the dtype of the file: a term is balanced if float16 cannot hold it."""
    rows = np.concatenate(terms.sides, axis=1)
    if dtype.itemsize == 2:
        limits = np.finfo(dtype)
        unfit = (rows != 0) & ((np.abs(rows) < limits.smallest_normal) | (np.abs(rows) > limits.max))
        balanced = np.concatenate(terms.balanced().sides, axis=1)
        rows = np.where(unfit.any(axis=1, keepdims=True), balanced, rows)
    return rows.astype(dtype)


def check_arrays(tensors: Mapping[str, StoredTensor]) -> None:
    """Checks keys, dtypes and shapes of a file's arrays.

    Raises:
        ShiftFileError: one is unknown or of another kind.
    """
    for key, tensor in tensors.items():
        ending = "." + key.rpartition(".")[2]
        if ending not in (DELTA, DIRECTIONS, OUTER, WORD):
            raise ShiftFileError(f"expected keys that end in .delta, .directions, .outer or .word, got {key!r}")
        codes, ndim = _PLACES if ending == DIRECTIONS else FLOATS, 2 if ending in (OUTER, WORD) else 1
        if tensor.code not in codes:
            raise ShiftFileError(f"{key}: expected {' or '.join(codes)}, got {tensor.code}")
        if len(tensor.shape) != ndim or (ndim == 2 and 0 in tensor.shape):
            shape = "[k, n], k and n > 0" if ndim == 2 else "[n]"
            raise ShiftFileError(f"{key}: expected shape {shape}, got {list(tensor.shape)}")


def describe(strings: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> Described:
    """What the header tells, of a file whose arrays have been checked.

    Raises:
        ShiftFileError: something is missing, unknown or malformed, or strings and arrays do not fit each other.
    """
    names = sorted({key.rpartition(".")[0] for key in tensors})
    plain = {key: value for key, value in strings.items() if key not in STRINGS}
    metadata = from_strings(plain, names)
    stored = sum(tensor.bytes for tensor in tensors.values())
    lengths = dict(zip(names, _ranks(strings.get("ranks", ""), len(names), most_values(stored)), strict=True))
    outer = [name for name in names if name + OUTER in tensors]
    sides = dict(zip(outer, _sides(strings.get("outer", ""), len(outer)), strict=True))
    words = read_words(strings.get("words", "{}"))
    for name, each in sides.items():
        shape = tensors[name + OUTER].shape
        if shape[1] != sum(each):
            _misfit(f"{name}{OUTER}", f"{' + '.join(map(str, each))} floats a term", f"{shape[1]}")
    if words.keys() != {name for name in names if name + WORD in tensors}:
        _misfit("words", "the names of the arrays of words", ", ".join(map(repr, sorted(words)))[:80] or "none")
    for name, (ids, _) in words.items():
        if len(ids) != tensors[name + WORD].shape[0]:
            _misfit(f"{name}{WORD}", f"a row for each of {len(ids)} ids", f"{tensors[name + WORD].shape[0]}")
    for name in names:
        values, places = tensors.get(name + DELTA), tensors.get(name + DIRECTIONS)
        count = values.shape[0] if values else 0
        if places and places.shape != (count,):
            _misfit(f"{name}{DIRECTIONS}", f"a direction for each of {count} values", f"{places.shape[0]}")
        if count > lengths[name]:
            _misfit(f"{name}{DELTA}", f"at most the {lengths[name]} values that 'ranks' says", f"{count}")
    return Described(metadata, lengths, sides, words)


def from_arrays(told: Described, arrays: Mapping[str, npt.NDArray[Any]], precision: Precision) -> SpectralShift:
    """The shift that header and arrays hold, which have been checked.

    Raises:
        ShiftFileError: directions out of range or order, values that are not finite, or parts of different shapes.
    """
    parts = {name: weight_parts(told, name, arrays) for name in told.lengths}
    return SpectralShift(
        {name: each.delta for name, each in parts.items()},
        told.metadata,
        outer={name: each.outer for name, each in parts.items() if each.outer},
        words={name: each.words for name, each in parts.items() if each.words},
        precision=precision,
    )


def weight_parts(told: Described, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Parts:
    """What header and arrays hold of one weight; errors as `from_arrays`."""
    shortened = Shortened(arrays.get(name + DELTA, np.empty(0, "<f4")), arrays.get(name + DIRECTIONS))
    try:
        delta = lengthen(shortened, told.lengths[name])
    except ValueError as error:
        raise ShiftFileError(f"{name}: {error}; the file is damaged or foreign") from error
    outer = words = None
    with _named(name):
        if name in told.sides:
            n0, n1, taps = told.sides[name]
            rows = arrays[name + OUTER].reshape(-1, n0 + n1 + taps)
            outer = OuterTerms(rows[:, :n0], rows[:, n0 : n0 + n1], rows[:, n0 + n1 :] if taps else None)
        if name in told.words:
            ids, text = told.words[name]
            words = WordVectors(ids, arrays[name + WORD].reshape(len(ids), -1), text)
    return Parts(delta, outer, words)


def _ranks(text: str, count: int, most: int) -> list[int]:
    if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", text):
        _misfit("ranks", f"the number of singular values of each of {count} weights", f"{text[:40]!r}")
    ranks = [int(each) for each in text.split(",")]
    if len(ranks) != count:
        _misfit("ranks", f"a number for each of {count} weights", f"{len(ranks)}")
    if sum(ranks) > most:
        _misfit("ranks", f"at most {most:,} in all", f"{sum(ranks):,}")
    return ranks


def _sides(text: str, count: int) -> list[Sides]:
    given = text.split(",") if text else []
    if len(given) != count or not all(re.fullmatch(r"([1-9][0-9]{0,8}x){2}[0-9]{1,4}", each) for each in given):
        _misfit("outer", f"rows x columns x taps of {count} weights", f"{text[:40]!r}")
    sides = [Sides(*map(int, each.split("x"))) for each in given]
    if any(each.taps > _MOST_TAPS for each in sides):
        _misfit("outer", f"kernels of at most {_MOST_TAPS} taps", f"{max(each.taps for each in sides)}")
    return sides


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors about a part, with its weight's name in front."""
    try:
        yield
    except ShiftFileError as error:
        raise ShiftFileError(f"{name}: {error}") from error


def _misfit(what: str, expected: str, got: str) -> NoReturn:
    raise ShiftFileError(f"{what}: expected {expected}, got {got}; the file is damaged or foreign")
