"""The special words of the concepts of a training, whose vectors are rows of one parameter for each text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectra.errors import MismatchError
from spectra.families.special_word import SpecialWord, special_word
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors
from spectra.training.data.prompts import rare_word
from spectra.training.data.subjects import Subject


class ConceptWords:
    """Which tokens have vectors, and whose they are; without words nothing has, and everything stays as it is.

    Attributes:
        ids: tokens of any of the words, by the name of the token embedding's weight.
        rows: for each parameter of vectors `[n, dim]`, by key, each concept's own rows of it.
    """

    def __init__(self, words: Sequence[SpecialWord] = ()) -> None:
        self._words = words
        tables = dict.fromkeys(table for word in words for table in word.ids)
        self.ids = {table: tuple(dict.fromkeys(i for word in words for i in word.ids[table])) for table in tables}
        self.rows: Mapping[str, list[list[int]]] = {
            f"{table}.word": [[ids.index(each) for each in word.ids[table]] for word in words]
            for table, ids in self.ids.items()
        }

    @classmethod
    def of(cls, pipe: Any, encoders: Iterable[str], concepts: Iterable[Sequence[Subject]]) -> ConceptWords:
        """The words by which the prompts of each concept's subjects name them; errors are those of `special_word`."""
        found = []
        for subjects in concepts:
            words = {each.prompt: rare_word(each.prompt, each.class_prompt) for each in subjects}
            found.append(special_word(pipe, words, filter(None, (each.class_prompt for each in subjects)), encoders))
        return cls(found)

    def keep_apart(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Let parameters `[concepts, n, dim]` move in each concept's own rows only, whatever its prompts look up."""
        for key, rows in self.rows.items():
            own = torch.zeros_like(parameters[key])
            for concept, mine in enumerate(rows):
                own[concept, mine] = 1
            parameters[key].register_hook(lambda gradient, own=own: gradient * own)

    def only(self, key: str, values: Tensor, concept: int) -> Tensor:
        """Of a concept's parameter, or of what an optimizer keeps for it, the part that it has when trained alone."""
        return values[self.rows[key][concept]] if key in self.rows and values.ndim else values

    def filled(self, key: str, values: Tensor, concept: int, like: Tensor) -> Tensor:
        """What `only` took the part of, shaped like `like`: zero elsewhere."""
        if key not in self.rows or not values.ndim:
            return values
        whole = torch.zeros_like(like, dtype=values.dtype, device=values.device)
        whole[self.rows[key][concept]] = values
        return whole

    def check_start(self, shift: SpectralShift, concept: int) -> None:
        """Refuse a shift to start from that has vectors for other words.

        Raises:
            MismatchError: it has.
        """
        for table, each in shift.words.items():
            if not set(each.ids) <= set(self._words[concept].ids[table] if table in self.ids else ()):
                trained = f"trains {self._words[concept].text!r}" if self._words else "trains none (--word)"
                raise MismatchError(
                    f"the shift to start from has vectors for the special word {each.text!r}, and this training "
                    f"{trained}; give it the same prompts"
                )

    def shift(self, shift: SpectralShift, concept: int) -> SpectralShift:
        """A shift with the vectors of a concept's own words, of those of all."""
        words = {}
        for table, each in shift.words.items():
            ids, word = self._words[concept].ids[table], self._words[concept].text
            words[table] = WordVectors(ids, each.vectors[self.rows[f"{table}.word"][concept]], word)
        return SpectralShift(dict(shift), shift.metadata, outer=shift.outer, words=words) if words else shift
