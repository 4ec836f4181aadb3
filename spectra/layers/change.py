"""The live tensors of one weight's shift: what a training moves, and what serving puts in force.

W_delta = U diag(ReLU(sigma + delta)) V^T + sum_j a_j (x) b_j (x) kernel_j,   W_delta[ids] += word
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectra.shift.outer_terms import OuterTerms
from spectra.shift.word_vectors import WordVectors


@dataclass(frozen=True, eq=False)
class Change:
    """What changes one weight `[n0, n1, ...]`; every tensor has one more dimension in front where samples differ.

    Attributes:
        delta: `[K]`, of the directions that its layer was given; `[r]` for all of them; `[n0]` of a 1-D weight.
        a: `[k, n0]`, one row for each outer term.
        b: `[k, n1]` with a kernel or for a matrix, else `[k, n1 * taps]`.
        kernel: `[k, taps]` of separable terms on a convolution.
        word: `[n, dim]`, added to the rows `ids` of an embedding.
        ids: of the special word's tokens.
    """

    delta: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    kernel: Tensor | None = None
    word: Tensor | None = None
    ids: tuple[int, ...] = ()

    @classmethod
    def of_parts(cls, delta: Tensor | None, outer: OuterTerms | None, word: WordVectors | None) -> Change:
        """What a shift holds of one weight; `delta` as the attribute."""
        a = b = kernel = None
        if outer is not None:
            a, b = tensor_of(outer.a), tensor_of(outer.b)
            kernel = None if outer.kernel is None else tensor_of(outer.kernel)
        if word is None:
            return cls(delta, a, b, kernel)
        return cls(delta, a, b, kernel, tensor_of(word.vectors), word.ids)

    def parts(self) -> tuple[Tensor | None, ...]:
        """Delta, a, b, kernel and word, each None if it is not there."""
        return self.delta, self.a, self.b, self.kernel, self.word

    def tensors(self) -> Iterator[Tensor]:
        """Those that are there."""
        yield from (each for each in self.parts() if each is not None)

    def map(self, function: Callable[[Tensor], Tensor]) -> Change:
        """The same change with every tensor mapped."""

        def mapped(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        delta, a, b, kernel, word = (mapped(each) for each in self.parts())
        return Change(delta, a, b, kernel, word, self.ids)

    def shortened(self, directions: int) -> Change:
        """The same change with a delta of so many leading directions, which are all that it has values for."""
        if self.delta is None:
            return self
        return Change(self.delta[:directions], self.a, self.b, self.kernel, self.word, self.ids)

    @property
    def right(self) -> Tensor:
        """`[k, columns]`: what the terms have on the side of the weight's columns; the change is `a^T right`."""
        if self.b is None:
            raise ValueError("a change without outer terms has no right side")
        if self.kernel is None:
            return self.b
        return (self.b[..., :, None] * self.kernel[..., None, :]).flatten(-2)

    @property
    def changes_nothing(self) -> bool:
        """Whether the weight is the frozen one: every delta, every term and every word is zero."""
        if any(bool(part.any()) for part in (self.delta, self.word) if part is not None):
            return False
        return self.a is None or not bool((self.a * self._reach).any())

    @property
    def _reach(self) -> Tensor:
        """`[k, 1]`: 0 for a term whose right side is zero."""
        if self.b is None:
            raise ValueError("a change without outer terms has no right side")
        reach = self.b.ne(0).any(-1, keepdim=True)
        return reach if self.kernel is None else reach & self.kernel.ne(0).any(-1, keepdim=True)


def tensor_of(values: npt.NDArray[np.floating]) -> Tensor:
    """A copy of an array of a shift, in a fifth of the time that `torch.tensor` takes for one that is small."""
    return torch.from_numpy(values.copy())
