"""A special word: vectors that are added to the rows of a token embedding, one for each token of the word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spectra.errors import ShiftFileError
from spectra.io.foreign_values import parse_json
from spectra.shift.outer_terms import OuterTerms, Rows, read_only_rows, rounded

LARGEST_ID = 2**32 - 1


@dataclass(frozen=True, eq=False)
class WordVectors:
    """What is added to rows of one embedding weight; copied, and read-only.

    Attributes:
        ids: of the tokens, each once: rows of the weight.
        vectors: float32 `[n, dim]`, a row for each id.
        text: the special word as it stands in prompts; of a sum, the words of its terms with commas between.

    Raises:
        ShiftFileError: ids that are none or repeat, or vectors that are not one row of finite floats for each.
    """

    ids: tuple[int, ...]
    vectors: Rows
    text: str = ""

    def __post_init__(self) -> None:
        ids = tuple(self.ids)
        for each in ids:
            if not isinstance(each, (int, np.integer)) or isinstance(each, bool) or not 0 <= each <= LARGEST_ID:
                raise ShiftFileError(f"a word's token ids: expected whole numbers from 0 to {LARGEST_ID}, got {each!r}")
        if len(set(ids)) != len(ids):
            raise ShiftFileError(f"a word's token ids: expected each id once, got {len(ids)} with repeats")
        object.__setattr__(self, "ids", tuple(map(int, ids)))
        object.__setattr__(self, "vectors", read_only_rows("a word's vectors", self.vectors))
        if len(ids) != len(self.vectors):
            raise ShiftFileError(
                f"a word's vectors: expected a row for each of {len(ids)} ids, got {len(self.vectors)}"
            )

    @property
    def floats(self) -> int:
        """Numbers in all vectors together."""
        return self.vectors.size

    def scaled(self, scale: float) -> WordVectors:
        """`scale` times the change, rounded once.

        Raises:
            ShiftFileError: a value that float32 cannot hold.
        """
        return WordVectors(self.ids, rounded(self.vectors * np.float64(scale)), self.text)

    def dot(self, other: WordVectors) -> float:
        """The inner product of two changes of one weight, in float64: over the ids that both have."""
        rows = dict(zip(other.ids, other.vectors, strict=True))
        mine = zip(self.ids, self.vectors, strict=True)
        return sum((float(np.sum(row.astype(np.float64) * rows[each])) for each, row in mine if each in rows), 0.0)

    def dot_terms(self, terms: OuterTerms) -> float:
        """The inner product with outer terms of the same weight, in float64."""
        left = terms.a[:, list(self.ids)].astype(np.float64)
        return float(np.sum(left * (terms.right @ self.vectors.T)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WordVectors):
            return NotImplemented
        return (self.ids, self.text) == (other.ids, other.text) and np.array_equal(self.vectors, other.vectors)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"WordVectors({self.text!r}, ids {list(self.ids)}, [{len(self.ids)}, {self.vectors.shape[1]}])"


def words_text(words: Mapping[str, WordVectors]) -> str:
    """Ids and texts as the string of a file's header: JSON by the embedding weight's name."""
    told = {name: {"ids": list(each.ids), "text": each.text} for name, each in words.items()}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def read_words(text: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Ids and texts by weight name, from `words_text`; their values are not checked yet.

    Raises:
        ShiftFileError: it is none.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    try:
        for name, each in parse_json(text).items():
            ids, word = each["ids"], each["text"]
            if len(each) != 2 or not all(type(token) is int for token in ids) or type(word) is not str:
                raise ValueError("another kind of entry")
            found[name] = tuple(ids), word
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShiftFileError(
            f'words: expected JSON such as {{"NAME": {{"ids": [1], "text": "word"}}}}, got {text[:40]!r}; '
            "the file is damaged or foreign"
        ) from error
    return found
