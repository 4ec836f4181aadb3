"""The steps of a training: draw samples, predict once, add the terms of the loss, move the shift.

Any number of concepts train together: each has objectives, randomness and history of its own, and its row of every
parameter. The model is called once for all pictures of one shape, each call followed by its backward, and nothing of
one concept reaches another: a sample's loss depends on its own row only, gradients are clipped concept by concept, and
AdamW is elementwise.
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

from spectra.errors import DivergedError
from spectra.families.attention import AttentionMaps
from spectra.families.family import Condition, Family
from spectra.layers.per_sample import Samples
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.training.config import TrainConfig
from spectra.training.data.prompt_embeddings import Conditions, encode_each_once
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.loss.terms import ModelPrediction, NoisySamples
from spectra.training.processes.group import ALONE, Processes
from spectra.training.run.averages import Result
from spectra.training.run.batches import Concept, Minibatch, by_shape, of_process, undrawn_if_lost
from spectra.training.run.concept_words import ConceptWords
from spectra.training.run.last_good import LastGood
from spectra.training.run.lr_schedule import set_learning_rates
from spectra.training.run.optimizer import clip_by_concept, make_optimizer

MEASURE_SAMPLES = 32
"""Number of samples whose loss is measured before and after."""


@dataclass
class Loop:
    """One training in progress.

    Attributes:
        pipe, family: the base with the shifts attached, and how it is called.
        concepts: what is learnt. All have the same number of objectives.
        conditions: of all their prompts.
        parameters: what is trained, by key (`live_parameters`); with `rows`, each has a row for every concept.
        rates: the setting that is each parameter's learning rate, by key.
        config: the settings; those that are a concept's own are not used here.
        accelerator: of accelerate; owns device, precision and accumulation.
        frozen: context in which the model computes as the base.
        rows: which row of the parameters each sample takes; None for one concept.
        words: whose tokens the rows of the special words' vectors are.
        result: the parameters that the training gives, where they are not those of its last step.
        layers: gives those that compute with the parameters; what they keep depends on the shapes that they have met.
        maps: reads the cross-attention that terms need; None where none does.
        processes: that take these steps together, each with its samples of every batch.
        step: optimizer steps done.
    """

    pipe: Any
    family: Family
    concepts: Sequence[Concept]
    conditions: Conditions
    parameters: Mapping[str, nn.Parameter]
    rates: Mapping[str, str]
    config: TrainConfig
    accelerator: Any
    frozen: Callable[[], AbstractContextManager[None]]
    rows: Samples | None = None
    words: ConceptWords = field(default_factory=ConceptWords)
    layers: Callable[[], Sequence[ShiftedLayer]] = tuple
    maps: AttentionMaps | None = None
    processes: Processes = ALONE
    step: int = 0

    def __post_init__(self) -> None:
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(self.parameters, self.rates, self.config))
        self.result = Result(self.parameters, self.optimizer, self.config)
        self.last_good = LastGood(self.parameters)
        keys = {id(parameter): key for key, parameter in self.parameters.items()}
        self.optimized = [keys[id(each)] for group in self.optimizer.param_groups for each in group["params"]]

    @property
    def rate(self) -> float:
        """The largest of the learning rates of the last step."""
        return max(float(group["lr"] * group.get("d", 1.0)) for group in self.optimizer.param_groups)

    def row(self, key: str, values: Tensor, concept: int) -> Tensor:
        """One concept's part of a parameter, or of what the optimizer keeps for it, as if it were trained alone."""
        own = values if self.rows is None or values.ndim == 0 else values[concept]
        return self.words.only(key, own, concept)

    def joined(self, key: str, parts: Sequence[Tensor]) -> Tensor:
        """What `row` took apart, from the part of each concept."""
        if self.rows is None or parts[0].ndim == 0:
            return parts[0]
        like = self.parameters[key][0]
        return torch.stack([self.words.filled(key, part, number, like) for number, part in enumerate(parts)])

    def advance(self) -> float:
        """One optimizer step, over `accumulation` batches. Adds a record to each history; returns the mean loss.

        Raises:
            DivergedError: a loss or a parameter is not finite. The parameters are those of the last good step then.
            ProcessError: another process has ended. All is as it was before the step then.
        """
        began, config = time.perf_counter(), self.config
        self.last_good.begin()
        set_learning_rates(self.optimizer, config, self.step)
        with undrawn_if_lost(self.concepts), self.processes.heard():
            records = self._move()
        if self.maps is not None:
            self.maps.request([])  # what is drawn between steps has other samples
        for concept, record in zip(self.concepts, records, strict=True):
            if not math.isfinite(record["loss"]):
                whose = f" of {concept.name}" if len(self.concepts) > 1 else ""
                raise self._diverged(f"the loss{whose} is {record['loss']}")
        self.last_good.confirm(self.step)
        if self.last_good.overflows(self.accelerator.scaler is not None and self.optimizer.step_was_skipped):
            raise self._diverged("gradients overflow in half precision, step after step")
        if not self.last_good.finite():
            raise self._diverged("the parameters are not finite")
        self.step += 1
        self.result.update(self.step)
        for concept, record in zip(self.concepts, records, strict=True):
            took = {} if config.deterministic else {"seconds": time.perf_counter() - began}
            concept.history.append({**record, **took})
        return sum(record["loss"] for record in records) / len(records)

    def _move(self) -> list[dict[str, float]]:
        """Draw the samples of a step, and move the parameters by their gradient; each concept's losses."""
        config, done = self.config, self.step / self.config.steps
        drawn = config.step_samples, config.batch
        minibatches = [
            [Minibatch(number, each, piece) for piece in each.draw(*drawn, concept.generator)]
            for number, concept in enumerate(self.concepts)
            for each in concept.objectives
        ]
        terms = [[term.name for each in concept.objectives for term in each.terms] for concept in self.concepts]
        records = [{"step": self.step + 1, "loss": 0.0, **dict.fromkeys(names, 0.0)} for names in terms]
        for number, batch in enumerate(zip(*minibatches, strict=True)):
            with self.accelerator.accumulate(getattr(self.pipe, self.family.model)):
                for group in by_shape(of_process(batch, number, self.processes)):
                    losses = self._losses(group)
                    judged = [(part, term) for part in group for term in part.objective.terms]
                    weights = [part.part * term.weight_at(done) for part, term in judged]
                    # The sum, not the mean, over concepts: each then has the gradient that it would have alone.
                    self.accelerator.backward((losses.new_tensor(weights) * losses).sum())
                    for (part, term), weight, loss in zip(judged, weights, losses.tolist(), strict=True):
                        records[part.concept][term.name] += part.part * loss / config.accumulation
                        records[part.concept]["loss"] += weight * loss / config.accumulation
                if self.accelerator.sync_gradients:
                    self.processes.reduce(self.parameters.values())
                    records = self._summed(records)
                    if config.max_grad_norm > 0:
                        self.accelerator.unscale_gradients()
                        clip_by_concept(list(self.parameters.values()), len(self.concepts), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return records

    def _summed(self, records: Sequence[dict[str, float]]) -> list[dict[str, float]]:
        """The losses of all processes' samples, from those of each one's own."""
        numbers = iter(self.processes.total([n for record in records for name, n in record.items() if name != "step"]))
        return [{name: n if name == "step" else next(numbers) for name, n in record.items()} for record in records]

    def _diverged(self, what: str) -> DivergedError:
        """Go back to the last good step, and say what to change."""
        at, config = self.step + 1, self.config
        self.last_good.restore()
        self.step = self.last_good.step or 0
        half = getattr(self.pipe, self.family.model).dtype == torch.float16 or config.mixed_precision == "fp16"
        advice = [f"with a lower --lr than {config.lr:g}"] if self.last_good.step is not None else []
        advice += ["in float32 or bfloat16"] if half else []
        return DivergedError(
            f"{what} at step {at}; train {', or '.join(advice) or 'on another base, or from no shift'}"
        )

    def dry_run(self) -> None:
        """Forward and backward of one batch, with the shapes of a step's; leaves gradients in the parameters."""
        batch = [
            self._set_aside(number, objective, self.config.batch, self.config.batch)[0]
            for number, concept in enumerate(self.concepts)
            for objective in concept.objectives
        ]
        for group in by_shape(batch):
            self.accelerator.backward(self._losses(group).sum())

    def take_gradient(self, count: int) -> None:
        """Add to the parameters' gradients that of each concept's first term, the mean of `count` samples of it."""
        for number, concept in enumerate(self.concepts):
            parts = self._set_aside(number, concept.objectives[0], count, self.config.batch, alone=True)
            for place, whole in enumerate(parts):
                for part in of_process([whole], place, self.processes):
                    share = part.part * len(whole.draw.index) / count
                    self.accelerator.backward(self._losses([part]).sum() * share)
        self.processes.reduce(self.parameters.values())

    def measure(self, objective: int = 0) -> list[float]:
        """Each concept's loss at fixed samples of an objective, 0 of its own pictures, 1 of class pictures."""
        minibatches = [
            self._set_aside(number, concept.objectives[objective], MEASURE_SAMPLES, 8, alone=True)
            for number, concept in enumerate(self.concepts)
        ]
        means = [0.0 for _ in self.concepts]
        with torch.no_grad():
            for place, batch in enumerate(zip(*minibatches, strict=True)):
                for group in by_shape(of_process(batch, place, self.processes)):
                    for part, loss in zip(group, self._losses(group).tolist(), strict=True):
                        means[part.concept] += part.part * loss * len(batch[part.concept].draw.index) / MEASURE_SAMPLES
        return self.processes.total(means)

    def _set_aside(
        self, number: int, objective: DenoisingObjective, count: int, size: int, *, alone: bool = False
    ) -> list[Minibatch]:
        """Samples of an objective, in batches, that change neither its round of pictures nor its concept's randomness.

        Args:
            alone: without the objective's extra terms, and against the noise alone.
        """
        objective = copy.copy(objective)
        objective.remaining = []
        if alone:
            objective.extra_terms, objective.from_base = (), False
        draws = objective.draw(count, size, torch.Generator("cpu").manual_seed(self.concepts[number].seed + 1))
        return [Minibatch(number, objective, draw) for draw in draws]

    def _losses(self, batch: Sequence[Minibatch]) -> Tensor:
        """The loss of every term of each part of the batch, `[terms]`, from one call of the model."""
        with self.accelerator.autocast():
            samples = [part.objective.samples(part.draw, self.accelerator.device) for part in batch]
            from_base = [number for number, part in enumerate(batch) if part.objective.from_base]
            if from_base:
                with torch.no_grad(), self.frozen():
                    asked = [batch[n].objective.asked_of_base(samples[n]) for n in from_base]
                    predictions = self._predict(asked, self.conditions.frozen)
                for number, prediction in zip(from_base, predictions, strict=True):
                    samples[number] = replace(samples[number], target=prediction.output)
            rows = [part.concept for part, each in zip(batch, samples, strict=True) for _ in each.prompts]
            predictions = self._predict(samples, lambda prompts: self._conditions(rows, prompts), rows)
        return torch.stack(
            [
                term.loss(prediction, each)
                for part, prediction, each in zip(batch, predictions, samples, strict=True)
                for term in part.objective.terms
            ]
        )

    def _predict(
        self,
        samples: Sequence[NoisySamples],
        conditions: Callable[[Sequence[str]], Condition],
        rows: Sequence[int] = (),
    ) -> list[ModelPrediction]:
        """The model's prediction for each of `samples`, from one call."""
        condition = conditions([prompt for each in samples for prompt in each.prompts])
        noisy, timesteps = torch.cat([each.noisy for each in samples]), torch.cat([each.timesteps for each in samples])
        self._select_rows(rows)
        sizes = [len(each.timesteps) for each in samples]
        if self.maps is not None:
            before = itertools.accumulate(sizes, initial=0)
            self.maps.request([word.after(n) for each, n in zip(samples, before, strict=False) for word in each.words])
        dtype: torch.dtype = getattr(self.pipe, self.family.model).dtype
        outputs = self.family.predict(self.pipe, noisy.to(dtype), timesteps, condition.to(dtype)).split(sizes)
        # Each layer's maps are in the order of the words: cut them as the words were joined.
        layers = [iter(layer) for layer in self.maps.collect()] if self.maps is not None else []
        return [
            ModelPrediction(output, [list(itertools.islice(layer, len(each.words))) for layer in layers])
            for output, each in zip(outputs, samples, strict=True)
        ]

    def _conditions(self, rows: Sequence[int], prompts: Sequence[str]) -> Condition:
        """The conditions of `prompts`, each by the text encoder of the concept that `rows` says."""
        if not self.conditions.trained:
            return self.conditions.frozen(prompts)

        def encode(keys: list[tuple[int, str]]) -> Condition:
            self._select_rows([row for row, _ in keys])
            return self.conditions.encode([prompt for _, prompt in keys])

        return encode_each_once(encode, list(zip(rows, prompts, strict=True)))

    def _select_rows(self, rows: Sequence[int]) -> None:
        """Say whose samples the next call has; it holds on, since checkpointing computes once more in the backward."""
        if self.rows is not None and rows:
            self.rows.take(torch.tensor(rows))
