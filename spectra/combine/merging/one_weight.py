"""A merge of one weight: its deltas, its outer terms and the vectors of special words, each by the method."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra.combine.merging.registry import Method
from spectra.combine.merging.stacked_terms import Row, Rows, multiplied, stack_terms
from spectra.combine.truncation import Truncated, truncated
from spectra.errors import ShiftFileError, SpectraError
from spectra.shift.checks import check_finite
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.word_vectors import WordVectors

TOO_LARGE = "float32 cannot hold what was merged; lower the scales or weights"


@dataclass(frozen=True, eq=False)
class OneWeight:
    """One weight in all shifts of a merge.

    Attributes:
        name: of the weight.
        deltas: float32 `[k, n]`, zeros where a shift lacks it.
        having: which shifts have the weight, `[k]`.
        outer: its outer terms in each shift; empty if none has any.
        words: vectors of special words in each shift; empty if none has any.
    """

    name: str
    deltas: npt.NDArray[np.float32]
    having: npt.NDArray[np.bool_]
    outer: Sequence[OuterTerms | None] = ()
    words: Sequence[WordVectors | None] = ()


@dataclass(frozen=True, eq=False)
class MergedToken:
    """One token of special words: contributions `[k, dim]`, the merged vector `[dim]`, and which shifts it is from."""

    token: int
    contributions: Rows
    vector: Row
    having: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Merger:
    """A method with all that it is told, for weight after weight.

    Attributes:
        method: which.
        scales: of the shifts, `[k]`.
        parameters: all of the method's.
        seed: of what it draws.
        outer_rank: outer terms that are kept of a weight; None for all.
    """

    method: Method
    scales: Row
    parameters: Mapping[str, float]
    seed: int
    outer_rank: int | None

    def contributes(self, having: npt.NDArray[np.bool_], weights: Row) -> bool:
        """Whether some shift that has it counts."""
        return bool(np.any(having & (weights != 0) & (self.scales != 0)))

    def delta(self, name: str, scaled: Rows, weights: Row) -> Row:
        """The merged delta of the scaled ones `[k, n]`: `[n]`."""
        drawn = {"random": random_numbers(self.seed, name, scaled.shape)} if self.method.random else {}
        merged: Row = self._called(name, self.method.function, scaled, weights, drawn)
        return merged

    def terms(self, weight: OneWeight, weights: Row) -> Truncated | None:
        """The merged outer terms, no more than `outer_rank`; None where no shift has any."""
        if not any(weight.outer):
            return None
        stacked = stack_terms(weight.outer, self.scales)
        drawn = {}
        if self.method.random:
            shapes = {"rows": stacked.a.shape[1], "columns": stacked.b.shape[1]}
            drawn["random"] = tuple(
                random_numbers(self.seed, f"{weight.name}\0{side}", (stacked.count, size))
                for side, size in shapes.items()
            )
        factors = self._called(weight.name, self.method.terms, stacked, weights, drawn)
        try:
            merged = multiplied(weight.outer, self.scales, factors)
        except ShiftFileError as error:
            raise ShiftFileError(f"{weight.name}: {TOO_LARGE}") from error
        if merged is None:
            return Truncated(None, 0.0, 0.0)
        rank = merged.rank if self.outer_rank is None else self.outer_rank
        return truncated(merged, rank)

    def tokens(self, weight: OneWeight, weights: Row) -> list[MergedToken]:
        """The merged vector of each token to which some shift contributes, as of a delta."""
        rows: dict[int, dict[int, npt.NDArray[np.float32]]] = {}
        for shift, words in enumerate(weight.words):
            if words:
                for token, vector in zip(words.ids, words.vectors, strict=True):
                    rows.setdefault(token, {})[shift] = vector
        found = []
        for token, vectors in rows.items():
            scaled = np.zeros((len(weights), next(iter(vectors.values())).size))
            having = np.zeros(len(weights), bool)
            for shift, vector in vectors.items():
                scaled[shift] = np.multiply(vector, self.scales[shift], dtype=np.float64)
                having[shift] = True
            if self.contributes(having, weights):
                merged = self.delta(f"{weight.name}[{token}]", scaled, weights)
                giving = tuple(shift for shift in vectors if weights[shift] and self.scales[shift])
                found.append(MergedToken(token, scaled * weights[:, None], merged, giving))
        return found

    def _called(self, name: str, function: Any, values: Any, weights: Row, drawn: Mapping[str, Any]) -> Any:
        try:
            return function(values, weights, **self.parameters, **drawn)
        except SpectraError as error:
            raise type(error)(f"{name}: {error}") from error


def joined_words(weight: OneWeight, tokens: Sequence[MergedToken]) -> WordVectors:
    """The merged tokens of a weight as words, whose text names all that they are of.

    Raises:
        ShiftFileError: a value that float32 cannot hold.
    """
    giving = sorted({shift for token in tokens for shift in token.having})
    held = [words for words in (weight.words[shift] for shift in giving) if words]
    texts = dict.fromkeys(text for words in held for text in words.text.split(", ") if text)
    with np.errstate(over="ignore"):
        vectors = np.stack([token.vector for token in tokens]).astype(np.float32)
    check_finite(weight.name, vectors, TOO_LARGE)
    return WordVectors(tuple(token.token for token in tokens), vectors, ", ".join(texts))


def random_numbers(seed: int, name: str, shape: tuple[int, ...]) -> Rows:
    """Numbers in [0, 1) that depend on seed, name and shape alone, not on the machine or on numpy's version."""
    key = int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(shape[0] * shape[1])
    return (np.asarray(raw, np.uint64) >> np.uint64(11)).reshape(shape).astype(np.float64) * 2.0**-53
