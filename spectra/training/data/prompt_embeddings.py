"""Prompts as the model is conditioned on them, encoded once ahead of the steps or anew at each of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import torch

from spectra.families.family import Condition

Key = TypeVar("Key", bound=Hashable)

CHUNK = 8
"""Prompts that are encoded at once, ahead of the steps."""


class Conditions:
    """The conditions of a training's prompts: encoded once and kept, or anew at each use, with gradients."""

    def __init__(
        self, encode: Callable[[list[str]], Condition], prompts: Iterable[str], *, keep: bool, trained: bool
    ) -> None:
        """Encode right away what is to be kept.

        Args:
            encode: makes a row of each prompt.
            prompts: all that will be used; equal ones are encoded once.
            keep: encode them now, by the frozen base.
            trained: whether the text encoder learns; then only the base's own predictions can use what is kept.
        """
        self.encode = encode
        self.trained = trained
        self._row = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        self._kept: Condition | None = None
        if keep:
            every = list(self._row)
            with torch.no_grad():
                parts = [encode(every[first : first + CHUNK]) for first in range(0, len(every), CHUNK)]
            self._kept = parts[0] if len(parts) == 1 else Condition.joined(parts)

    @property
    def kept(self) -> bool:
        """Whether no text encoder is asked any more."""
        return self._kept is not None and not self.trained

    def frozen(self, prompts: Sequence[str]) -> Condition:
        """What the base makes of `prompts`, a row each; if nothing is kept, the model must be the base now."""
        if self._kept is None:
            return encode_each_once(self.encode, prompts)
        return self._kept.rows(torch.tensor([self._row[p] for p in prompts], device=self._kept.embeds.device))


def encode_each_once(encode: Callable[[list[Key]], Condition], keys: Sequence[Key]) -> Condition:
    """A row for each of `keys`, equal ones encoded once."""
    row = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    fresh = encode(list(row))
    return fresh.rows(torch.tensor([row[key] for key in keys], device=fresh.embeds.device))
