"""Bytes that autograd keeps from a forward to its backward, with and without gradient checkpointing, in one forward.

The model's own checkpointing says what its blocks are. Blocks of the same kind, with the same trained layers and inputs
alike, keep the same: two are computed, and the others are stood for by tensors of the same shapes. So a model of sixty
blocks takes the time of two, and the count is the same (a test holds that).

Attention counts as PyTorch's fused one, as it runs on any device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spectra.families.joint_transformer import with_mask
from spectra.planning.fused_attention import fused_attention

Storages = dict[int, int]


@dataclass(frozen=True)
class SavedBytes:
    """What is kept from forward to backward.

    Attributes:
        all: bytes without checkpointing.
        checkpointed: bytes with it: what stands between the blocks, each block's inputs, and the largest block, which
            is computed once more. As much as `all` where there are no blocks.
        largest: bytes of that block, its inputs apart.
        blocks: how many there are.
        stood_for: the blocks that were not computed, each with the one that it is like.
    """

    all: int
    checkpointed: int
    largest: int
    blocks: int
    stood_for: Mapping[nn.Module, nn.Module]


def storages(tensors: Iterable[Tensor]) -> Storages:
    """Bytes of each storage under the tensors, once, by its identity; valid while the tensors live."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage._cdata: storage.nbytes() for storage in found}


@dataclass
class _Block:
    """What one block did.

    Attributes:
        module: that was computed.
        new: bytes that it saved, and nothing before it had.
        inner: bytes that it saved, its inputs apart.
        saves: whether each tensor among its inputs is one that nothing before it had saved.
        outputs: tensors of the same storages, strides and dtypes as it returned; None for what is no tensor.
        aliases: the input that each output is, None where it is a tensor of its own.
        kept: whether each output is saved by the block itself.
        single: whether it returned one tensor, and no tuple.
    """

    module: nn.Module
    new: int
    inner: int
    saves: list[bool]
    outputs: list[Tensor | None]
    aliases: list[int | None]
    kept: list[bool]
    single: bool


class CallsBlocks(Protocol):
    """What a model can be let to call its blocks through."""

    def block(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a block, or stand for it."""


@dataclass
class Recorder:
    """Takes every tensor that autograd saves, and knows which block saved it.

    Args:
        known: tensors that are there anyway, such as weights.
        kind: what a block's module has in common with those like it.
        every_block: compute all blocks.
    """

    known: Iterable[Tensor]
    kind: Callable[[nn.Module], Hashable]
    every_block: bool = False
    stood_for: dict[nn.Module, nn.Module] = field(default_factory=dict)
    blocks: int = 0

    def __post_init__(self) -> None:
        self._alive = [*self.known]  # so that no storage's identity is given to another
        self._known = storages(self._alive).keys()
        self._of_kind: dict[Hashable, _Block] = {}
        self._in_block: Storages | None = None
        self._outside: Storages = {}
        self._inside: set[int] = set()
        self._inputs: Storages = {}
        self._inside_bytes = self._largest = 0

    def result(self) -> SavedBytes:
        """What was recorded."""
        outside = sum(size for key, size in self._outside.items() if key not in self._inside)
        between = sum((self._outside | self._inputs).values())
        saved = outside + self._inside_bytes
        return SavedBytes(saved, between + self._largest, self._largest, self.blocks, self.stood_for)

    def save(self, tensor: Tensor) -> Tensor:
        """For `torch.autograd.graph.saved_tensors_hooks`."""
        self._alive.append(tensor)
        found = self._new([tensor])
        if self._in_block is None:
            self._outside |= found
        else:
            self._in_block |= found
        return tensor

    def block(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a block, or stand for it where one like it was called; one inside another belongs to that.

        Args:
            call: the module, or its forward.
        """
        if self._in_block is not None:
            return call(*args, **kwargs)
        module = call if isinstance(call, nn.Module) else call.__self__
        inputs = list(tensors_in([args, kwargs]))
        self._alive += inputs
        self.blocks += 1
        kind = (self.kind(module), *((t.shape, t.dtype, t.requires_grad, self._is_saved(t)) for t in inputs))
        known = None if self.every_block else self._of_kind.get(kind)
        if known is None:
            known, output = self._compute(module, call, args, kwargs, inputs)
            self._of_kind[kind] = known
        else:
            output = self._stand_in(known, module, inputs)
        self._inside_bytes += known.new
        self._largest = max(self._largest, known.inner)
        self._inputs |= self._new(inputs)
        return output

    def _new(self, tensors: Iterable[Tensor]) -> Storages:
        return {key: size for key, size in storages(tensors).items() if key not in self._known}

    def _is_saved(self, tensor: Tensor) -> bool:
        key = tensor.untyped_storage()._cdata
        return key in self._outside or key in self._inside

    def _compute(
        self, module: nn.Module, call: Any, args: Any, kwargs: Any, inputs: list[Tensor]
    ) -> tuple[_Block, Any]:
        self._in_block = {}
        output = call(*args, **kwargs)
        saved, self._in_block = self._in_block, None
        new = {key: size for key, size in saved.items() if key not in self._outside and key not in self._inside}
        self._inside |= new.keys()
        outputs = [output] if isinstance(output, Tensor) else list(output)
        places = {id(tensor): number for number, tensor in enumerate(inputs)}
        given = storages(inputs)
        block = _Block(
            module=module,
            new=sum(new.values()),
            inner=sum(size for key, size in saved.items() if key not in given),
            saves=[each.untyped_storage()._cdata in new for each in inputs],
            outputs=like_tensors(outputs),
            aliases=[places.get(id(each)) for each in outputs],
            kept=[isinstance(each, Tensor) and each.untyped_storage()._cdata in new for each in outputs],
            single=isinstance(output, Tensor),
        )
        self._alive += [each for each in outputs if isinstance(each, Tensor)]
        return block, output

    def _stand_in(self, block: _Block, module: nn.Module, inputs: list[Tensor]) -> Any:
        self.stood_for[module] = block.module
        own = zip(like_tensors(block.outputs), block.aliases, strict=True)
        made = [each if alias is None else inputs[alias] for each, alias in own]
        marked = [t for t, new in zip([*inputs, *made], [*block.saves, *block.kept], strict=True) if new]
        self._inside |= storages(each for each in marked if each is not None).keys()
        self._alive += [each for each in made if each is not None]
        return made[0] if block.single else tuple(made)


def like_tensors(tensors: Iterable[Any]) -> list[Tensor | None]:
    """New tensors that differ in nothing but their values and how they were made, and share storages as these do."""
    bases: dict[Any, Tensor] = {}
    made: list[Tensor | None] = []
    for each in tensors:
        if not isinstance(each, Tensor):
            made.append(None)
            continue
        storage = each.untyped_storage()
        key = (storage._cdata, each.dtype, each.requires_grad)
        if key not in bases:
            flat = each.new_empty(storage.nbytes() // each.itemsize).requires_grad_(each.requires_grad)
            # no leaf, as it is no leaf that a block returns; that saves nothing
            bases[key] = flat.neg() if each.requires_grad else flat
        made.append(bases[key].as_strided(each.shape, each.stride(), each.storage_offset()))
    return made


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value: in its lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from tensors_in(inner)


@contextlib.contextmanager
def blocks_by(recorder: CallsBlocks, model: nn.Module, mask: Tensor | None = None) -> Iterator[None]:
    """Let a model call its blocks through a recorder.

    A denoiser of diffusers says by its checkpointing what they are; of another model they are the members of its lists.
    `mask` is for blocks that checkpointing calls without theirs.
    """
    enable: Any = getattr(model, "_set_gradient_checkpointing", None)
    if getattr(model, "_supports_gradient_checkpointing", False) and hasattr(model, "enable_gradient_checkpointing"):
        call = recorder.block if mask is None else with_mask(recorder.block, mask)
        enable(enable=True, gradient_checkpointing_func=call)
        try:
            yield
        finally:
            enable(enable=False)
        return
    members = list(_members(model))
    for member in members:
        member.__dict__["forward"] = partial(recorder.block, member.forward)
    try:
        yield
    finally:
        for member in members:
            del member.__dict__["forward"]


def _members(model: nn.Module) -> Iterator[nn.Module]:
    """The members of a model's lists, those of lists inside them apart."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _members(child)


def saved_bytes(
    model: nn.Module,
    arguments: Mapping[str, Any],
    known: Iterable[Tensor],
    kind: Callable[[nn.Module], Hashable],
    *,
    every_block: bool = False,
) -> SavedBytes:
    """What a forward of the model keeps for its backward; on the meta device nothing is computed but shapes.

    Args:
        model: with its trained layers.
        arguments: of its forward.
        known: tensors that are there anyway: weights, parameters, what layers hold.
        kind: what a block has in common with those that keep the same: shapes of its weights, and what is trained.
        every_block: compute all of them.
    """
    recorder = Recorder(known, kind, every_block)
    hooks = torch.autograd.graph.saved_tensors_hooks(recorder.save, lambda tensor: tensor)
    on_meta = next(model.parameters()).is_meta
    mask = arguments.get("attention_mask")
    with blocks_by(recorder, model, mask), fused_attention() if on_meta else contextlib.nullcontext(), hooks:
        model(**arguments)
    return recorder.result()
