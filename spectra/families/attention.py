"""Cross-attention of chosen words, read through diffusers' attention processors.

A layer's own processor computes as before; its queries and keys are looked at on the way, and only in a pass that was
asked for, for the samples that were asked for. Nothing of the model's output changes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from spectra.errors import InputError, TargetError


@dataclass(frozen=True)
class Word:
    """A word of one sample's prompt.

    Attributes:
        sample: number of the sample in the batch.
        tokens: its places among the prompt's tokens.
        side: half of the picture that it belongs to, 0 the left and 1 the right.
    """

    sample: int
    tokens: tuple[int, ...]
    side: int

    def after(self, samples: int) -> Word:
        """The same where `samples` others come first."""
        return replace(self, sample=self.sample + samples)


Maps = list[list[Tensor]]
"""For each layer, for each word: attention `[heads, height * width, tokens]`, of which a prompt's tokens share 1."""


def word_tokens(tokenizer: Any, prompt: str, word: str) -> tuple[int, ...]:
    """Where `word`, which stands between blanks in `prompt`, is found among the prompt's tokens.

    Raises:
        InputError: the prompt has not the word, or is too long for the text encoder to read it.
    """
    found = re.search(rf"(?<!\S){re.escape(word)}(?!\S)", prompt)
    if not found:
        raise InputError(f"prompt {prompt!r} has no word {word!r}")

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
        return ids[1:-1]  # without the marks of beginning and end

    start, own = len(tokens(prompt[: found.start()])), tokens(word)
    if tokens(prompt)[start : start + len(own)] != own:
        raise InputError(f"prompt {prompt!r} is longer than the text encoder reads: shorten what stands before {word}")
    return tuple(range(1 + start, 1 + start + len(own)))


class AttentionMaps:
    """Reads maps of a model's cross-attention layers from now on, until `close`.

    maps.ask(words)      # before a pass; it stays asked, since checkpointing computes once more in the backward
    model(...)
    maps.take()          # after it
    """

    def __init__(self, model: nn.Module, cross_attention: str, layers: str = "*") -> None:
        """Put a reader into each layer.

        Args:
            model: with attention layers of diffusers.
            cross_attention: what their paths end in, as `families.denoise` says it.
            layers: of these layers, the paths that are read: patterns separated by commas.

        Raises:
            TargetError: a pattern that holds no layer.
        """
        paths = [path for path, _ in model.named_modules() if path.endswith(cross_attention)]
        chosen: set[str] = set()
        for pattern in (part.strip() for part in layers.split(",")):
            matching = fnmatch.filter(paths, pattern)
            if not matching:
                raise TargetError(f"no cross-attention layer matches {pattern!r}; there are {', '.join(paths)}")
            chosen.update(matching)
        self.paths = tuple(path for path in paths if path in chosen)
        self._layers = [model.get_submodule(path) for path in self.paths]
        self._words: list[Word] = []
        self._maps: Maps | None = None
        self._own = [layer.processor for layer in self._layers]
        for layer, own in zip(self._layers, self._own, strict=True):
            layer.set_processor(_Reader(self, own))  # type: ignore[operator]

    def ask(self, words: Sequence[Word]) -> None:
        """What to read in the passes that follow; nothing, without words."""
        self._words, self._maps = list(words), []

    def take(self) -> Maps:
        """What has been read since `ask`. Later passes keep nothing."""
        maps, self._maps = self._maps or [], None
        return maps

    def close(self) -> None:
        """Give the layers their own processors back."""
        for layer, own in zip(self._layers, self._own, strict=True):
            layer.set_processor(own)  # type: ignore[operator]

    def read(self, attention: Any, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        """One layer's maps: of `query [b, h*w, dim]` and `key [b, tokens, dim]`, as they leave their projections."""
        samples = sorted({word.sample for word in self._words})
        heads, row = attention.heads, {sample: number for number, sample in enumerate(samples)}
        split = [x[samples].unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key)]
        q, k = (
            x if norm is None else norm(x) for x, norm in zip(split, (attention.norm_q, attention.norm_k), strict=True)
        )
        if mask is not None:
            mask = attention.prepare_attention_mask(mask, key.shape[1], len(query))
            mask = mask.unflatten(0, (-1, heads))[samples].flatten(0, 1)
        scores = attention.get_attention_scores(q.flatten(0, 1), k.flatten(0, 1), mask).unflatten(0, (-1, heads))
        maps = [scores[row[word.sample]][..., list(word.tokens)] for word in self._words]
        if self._maps is not None:
            self._maps.append(maps)

    @property
    def asked(self) -> bool:
        """Whether passes have anything to read."""
        return bool(self._words)


class _Reader:
    """A layer's own processor, with what it projects looked at if that was asked for."""

    def __init__(self, maps: AttentionMaps, own: Any) -> None:
        self._maps, self._own = maps, own

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **more: Any,
    ) -> Any:
        if not self._maps.asked:
            return self._own(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **more)
        with _outputs(attn.to_q) as queries, _outputs(attn.to_k) as keys:
            output = self._own(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **more)
        self._maps.read(attn, queries[0], keys[0], attention_mask)
        return output


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module returns within the block."""
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        yield found
    finally:
        hook.remove()
