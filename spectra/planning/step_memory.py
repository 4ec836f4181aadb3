"""The memory of one training step by part, counted on a model without values that has spectra's own layers.

weights      frozen weights and buffers, by component
trained      the shift's parameters, and a copy of their values
spectra      singular vectors that layers keep, and weights that they make anew
activations  what autograd keeps from forward to backward, without and with gradient checkpointing
gradients    of what is trained
optimizer    AdamW's two moments and its steps
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spectra.adapters.bind import ALL
from spectra.adapters.binding import Binding, Layer, WeightSpectrum
from spectra.adapters.live_parameters import Form
from spectra.adapters.training_adapter import Adapter
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.naming.target_subsets import DENOISERS
from spectra.planning.held_tensors import held_tensors
from spectra.planning.saved_tensors import SavedBytes, saved_bytes, storages
from spectra.planning.step_inputs import StepShape, step_inputs
from spectra.spectrum.placeholders import leading_placeholder, placeholder

if TYPE_CHECKING:
    from spectra.families import Target

LONGEST_PROMPT = 512
"""Tokens of a prompt, where its text encoder does not take fewer."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step.

    Attributes:
        weights: by component, the trained ones only; each in the precision in which it computes.
        trained, spectra, gradients, optimizer: bytes.
        activations: of all components, without gradient checkpointing.
        checkpointed: with the denoiser's.
        blocks, computed: how many blocks the models have, and how many were computed; the others are like those.
    """

    weights: Mapping[str, int]
    trained: int
    spectra: int
    activations: int
    checkpointed: int
    gradients: int
    optimizer: int
    blocks: int
    computed: int


def attach_shapes(models: Mapping[str, nn.Module], targets: str, form: Form, *, low_memory: bool = False) -> Adapter:
    """An adapter on models without values, planned for a GPU: its spectra have shapes alone."""

    def bind(chosen: Sequence[Target], directions: Mapping[str, int]) -> dict[str, Binding]:
        return {target.name: Binding(target, _spectrum(target, directions.get(target.name, ALL))) for target in chosen}

    adapter = Adapter(models, targets, bind, form, low_memory)
    adapter.train()
    for layer in adapter.layers():
        layer.planned_device = torch.device("cuda")
    return adapter


def _spectrum(target: Target, count: int) -> WeightSpectrum | None:
    if target.weight.ndim < 2 or not count:
        return None
    return placeholder(target.weight) if count == ALL else leading_placeholder(target.weight, count)


def step_memory(
    models: Mapping[str, nn.Module], adapter: Adapter, shape: StepShape, prompts: int, *, every_block: bool = False
) -> StepMemory:
    """Count one step.

    Args:
        models: the denoiser and the text encoders that are trained, on the meta device, in the precision in which they
            compute.
        adapter: on these models, by `attach_shapes`.
        shape: of the denoiser's step.
        prompts: that a trained text encoder reads in a step.
        every_block: compute all blocks, rather than those that differ.
    """
    count = partial(_saved, adapter, shape=shape, prompts=prompts, every_block=every_block)
    if any(getattr(layer, "spectrum", None) is not None for layer in adapter._layers()):
        # In the first forward layers make the vectors that they keep.
        for name, model in models.items():
            count(name, model)
        for layer in adapter.layers():
            layer.forget()
    found = {name: count(name, model) for name, model in models.items()}
    parameters = list(adapter.by_key.values())
    stood_for = {block: like for saved in found.values() for block, like in saved.stood_for.items()}
    held = _held(adapter, stood_for)
    weights = {name: sum(storages(_own(model)).values()) for name, model in models.items()}
    floats = sum(storages(parameters).values())
    return StepMemory(
        weights=weights,
        trained=2 * floats,  # and the copy by which changed values are seen (`layers.value_watch`)
        spectra=held,
        activations=sum(saved.all for saved in found.values()),
        checkpointed=sum(saved.checkpointed if name in DENOISERS else saved.all for name, saved in found.items()),
        gradients=floats,
        optimizer=2 * floats + 4 * len(parameters),  # each tensor has a count of its steps
        blocks=sum(saved.blocks for saved in found.values()),
        computed=sum(saved.blocks - len(saved.stood_for) for saved in found.values()),
    )


def _own(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _saved(
    adapter: Adapter, name: str, model: nn.Module, *, shape: StepShape, prompts: int, every_block: bool
) -> SavedBytes:
    """What one model keeps from forward to backward."""
    layers = {id(layer.module): layer for layer in adapter._layers()}

    def kind(block: nn.Module) -> Hashable:
        """Its class, the shapes of its weights, and what is trained of it."""
        weights = tuple((path, each.shape) for path, each in block.named_parameters())
        trained = tuple(
            (path, tuple(t.shape for t in _trained(layers[id(module)])))
            for path, module in block.named_modules()
            if id(module) in layers
        )
        return type(block), weights, trained

    known = [*_own(model), *adapter.by_key.values(), *held_tensors(adapter._layers())]
    return saved_bytes(model, _arguments(name, model, shape, prompts), known, kind, every_block=every_block)


def _trained(layer: Layer) -> list[Tensor]:
    return [layer.delta] if isinstance(layer, ShiftedVector | ShiftedLayer) else list(layer.change.tensors())


def _arguments(name: str, model: nn.Module, shape: StepShape, prompts: int) -> Mapping[str, Any]:
    parameter = next(model.parameters())
    if name in DENOISERS:
        return step_inputs(model, shape, device=str(parameter.device), dtype=parameter.dtype).arguments
    config: Any = model.config
    tokens = min(int(getattr(config, "max_position_embeddings", LONGEST_PROMPT)), LONGEST_PROMPT)
    return {"input_ids": torch.zeros(prompts, tokens, dtype=torch.long, device=parameter.device)}


def _held(adapter: Adapter, stood_for: Mapping[nn.Module, nn.Module]) -> int:
    """Bytes that layers hold; those of blocks that were not computed hold what those of the like block do."""
    layers = adapter._layers()
    owners = {id(module): block for block in {*stood_for, *stood_for.values()} for module in block.modules()}
    by_block: dict[nn.Module | None, list[Layer]] = {}
    for layer in layers:
        by_block.setdefault(owners.get(id(layer.module)), []).append(layer)
    held = {block: sum(storages(held_tensors(own)).values()) for block, own in by_block.items()}
    return sum(held.get(stood_for.get(block, block) if block else None, 0) for block in by_block)
