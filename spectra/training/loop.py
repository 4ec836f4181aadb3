"""The steps of a training: draw, predict once, add the terms, move the deltas. It knows no term by name."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from spectra.errors import InputError, SpectraError
from spectra.families.denoise import DenoiseFamily
from spectra.training.config import TrainConfig
from spectra.training.objectives import Draw, Objective, Samples, joined

MEASURE_SAMPLES = 32
"""Samples of the fixed-noise loss before and after."""


@dataclass
class Loop:
    """One training in progress.

    Attributes:
        pipe, family: the base with the shifts attached, and how it is called.
        objectives: the terms of the loss.
        deltas: what is trained, by name.
        ranks: number of dimensions of each delta's weight, which picks its learning rate.
        config: the settings.
        accelerator: of accelerate; owns device, precision and accumulation.
        frozen: context in which the model computes as the base.
        step: optimizer steps done.
        rates: learning rate of each parameter group, before the schedule.
        history: a record for each of them.
    """

    pipe: Any
    family: DenoiseFamily
    objectives: Sequence[Objective]
    deltas: Mapping[str, nn.Parameter]
    ranks: Mapping[str, int]
    config: TrainConfig
    accelerator: Any
    frozen: Callable[[], AbstractContextManager[None]]
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups = [
            {"params": [p for name, p in self.deltas.items() if (self.ranks[name] == 1) == vectors], "lr": lr}
            for vectors, lr in ((False, self.config.lr), (True, self.config.lr_1d))
        ]
        groups = [group for group in groups if group["params"]]
        self.rates = [float(group["lr"]) for group in groups]  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.generator = torch.Generator("cpu").manual_seed(self.config.seed)

    def advance(self) -> dict[str, float]:
        """One optimizer step, over `accumulation` batches; returns its record, which `history` holds too.

        Raises:
            SpectraError: the loss is not finite.
        """
        began = time.perf_counter()
        config = self.config
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor(config, self.step)
        # Drawn for the whole step before it is cut into batches: how it is cut then changes no sample.
        draws = [o.draw(config.batch * config.accumulation, self.generator) for o in self.objectives]
        pieces = [draw.split(config.batch) for draw in draws]
        sums = dict.fromkeys(("loss", *(o.name for o in self.objectives)), 0.0)
        for batch in range(config.accumulation):
            with self.accelerator.accumulate(getattr(self.pipe, self.family.model)):
                terms = self._terms([piece[batch] for piece in pieces])
                loss = torch.stack([o.weight * terms[o.name] for o in self.objectives]).sum()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and config.max_grad_norm > 0:
                    self.accelerator.clip_grad_norm_(list(self.deltas.values()), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in {"loss": loss, **terms}.items():
                sums[name] += float(value.detach()) / config.accumulation
        if not math.isfinite(sums["loss"]):
            raise SpectraError(
                f"the loss is {sums['loss']} at step {self.step + 1}; train with a lower --lr than {config.lr:g}"
                + (", or without mixed precision" if config.mixed_precision != "no" else "")
            )
        self.step += 1
        record = {"step": self.step, **sums, "seconds": time.perf_counter() - began}
        self.history.append(record)
        return record

    def measure(self) -> float:
        """The first objective's loss at fixed samples: comparable before and after, as the loss of a step is not."""
        objective = copy.copy(self.objectives[0])
        objective.remaining = []
        draw = objective.draw(MEASURE_SAMPLES, torch.Generator("cpu").manual_seed(self.config.seed + 1))
        total = 0.0
        with torch.no_grad():
            for piece in draw.split(8):
                total += float(self._terms([piece], [objective])[objective.name]) * len(piece.index)
        return total / MEASURE_SAMPLES

    def _terms(self, draws: Sequence[Any], objectives: Sequence[Objective] | None = None) -> dict[str, Tensor]:
        """Each objective's term for its drawn samples, from one call of the model."""
        objectives = objectives or self.objectives
        with self.accelerator.autocast():
            samples = [self._samples(o, draw) for o, draw in zip(objectives, draws, strict=True)]
            prediction = self.family.predict(self.pipe, *joined(samples))
        parts = prediction.split([len(part.timesteps) for part in samples])
        return {o.name: o.term(p, s) for o, p, s in zip(objectives, parts, samples, strict=True)}

    def _samples(self, objective: Objective, draw: Draw) -> Samples:
        """What the model is asked, with the base's answer as the target where the objective wants that."""
        samples = objective.samples(draw, self.accelerator.device)
        if not objective.from_base:
            return samples
        with torch.no_grad(), self.frozen():
            # Again, for the base's own encoding of the prompts.
            asked = objective.samples(draw, self.accelerator.device)
            answer = self.family.predict(self.pipe, asked.noisy, asked.timesteps, asked.condition)
        return replace(samples, target=answer)


def rate_factor(config: TrainConfig, step: int) -> float:
    """What the learning rates are multiplied by in the step after `step` steps."""
    if config.lr_schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * step / config.steps))


def make_accelerator(config: TrainConfig, device: str = "") -> Any:
    """An accelerate `Accelerator` for a training: its device, precision and accumulation.

    Raises:
        InputError: a precision that the device does not have, or more than one process.
    """
    import accelerate
    from accelerate.state import AcceleratorState, PartialState

    # Accelerate keeps the first training's precision for the whole process, and refuses another.
    AcceleratorState._reset_state()
    PartialState._reset_state()
    cpu = device == "cpu" or (not device and not _has_accelerator())
    if cpu and config.mixed_precision == "fp16":
        raise InputError("mixed precision fp16 needs a GPU; on a CPU use bf16 or no")
    accelerator = accelerate.Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulation,
        cpu=cpu,
    )
    if accelerator.num_processes > 1:
        raise InputError(f"spectra trains in one process, got {accelerator.num_processes}; start it without a launcher")
    return accelerator


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()
