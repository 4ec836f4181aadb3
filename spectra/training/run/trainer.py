"""A whole training, in order: load the base, encode, attach, step, draw, write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from spectra.adapters.live_parameters import Form
from spectra.adapters.plan_tuning import tune
from spectra.adapters.spectra_from import find_originals
from spectra.adapters.training_adapter import Adapter, attach_form
from spectra.bases.pipeline import load_pipeline
from spectra.errors import DivergedError
from spectra.families import targets
from spectra.families.attention import AttentionMaps
from spectra.families.known import family_of
from spectra.layers.per_sample import Samples
from spectra.progress import SILENT, Progress, working
from spectra.training.data.class_pictures import pipeline_fingerprint
from spectra.training.data.prompt_embeddings import Conditions
from spectra.training.form import check_directions, check_outer
from spectra.training.loss.objectives import build_objectives
from spectra.training.run.accelerator import deterministic, make_accelerator
from spectra.training.run.concept_parameters import ConceptParameters
from spectra.training.run.concept_words import ConceptWords
from spectra.training.run.files import Files
from spectra.training.run.gradient_probe import choose_form
from spectra.training.run.inputs import ValidatedInputs, resolution_of
from spectra.training.run.interruption import InterruptBetweenSteps, Interrupted
from spectra.training.run.judgement import judge
from spectra.training.run.loop import Concept, Loop
from spectra.training.run.memory import checkpoints, load_dtype, peak_memory
from spectra.training.run.optimizer import rate_settings
from spectra.training.run.placement import Placement
from spectra.training.run.report import WINDOW, Summary
from spectra.training.run.state import restore_state
from spectra.training.run.trackers import Trackers
from spectra.training.run.validation import PicturesByPrompt, Validation


class _LoopPieces(NamedTuple):
    """What a loop has beside an adapter: see `Loop`. `ndims` are those of the weights, by name."""

    concepts: Sequence[Concept]
    conditions: Conditions
    ndims: Mapping[str, int]
    maps: AttentionMaps | None
    words: ConceptWords


def _due(every: int, step: int) -> bool:
    """Whether something that is done every so many steps is due after a step; 0 is never."""
    return every > 0 and step % every == 0


class Training:
    """One training of one or several concepts, which are numbered in the order of `inputs`.

    Attributes:
        pipe, family, accelerator: the base, how it is called, and where it computes.
        resolution: pixels of a picture's side.
        adapter, parameters, loop: the shifts on the base, and their steps; there once it is prepared.
    """

    adapter: Adapter
    parameters: ConceptParameters
    loop: Loop

    def __init__(self, inputs: Sequence[ValidatedInputs], *, device: str = "", progress: Progress = SILENT) -> None:
        """Load the base.

        Raises:
            InputError: the device has not the precision that is asked for.
            BaseError: the base cannot be trained, or not at this resolution.
        """
        self.began = time.perf_counter()
        self.inputs, self.progress = inputs, progress
        self.config = inputs[0].config
        self._closing = contextlib.ExitStack()
        if self.config.deterministic:
            self._closing.enter_context(deterministic())
        self.accelerator = make_accelerator(self.config, device)
        base, dtype = inputs[0].base, load_dtype(self.config.precision, inputs[0].base)
        self.pipe = load_pipeline(base, dtype, quantize=self.config.quantize)
        find_originals(self.pipe, base, self.config.spectra_from)
        if getattr(self.pipe, "safety_checker", None) is not None:
            # It would blacken class and validation pictures at random, and takes a gigabyte.
            self.pipe.register_modules(safety_checker=None)
        self.family = family_of(self.pipe)
        if len(inputs) > 1:
            self.family.require("concepts")
        if self.config.subjects and self.config.unmix_weight > 0:
            self.family.require("unmix")
        self._placement = Placement(self.pipe, self.accelerator.device)
        self._closing.callback(self._placement.settle, ())
        self._targets = self.config.targets_of(self.family)
        self.resolution = resolution_of(self.family, self.pipe, self.config)
        self.validations = [Validation(each.config, each.subjects) for each in inputs]
        self._trackers = [Trackers(each.config, each.outputs.name, each.outputs.unfinished) for each in inputs]
        for each in self._trackers:
            self._closing.callback(each.close)

    def prepare(self) -> None:
        """Draw class pictures, encode, attach: everything that comes before the first step."""
        config, pipe, family = self.config, self.pipe, self.family
        words = ConceptWords()
        if config.word:
            words = ConceptWords.of(pipe, family.text_encoders, [each.subjects for each in self.inputs])
        changed = targets(pipe, ",".join([self._targets, *words.ids]))
        ndims = {target.name: target.weight.ndim for target in changed}
        trained = not {name.split(".")[0] for name in ndims}.isdisjoint(family.text_encoders)
        self.fingerprint = pipeline_fingerprint(pipe)
        maps = None
        if config.subjects and config.unmix_weight > 0:
            maps = AttentionMaps(getattr(pipe, family.model), family.cross_attention, config.unmix_layers)
            self._closing.callback(maps.close)
        with self._placement.in_turns():
            # The class pictures are drawn before anything is attached: by the frozen base.
            concepts, prompts = [], []
            for each in self.inputs:
                given = each.config, each.subjects, each.class_pictures
                objectives = build_objectives(pipe, *given, self.resolution, self.fingerprint, progress=self.progress)
                prompts += [prompt for objective in objectives for prompt in objective.every_prompt()]
                concepts.append(Concept(each.name, objectives, each.config.seed))
            conditions = Conditions(
                lambda prompts: family.encode(pipe, prompts),
                prompts,
                keep=config.cache_prompts,
                trained=trained,
            )
        self._pieces = _LoopPieces(concepts, conditions, ndims, maps, words)
        encoding = [*([] if config.cache_latents else ["vae"]), *(() if conditions.kept else family.text_encoders)]
        self._placement.settle([family.model, *encoding])
        sources = [objective.source for each in concepts for objective in each.objectives]
        with self.accelerator.autocast():
            if checkpoints(config, pipe, family, conditions, sources):
                getattr(pipe, family.model).enable_gradient_checkpointing()
        form = choose_form(
            check_directions(config.directions),
            check_outer(config.outer),
            self._attach,
            lambda adapter: self._make_loop(adapter, adapter.by_key),
            vectors=config.lr_1d > 0,
        )
        self.adapter = self._attach(replace(form, words=words.ids))
        self._closing.callback(self.adapter.detach)
        self.parameters = ConceptParameters(self.adapter, len(concepts), words)
        for number, each in enumerate(self.inputs):
            if each.init is not None:
                self.parameters.start_from(each.init, number)
        self.loop = self._make_loop(self.adapter, self.parameters.parameters, self.parameters.rows)

    def _attach(self, form: Form) -> Adapter:
        return attach_form(self.pipe, self._targets, form, low_memory=self.config.low_memory, progress=self.progress)

    def _make_loop(self, adapter: Adapter, parameters: Mapping[str, nn.Parameter], rows: Samples | None = None) -> Loop:
        """The training's steps, with these parameters of an adapter."""
        concepts, conditions, ndims, maps, words = self._pieces
        return Loop(
            pipe=self.pipe,
            family=self.family,
            concepts=concepts,
            conditions=conditions,
            parameters=parameters,
            rates=rate_settings(parameters, ndims),
            config=self.config,
            accelerator=self.accelerator,
            frozen=adapter.disabled,
            rows=rows,
            words=words,
            layers=adapter.layers,
            maps=maps,
        )

    def run(self, *, force: bool) -> list[Summary]:
        """Train, and write every concept's folder; with `force` in place of an earlier one."""
        self.prepare()
        loop = self.loop
        self._files = Files(
            self.inputs, loop, self.parameters, self.validations, resolution=self.resolution, base=self.fingerprint
        )
        with self.adapter.disabled():
            losses_before, class_before = loop.measure(), self._measure_class()
            with self._placement.in_turns():
                before = [self._draw(number, "drawing before") for number in range(len(self.inputs))]
        states = [each.saved for each in self.inputs if each.saved is not None]
        if states:
            restore_state(loop, states, base=self.fingerprint)
        resumed_at = loop.step
        if self.config.tune:
            with working(self.progress, "measuring plans", 1):
                tune(self.adapter, loop.dry_run)
        started = time.perf_counter()
        try:
            self._take_steps()
        except DivergedError as error:
            raise DivergedError(f"{error}{self._files.keep_last_good()}") from error
        cost = {"resumed_at": resumed_at, "train_seconds": time.perf_counter() - started}
        for each in self._trackers:
            each.close()  # their files move with the folder
        with loop.result.in_place():
            summaries = self._finish(losses_before, class_before, before, force=force, **cost)
        return [replace(each, total_seconds=time.perf_counter() - self.began) for each in summaries]

    def _measure_class(self) -> list[float] | None:
        """The losses on class pictures; None where a concept has none."""
        return self.loop.measure(1) if all(len(each.objectives) > 1 for each in self.loop.concepts) else None

    def _finish(
        self,
        losses_before: Sequence[float],
        class_before: Sequence[float] | None,
        before: Sequence[PicturesByPrompt],
        *,
        force: bool,
        **cost: Any,
    ) -> list[Summary]:
        """Measure and draw what was learnt, and write every concept's folder."""
        losses_after, class_after = self.loop.measure(), self._measure_class()
        after, judged = [], []
        for number, (each, validation) in enumerate(zip(self.inputs, self.validations, strict=True)):
            losses = losses_before[number], losses_after[number]
            of_class = (class_before[number], class_after[number]) if class_before and class_after else None
            with self._placement.in_turns(), self.parameters.drawing(number):
                after.append(self._draw(number, "drawing after"))
                drawn = before[number], after[number]
                judged.append(
                    judge(self.pipe, each, self.resolution, validation, drawn, losses, of_class, self.progress)
                )
        summaries = []
        with contextlib.ExitStack() as folders:
            for number, each in enumerate(self.inputs):
                earlier = each.saved.path.parent if each.saved is not None else None
                folder = folders.enter_context(each.outputs.finished(force=force, earlier=earlier))
                measured: dict[str, Any] = {"judged": judged[number], **cost}
                measured |= {"loss_before": losses_before[number], "loss_after": losses_after[number]}
                summaries.append(self._files.write_folder(number, folder, before[number], after[number], **measured))
        return summaries

    def close(self) -> None:
        """Give the model back, whatever happened."""
        self._closing.close()

    def _take_steps(self) -> None:
        """Train to the end, saving states and shifts and drawing validation pictures on the way.

        Raises:
            Interrupted: Ctrl-C; states and shifts are saved.
        """
        config, loop = self.config, self.loop
        told = partial(self.progress.advance, 0, "stopping after this step; Ctrl-C again for at once")
        with working(self.progress, "training", config.steps), InterruptBetweenSteps(told) as interrupt:
            self.progress.advance(loop.step)
            while loop.step < config.steps:
                loop.advance()
                for concept, trackers in zip(loop.concepts, self._trackers, strict=True):
                    trackers.log({**concept.history[-1], "lr": loop.rate})
                self.progress.advance(1, self._note())
                if _due(config.save_every, loop.step) or (config.save_every and loop.step == config.steps):
                    self._files.save_states()
                if _due(config.checkpoint_every, loop.step):
                    self._files.keep_shifts()
                if config.validation_count and _due(config.validation_every, loop.step):
                    self._validate()
                if interrupt.asked and loop.step < config.steps:
                    self._files.save_states()
                    self._files.keep_shifts()
                    raise Interrupted(loop.step, config.steps, [each.outputs.folder for each in self.inputs])

    def _note(self) -> str:
        """Where the training stands, in a few words: a mean of the last losses, since each depends on its noise."""
        recent = [record["loss"] for each in self.loop.concepts for record in each.history[-WINDOW:]]
        memory = peak_memory(self.accelerator.device)
        parts = [f"loss {sum(recent) / len(recent):.4f}", f"lr {self.loop.rate:.2g}"]
        return ", ".join([*parts, f"{memory / 1e9:.1f} GB"] if memory else parts)

    def _validate(self) -> None:
        """Draw every concept's validation pictures, and write them at once."""
        step = self.loop.step
        for number, validation in enumerate(self.validations):
            with self._placement.in_turns(), self.loop.result.in_place(), self.parameters.drawing(number):
                row = validation.row(validation.draw(self.pipe, "drawing"), f"After {step} steps")
            self._files.add_samples(number, row)
            self._trackers[number].show(row, step)

    def _draw(self, number: int, label: str) -> PicturesByPrompt:
        """A concept's validation pictures as the model draws them now."""
        name = self.inputs[number].name
        return self.validations[number].draw(self.pipe, f"{label}: {name}" if name else label, self.progress)
