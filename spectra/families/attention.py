"""Attention maps of chosen words, read through diffusers' attention processors.

A layer's processor computes as before. Its queries and keys are looked at on the way, only in passes for which maps
were requested and for the samples that they are of. The model's output does not change.
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
        """The word in a batch where `samples` others come first."""
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

        maps.request(words)  # before a pass; it stays so, since checkpointing computes once more in the backward
        model(...)
        maps.collect()       # after it

    Args:
        model: with attention layers of diffusers.
        cross_attention: what the paths of its cross-attention layers end in (`DenoiseFamily.cross_attention`).
        layers: which of these layers are read: patterns of their paths, separated by commas.

    Attributes:
        paths: of the layers that are read.
        words: of which maps are read.

    Raises:
        TargetError: a pattern that matches no layer.
    """

    def __init__(self, model: nn.Module, cross_attention: str, layers: str = "*") -> None:
        paths = [path for path, _ in model.named_modules() if path.endswith(cross_attention)]
        chosen: set[str] = set()
        for pattern in (part.strip() for part in layers.split(",")):
            matching = fnmatch.filter(paths, pattern)
            if not matching:
                raise TargetError(f"no cross-attention layer matches {pattern!r}; there are {', '.join(paths)}")
            chosen.update(matching)
        self.paths = tuple(path for path in paths if path in chosen)
        self.words: list[Word] = []
        self._maps: Maps | None = None
        self._processors: list[tuple[Any, Any]] = []
        for path in self.paths:
            layer: Any = model.get_submodule(path)
            self._processors.append((layer, layer.processor))
            layer.set_processor(_Reader(self, layer.processor))

    def request(self, words: Sequence[Word]) -> None:
        """Choose the words to read in the passes that follow; without words nothing is read."""
        self.words, self._maps = list(words), []

    def collect(self) -> Maps:
        """The maps that have been read since `request`. Later passes keep nothing."""
        maps, self._maps = self._maps or [], None
        return maps

    def close(self) -> None:
        """Give the layers their own processors back."""
        for layer, processor in self._processors:
            layer.set_processor(processor)

    def read(self, attention: Any, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        """Keep one layer's maps, of the projected `query [b, h*w, dim]` and `key [b, tokens, dim]`."""
        samples = sorted({word.sample for word in self.words})
        heads, row = attention.heads, {sample: number for number, sample in enumerate(samples)}
        split = [x[samples].unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key)]
        q, k = (
            x if norm is None else norm(x) for x, norm in zip(split, (attention.norm_q, attention.norm_k), strict=True)
        )
        if mask is not None:
            mask = attention.prepare_attention_mask(mask, key.shape[1], len(query))
            mask = mask.unflatten(0, (-1, heads))[samples].flatten(0, 1)
        scores = attention.get_attention_scores(q.flatten(0, 1), k.flatten(0, 1), mask).unflatten(0, (-1, heads))
        maps = [scores[row[word.sample]][..., list(word.tokens)] for word in self.words]
        if self._maps is not None:
            self._maps.append(maps)


class _Reader:
    """A layer's processor, with what it projects looked at where maps were requested."""

    def __init__(self, maps: AttentionMaps, processor: Any) -> None:
        self._maps, self._processor = maps, processor

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        **more: Any,
    ) -> Any:
        inputs = (attn, hidden_states, encoder_hidden_states, attention_mask)
        if not self._maps.words:
            return self._processor(*inputs, **more)
        with _outputs(attn.to_q) as queries, _outputs(attn.to_k) as keys:
            output = self._processor(*inputs, **more)
        self._maps.read(attn, queries[0], keys[0], attention_mask)
        return output


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Everything that a module returns within the block."""
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        yield found
    finally:
        hook.remove()
