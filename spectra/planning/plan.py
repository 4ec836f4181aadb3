"""The plan of a training: what it touches, writes, decomposes and holds in memory, and what makes that fit a card."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectra.adapters.live_parameters import Form, split_key
from spectra.adapters.training_adapter import Adapter
from spectra.bases.shapes import BaseModels, BaseShapes
from spectra.errors import BaseError
from spectra.families import Target, targets
from spectra.io.dtypes import BYTES
from spectra.naming.target_subsets import TEXT_ENCODERS, component_of
from spectra.planning.base_weights import weight_bytes
from spectra.planning.memory import Memory, checkpoints
from spectra.planning.phases import Phases
from spectra.planning.request import PlanRequest, denoiser_of
from spectra.planning.shift_size import shift_file_bytes
from spectra.planning.step_inputs import StepShape, assumed_tokens, check_resolution
from spectra.planning.step_memory import StepMemory, attach_shapes, step_memory
from spectra.spectrum.costs import FLOPS_PER_SECOND, decomposition_flops, stored_bytes
from spectra.training.form import check_outer

USUAL_LATENTS = 128
"""Places of a side of the latents that diffusers' pipelines draw, where the denoiser's configuration has no size."""


@dataclass(frozen=True)
class SpectraCost:
    """What decomposing takes: bytes in the cache, floating-point operations, and seconds on so many cores.

    Seconds are estimated from the operations; of whole spectra, bytes are too.
    """

    bytes: int
    flops: int
    seconds: float
    cores: int


@dataclass(frozen=True)
class Plan:
    """What a training will take.

    Attributes:
        request: what was asked for.
        base: as it is called.
        pipeline: its class in diffusers.
        targets: what is trained.
        dtype: in which the step computes.
        resolution: pixels of a picture's side.
        assumed_tokens: of each prompt; 0 where their number is fixed, and not assumed.
        layers: touched weights by kind: matrices, convolutions, embeddings, vectors.
        floats: trained.
        file_bytes: of the shift file.
        spectra: see there.
        memory: see there.
        blocks, computed: blocks of the models, and how many were computed; the others are like those.
    """

    request: PlanRequest
    base: str
    pipeline: str
    targets: str
    dtype: str
    resolution: int
    assumed_tokens: int
    layers: Mapping[str, int]
    floats: int
    file_bytes: int
    spectra: SpectraCost
    memory: Memory
    blocks: int
    computed: int

    @property
    def estimated(self) -> tuple[str, ...]:
        """The figures that are estimated, and not counted."""
        budget = ("floats", "file_bytes") if check_outer(self.request.config.outer).budget else ()
        tails = self.spectra.flops and self.request.needed_directions is None
        whole = ("spectra.bytes", "memory.spectra") if tails else ()
        return (*budget, *whole, "spectra.seconds", "memory.other", "memory.total", "phases", "total")

    @property
    def largest(self) -> str:
        """The phase that takes the most."""
        return self.memory.largest(checkpointing=self.checkpointing)

    @property
    def total(self) -> int:
        """Bytes of the largest phase as asked for, what is estimated included."""
        return self.memory.total(checkpointing=self.checkpointing)

    @property
    def checkpointing(self) -> bool:
        """Whether blocks are computed once more in the backward pass."""
        return checkpoints(self.request, self.memory)

    @property
    def fits(self) -> bool | None:
        """Whether that fits the card; None where none was named."""
        return self.total <= self.request.vram if self.request.vram else None


class Planner:
    """Plans for one base, whose models are built once, on the meta device.

    Args:
        shapes: of the base.

    Raises:
        BaseError: it has no denoiser or no VAE, or models that cannot be built.
    """

    def __init__(self, shapes: BaseShapes) -> None:
        self.shapes, self.denoiser = shapes, denoiser_of(shapes)
        if "vae" not in shapes.parts:
            raise BaseError(f"{shapes.name}: it has {', '.join(shapes.parts)}, but no vae; expected a whole pipeline")
        self.models = BaseModels(shapes.parts)
        self._passing = Phases(shapes, self.models, self.denoiser)
        self._steps: dict[tuple[object, ...], StepMemory] = {}
        self._weights: dict[tuple[str, str, str], int] = {}

    def plan(self, request: PlanRequest) -> Plan:
        """The plan of a request for this base.

        Raises:
            InputError: a resolution that the base does not take.
            TargetError: targets that it has not.
        """
        with self._attached(request) as (adapter, models):
            step = self._count(request, adapter, models)
            names = {split_key(key)[0] for key in adapter.by_key}
            weights = [adapter._bindings[name].target for name in names]
            floats = sum(parameter.numel() for parameter in adapter.by_key.values())
            size = shift_file_bytes(adapter, request.config)
        budget = check_outer(request.config.outer).budget
        if budget:
            size, floats = budget, budget // 2
        return Plan(
            request=request,
            base=self.shapes.name,
            pipeline=self.shapes.pipeline,
            targets=request.targets(self.shapes.pipeline),
            dtype=request.dtype(self.shapes),
            resolution=self.resolution(request),
            assumed_tokens=assumed_tokens(self.models[self.denoiser]),
            layers=_kinds(weights),
            floats=floats,
            file_bytes=size,
            spectra=_spectra([tuple(t.shape) for t in weights if len(t.shape) > 1], request.needed_directions),
            memory=self.memory(request),
            blocks=step.blocks,
            computed=step.computed,
        )

    def memory(self, request: PlanRequest) -> Memory:
        """The memory of one step alone; errors as `plan`."""
        step = self._steps.get(self._key(request))
        if step is None:
            with self._attached(request) as (adapter, models):
                step = self._count(request, adapter, models)
        every = {name: self._weight_bytes(name, request) for name in self.shapes.parts}
        weights = {name: every[name] for name in self._staying(request, step)}
        if request.config.low_memory:
            weights |= step.weights
        kept_parts = (step.spectra, step.trained, step.gradients, step.optimizer)
        encoding, drawing = self._passing.phases(request, every, self.resolution(request), self._tokens())
        return Memory(
            weights,
            *kept_parts,
            step.activations,
            step.checkpointed,
            encoding=encoding,
            drawing=drawing,
            standing=step.spectra + step.trained + step.optimizer,
            base=sum(every.values()),
        )

    def _staying(self, request: PlanRequest, step: StepMemory) -> Iterator[str]:
        """The components in memory while steps are taken: those that compute, and those that encode anew in each."""
        config, encodes = request.config, len(step.weights) > 1
        for name in self.shapes.parts:
            put_away = config.cache_latents if name == "vae" else config.cache_prompts and not encodes
            if name in step.weights or not put_away:
                yield name

    def resolution(self, request: PlanRequest) -> int:
        """Pixels of the pictures' side; the base's own by default."""
        config = self.models[self.denoiser].config
        latents = getattr(config, "sample_size", None) or USUAL_LATENTS
        return request.config.resolution or self.shapes.resolution or int(latents) * self._passing.pixels

    @contextlib.contextmanager
    def _attached(self, request: PlanRequest) -> Iterator[tuple[Adapter, dict[str, nn.Module]]]:
        """An adapter of what is trained, and the models that compute: the denoiser, and trained text encoders."""
        names, words = request.targets(self.shapes.pipeline), self._words(request)
        form = Form(request.directions, request.terms, words, vectors=request.config.lr_1d > 0)
        trained = [target.name for target in targets(self.models.named_by(names), names)]
        parts = {self.denoiser, *(component_of(name) for name in (*trained, *words))}
        models = {name: self.models[name] for name in self.shapes.parts if name in parts}
        for model in models.values():
            nn.Module.to(model, getattr(torch, request.dtype(self.shapes)))  # without diffusers' advice
        adapter = attach_shapes(models, names, form, low_memory=request.config.low_memory)
        try:
            yield adapter, models
        finally:
            adapter.detach()

    def _words(self, request: PlanRequest) -> dict[str, tuple[int, ...]]:
        """One token of the special word in each text encoder, where it has a vector."""
        if not request.config.word:
            return {}
        found: dict[str, tuple[int, ...]] = {}
        for name in TEXT_ENCODERS:
            if name in self.shapes.parts:
                encoder: Any = self.models[name]
                table = encoder.get_input_embeddings()
                [weight] = [each.name for each in targets({name: encoder}, f"{name}.*") if table in each.modules]
                found[weight] = (0,)
        return found

    def _key(self, request: PlanRequest) -> tuple[object, ...]:
        """What the count of a step depends on."""
        config = request.config
        form = (request.targets(self.shapes.pipeline), request.directions, request.terms, config.word, config.lr_1d > 0)
        size = (
            self.resolution(request),
            request.samples,
            request.prompts,
            request.dtype(self.shapes),
            config.low_memory,
        )
        return (*form, *size)

    def _count(self, request: PlanRequest, adapter: Adapter, models: Mapping[str, nn.Module]) -> StepMemory:
        resolution, pixels = self.resolution(request), self._passing.pixels
        check_resolution(self.models[self.denoiser], resolution, pixels)
        shape = StepShape(resolution // pixels, request.samples, self._tokens())
        step = self._steps[self._key(request)] = step_memory(models, adapter, shape, request.prompts)
        return step

    def _weight_bytes(self, name: str, request: PlanRequest) -> int:
        """Bytes of a component's weights; the denoiser alone is quantised."""
        key = (name, request.dtype(self.shapes), request.config.quantize if name == self.denoiser else "")
        if key not in self._weights:
            part = self.shapes.parts[name]
            counted = part.library == "transformers" and part.weights and not self.models.built(name)
            self._weights[key] = part.weights * BYTES[key[1]] if counted else weight_bytes(self.models[name], *key[1:])
        return self._weights[key]

    def _tokens(self) -> int:
        """Tokens of a prompt as the denoiser gets it, where its text encoder's length says it; else 0."""
        beside = _TOKENS_BESIDE.get(type(self.models[self.denoiser]).__name__)
        if beside is None or "text_encoder" not in self.shapes.parts:
            return 0
        length = "max_position_embeddings"
        told = self.shapes.parts["text_encoder"].config.get(length, 0)
        longest = int(told or getattr(self.models["text_encoder"].config, length, 0))
        return longest + beside if longest else 0


_TOKENS_BESIDE = {"UNet2DConditionModel": 0, "SD3Transformer2DModel": 256}
"""Tokens beside those of the first text encoder, by the denoiser's class: in SD3 of T5, whose prompts are cut there."""


def _kinds(trained: Iterable[Target]) -> dict[str, int]:
    """How many weights of each kind are trained."""
    found: Counter[str] = Counter()
    for target in trained:
        if isinstance(target.modules[0], nn.Embedding):
            found["embeddings"] += 1
        else:
            found[{1: "vectors", 2: "matrices"}.get(len(target.shape), "convolutions")] += 1
    return {kind: found[kind] for kind in ("matrices", "convolutions", "embeddings", "vectors") if found[kind]}


def _spectra(shapes: list[tuple[int, ...]], directions: int | None) -> SpectraCost:
    cores = os.cpu_count() or 1
    flops = sum(decomposition_flops(shape, directions) for shape in shapes)
    size = sum(stored_bytes(shape, directions) for shape in shapes)
    return SpectraCost(size, flops, flops / (FLOPS_PER_SECOND * cores), cores)


def plan(request: PlanRequest) -> Plan:
    """What a training will take, counted without weights.

    Raises:
        BaseError: the base is missing, or is none that can be planned.
        InputError: settings that it does not take.
    """
    return Planner(request.shapes()).plan(request)
