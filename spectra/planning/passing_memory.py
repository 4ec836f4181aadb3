"""The most bytes that a forward without gradients holds at once: tensors that come and go while it computes.

As in `saved_tensors`, blocks that are alike are computed once; the others are stood for by what they return, and by how
much more than that the first one held.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spectra.planning.fused_attention import fused_attention
from spectra.planning.saved_tensors import blocks_by, like_tensors, tensors_in


class PassingBytes(TorchDispatchMode):
    """Counts the storages that operations make, from when they are made until nothing holds them.

    Args:
        known: tensors that are there anyway, such as weights and inputs.

    Attributes:
        now, most: bytes that are held at this moment, and that were at most.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._kept = [*known]  # so that no storage's identity is given to another
        self._seen: dict[int, Any] = {each.untyped_storage()._cdata: None for each in self._kept}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it makes."""
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            del self._seen[key]
            self.now -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


@dataclass
class _Block:
    """What one block did: bytes that it held at most beside what was there, and what it returned."""

    most: int
    outputs: list[Tensor | None]
    aliases: list[int | None]
    single: bool


class _Blocks:
    """Calls each kind of block once, for `blocks_by`."""

    def __init__(self, passing: PassingBytes) -> None:
        self._passing, self._inside = passing, False
        self._of_kind: dict[Hashable, _Block] = {}

    def block(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a block, or stand for it where one like it was called."""
        if self._inside:
            return call(*args, **kwargs)
        module = call if isinstance(call, nn.Module) else call.__self__
        inputs = list(tensors_in([args, kwargs]))
        weights = tuple((path, each.shape) for path, each in module.named_parameters())
        kind = (type(module), weights, *((each.shape, each.dtype) for each in inputs))
        known = self._of_kind.get(kind)
        if known is None:
            return self._compute(kind, call, args, kwargs, inputs)
        self._passing.most = max(self._passing.most, self._passing.now + known.most)
        own = zip(like_tensors(known.outputs), known.aliases, strict=True)
        made = [each if alias is None else inputs[alias] for each, alias in own]
        return made[0] if known.single else tuple(made)

    def _compute(self, kind: Hashable, call: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Any:
        passing, self._inside = self._passing, True
        before, most = passing.now, passing.most
        passing.most = before
        output = call(*args, **kwargs)
        outputs = [output] if isinstance(output, Tensor) else list(output)
        places = {id(each): number for number, each in enumerate(inputs)}
        aliases = [places.get(id(each)) for each in outputs]
        like = [None if alias is not None else each for each, alias in zip(outputs, aliases, strict=True)]
        known = _Block(passing.most - before, _shapes(like), aliases, isinstance(output, Tensor))
        passing.most, self._inside = max(most, passing.most), False
        self._of_kind[kind] = known
        return output


def _shapes(tensors: Iterable[Any]) -> list[Tensor | None]:
    """Tensors on the meta device that are laid out like these."""
    with contextlib.ExitStack() as outside:
        outside.enter_context(torch.utils._python_dispatch._disable_current_modes())
        return like_tensors([each.to("meta") if isinstance(each, Tensor) else None for each in tensors])


def passing_bytes(
    model: nn.Module, call: Callable[..., Any], arguments: Mapping[str, Any], *, every_block: bool = False
) -> int:
    """The most bytes that a call holds at once beside a model's weights and what it is given.

    Args:
        model: that computes, frozen.
        call: runs it.
        every_block: compute all blocks, rather than those that differ.
    """
    own = [*model.parameters(), *model.buffers()]
    passing = PassingBytes([*own, *tensors_in(arguments)])
    with contextlib.ExitStack() as entered:
        if own[0].is_meta:
            entered.enter_context(fused_attention())
        if every_block:
            entered.enter_context(torch.no_grad())
        else:  # where gradients could be asked for, though none is: there alone models call their blocks by name
            entered.enter_context(blocks_by(_Blocks(passing), model, arguments.get("attention_mask")))
        entered.enter_context(passing)
        call(**arguments)
    return passing.most
