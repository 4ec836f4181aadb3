"""The steps of a training: draw, predict once, add the terms, move the deltas. It knows no term by name.

Any number of concepts train together: each has objectives, randomness and history of its own, and its row of every
delta. The model is called once for all of them, and nothing of one reaches another: a sample's loss depends on its own
row only, gradients are clipped concept by concept, and AdamW is elementwise.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from spectra.errors import SpectraError
from spectra.families.attention import AttentionMaps
from spectra.families.denoise import Condition, DenoiseFamily
from spectra.layers.per_sample import Samples as Rows
from spectra.training.config import TrainConfig
from spectra.training.data.latents import Conditions, encoded
from spectra.training.loss.terms import Draw, LossTerm, ModelPrediction, NoisySamples, Objective

MEASURE_SAMPLES = 32
"""Samples of the fixed-noise loss before and after."""


@dataclass
class Concept:
    """What one concept brings to a training.

    Attributes:
        name: for messages.
        objectives: the terms of its loss.
        seed: of everything that is drawn for it.
        history: a record of each step.
    """

    name: str
    objectives: Sequence[Objective]
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator("cpu").manual_seed(self.seed)


@dataclass(frozen=True)
class Minibatch:
    """NoisySamples drawn for one objective of the concept with this number."""

    concept: int
    objective: Objective
    draw: Draw

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        """Every term of the loss that judges these samples."""
        return (self.objective, *self.objective.extra_terms)


@dataclass
class Loop:
    """One training in progress.

    Attributes:
        pipe, family: the base with the shifts attached, and how it is called.
        concepts: what is learnt. All have the same number of objectives.
        conditions: of all their prompts.
        deltas: what is trained, by name: `[r]`, or `[concepts, r]` with `rows`.
        ranks: number of dimensions of each delta's weight, which picks its learning rate.
        config: the settings; those that are a concept's own are not used here.
        accelerator: of accelerate; owns device, precision and accumulation.
        frozen: context in which the model computes as the base.
        rows: told which row of the deltas each sample takes.
        maps: reads the cross-attention that terms ask for; None where none does.
        step: optimizer steps done.
        rates: learning rate of each parameter group, before the schedule.
    """

    pipe: Any
    family: DenoiseFamily
    concepts: Sequence[Concept]
    conditions: Conditions
    deltas: Mapping[str, nn.Parameter]
    ranks: Mapping[str, int]
    config: TrainConfig
    accelerator: Any
    frozen: Callable[[], AbstractContextManager[None]]
    rows: Rows | None = None
    maps: AttentionMaps | None = None
    step: int = 0

    def __post_init__(self) -> None:
        if self.config.directions:
            for name, delta in self.deltas.items():
                if self.ranks[name] > 1:
                    delta.register_hook(lambda gradient: limited(gradient, self.config.directions))
        groups = [
            {"params": [p for name, p in self.deltas.items() if (self.ranks[name] == 1) == vectors], "lr": lr}
            for vectors, lr in ((False, self.config.lr), (True, self.config.lr_1d))
        ]
        groups = [group for group in groups if group["params"]]
        self.rates = [float(group["lr"]) for group in groups]  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)

    def row(self, values: Tensor, concept: int) -> Tensor:
        """One concept's part of a delta, or of what the optimizer keeps for it."""
        return values if self.rows is None or values.ndim == 0 else values[concept]

    def advance(self) -> float:
        """One optimizer step, over `accumulation` batches. Adds a record to each history; returns the mean loss.

        Raises:
            SpectraError: a loss is not finite.
        """
        began = time.perf_counter()
        config = self.config
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor(config, self.step)
        # Drawn for the whole step before it is cut into batches: how it is cut then changes no sample.
        count = config.batch * config.accumulation
        pieces = [
            [Minibatch(number, o, piece) for piece in o.draw(count, concept.generator).split(config.batch)]
            for number, concept in enumerate(self.concepts)
            for o in concept.objectives
        ]
        sums: list[dict[str, float]] = [{"loss": 0.0} for _ in self.concepts]
        for parts in zip(*pieces, strict=True):
            with self.accelerator.accumulate(getattr(self.pipe, self.family.model)):
                named = [(part.concept, term) for part in parts for term in part.terms]
                terms = self._terms(parts)
                weight = [term.weight_at(self.step / config.steps) for _, term in named]
                weights = torch.tensor(weight, device=terms.device)
                # The sum, not the mean, over concepts: each then has the gradient that it would have alone.
                self.accelerator.backward((weights * terms).sum())
                if self.accelerator.sync_gradients and config.max_grad_norm > 0:
                    self.accelerator.unscale_gradients()
                    clip(list(self.deltas.values()), len(self.concepts), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for (number, term), factor, value in zip(named, weight, terms.tolist(), strict=True):
                each = sums[number]
                each[term.name] = each.get(term.name, 0.0) + value / config.accumulation
                each["loss"] += factor * value / config.accumulation
        for concept, each in zip(self.concepts, sums, strict=True):
            if not math.isfinite(each["loss"]):
                raise SpectraError(
                    f"the loss{f' of {concept.name}' if len(self.concepts) > 1 else ''} is {each['loss']} "
                    f"at step {self.step + 1}; train with a lower --lr than {config.lr:g}"
                    + (", or without mixed precision" if config.mixed_precision != "no" else "")
                )
        if self.maps is not None:
            self.maps.ask([])  # what is drawn between steps has other samples
        self.step += 1
        for concept, each in zip(self.concepts, sums, strict=True):
            concept.history.append({"step": self.step, **each, "seconds": time.perf_counter() - began})
        return sum(each["loss"] for each in sums) / len(sums)

    def dry_run(self) -> None:
        """Forward and backward of one batch, with the shapes of a step's; leaves gradients in the deltas."""
        parts = [
            self._aside(number, objective, self.config.batch)
            for number, concept in enumerate(self.concepts)
            for objective in concept.objectives
        ]
        self.accelerator.backward(self._terms(parts).sum())

    def _aside(self, number: int, objective: Objective, count: int) -> Minibatch:
        """Samples of an objective, of which neither it nor the concept's randomness takes note."""
        objective = copy.copy(objective)
        objective.remaining = []
        draw = objective.draw(count, torch.Generator("cpu").manual_seed(self.concepts[number].seed + 1))
        return Minibatch(number, objective, draw)

    def measure(self) -> list[float]:
        """Each concept's first term at fixed samples: comparable before and after, as the loss of a step is not."""
        pieces = []
        for number, concept in enumerate(self.concepts):
            part = self._aside(number, concept.objectives[0], MEASURE_SAMPLES)
            part.objective.extra_terms = ()
            pieces.append([replace(part, draw=piece) for piece in part.draw.split(8)])
        with torch.no_grad():
            terms = [self._terms(parts) * len(parts[0].draw.index) for parts in zip(*pieces, strict=True)]
        means: list[float] = (torch.stack(terms).sum(0) / MEASURE_SAMPLES).tolist()
        return means

    def _terms(self, parts: Sequence[Minibatch]) -> Tensor:
        """The terms of each part, one after the other, `[terms]`, from one call of the model."""
        with self.accelerator.autocast():
            asked = [part.objective.samples(part.draw, self.accelerator.device) for part in parts]
            held = [number for number, part in enumerate(parts) if part.objective.from_base]
            if held:
                with torch.no_grad(), self.frozen():
                    answers = self._ask([asked[n] for n in held], self.conditions.frozen)
                for number, answer in zip(held, answers, strict=True):
                    asked[number] = replace(asked[number], target=answer.output)
            rows = [part.concept for part, each in zip(parts, asked, strict=True) for _ in each.prompts]
            answers = self._ask(asked, lambda prompts: self._conditions(rows, prompts), rows)
        return torch.stack(
            [
                term.loss(answer, samples)
                for part, answer, samples in zip(parts, answers, asked, strict=True)
                for term in part.terms
            ]
        )

    def _ask(
        self,
        asked: Sequence[NoisySamples],
        conditions: Callable[[Sequence[str]], Condition],
        rows: Sequence[int] = (),
    ) -> list[ModelPrediction]:
        """The model's answers to several questions, put as one."""
        condition = conditions([prompt for each in asked for prompt in each.prompts])
        noisy, timesteps = torch.cat([each.noisy for each in asked]), torch.cat([each.timesteps for each in asked])
        self._take(rows)
        sizes = [len(each.timesteps) for each in asked]
        if self.maps is not None:
            before = itertools.accumulate(sizes, initial=0)
            self.maps.ask([word.after(n) for each, n in zip(asked, before, strict=False) for word in each.words])
        predictions = self.family.predict(self.pipe, noisy, timesteps, condition).split(sizes)
        # Each layer's maps are in the order of the words: cut them as the words were joined.
        layers = [iter(layer) for layer in self.maps.take()] if self.maps is not None else []
        return [
            ModelPrediction(prediction, [list(itertools.islice(layer, len(each.words))) for layer in layers])
            for prediction, each in zip(predictions, asked, strict=True)
        ]

    def _conditions(self, rows: Sequence[int], prompts: Sequence[str]) -> Condition:
        """Those of `prompts`, each by the text encoder of the concept `rows` says."""
        if not self.conditions.trained:
            return self.conditions.frozen(prompts)

        def encode(keys: list[tuple[int, str]]) -> Condition:
            self._take([row for row, _ in keys])
            return self.conditions.encode([prompt for _, prompt in keys])

        return encoded(encode, list(zip(rows, prompts, strict=True)))

    def _take(self, rows: Sequence[int]) -> None:
        """Say whose samples the next call has. It stays said: checkpointing computes once more in the backward pass."""
        if self.rows is not None and rows:
            self.rows.take(torch.tensor(rows))


def clip(deltas: Sequence[nn.Parameter], concepts: int, largest: float) -> None:
    """Scale the gradient of each concept, over all deltas, to a norm of at most `largest`."""
    gradients = [delta.grad.view(concepts, -1) for delta in deltas if delta.grad is not None]
    norms = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (largest / (norms + 1e-6)).clamp_max(1).unsqueeze(1)
    for gradient in gradients:
        gradient.mul_(factor)


def limited(gradient: Tensor, directions: int) -> Tensor:
    """A gradient `[..., r]` of which only the largest singular values keep theirs."""
    kept = torch.zeros_like(gradient)
    kept[..., :directions] = gradient[..., :directions]
    return kept


def rate_factor(config: TrainConfig, step: int) -> float:
    """What the learning rates are multiplied by in the step after `step` steps."""
    if config.lr_schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * step / config.steps))
