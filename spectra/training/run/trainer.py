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
from spectra.adapters.training_adapter import Adapter
from spectra.bases.pipeline import load_pipeline
from spectra.errors import InputError
from spectra.families import targets
from spectra.families.attention import AttentionMaps
from spectra.families.known import family_of
from spectra.layers.per_sample import Samples
from spectra.progress import SILENT, Progress, working
from spectra.training.data.class_pictures import PICTURES_AT_ONCE, pipeline_fingerprint, prior_pictures
from spectra.training.data.prompt_embeddings import Conditions
from spectra.training.form import check_directions, check_outer
from spectra.training.loss.objectives import build_objectives
from spectra.training.processes.group import ALONE, Processes
from spectra.training.processes.sharding import check_sharded, shard
from spectra.training.processes.spectra_by_shares import bind_by_shares
from spectra.training.run.accelerator import deterministic, make_accelerator
from spectra.training.run.batches import Concept
from spectra.training.run.concept_parameters import ConceptParameters
from spectra.training.run.concept_words import ConceptWords
from spectra.training.run.files import Files
from spectra.training.run.gradient_probe import choose_form
from spectra.training.run.inputs import ValidatedInputs, resolution_of
from spectra.training.run.judgement import Losses, Verdict, judge
from spectra.training.run.loop import Loop
from spectra.training.run.memory import checkpoints, is_large, load_dtype
from spectra.training.run.optimizer import rate_settings
from spectra.training.run.placement import Placement
from spectra.training.run.report import Summary
from spectra.training.run.state import restore_state
from spectra.training.run.steps import Steps
from spectra.training.run.trackers import Trackers
from spectra.training.run.validation import Drawings, PicturesByPrompt, Validation


class _LoopPieces(NamedTuple):
    """What a loop has beside an adapter: see `Loop`. `ndims` are those of the weights, by name."""

    concepts: Sequence[Concept]
    conditions: Conditions
    ndims: Mapping[str, int]
    maps: AttentionMaps | None
    words: ConceptWords


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

    def __init__(
        self,
        inputs: Sequence[ValidatedInputs],
        *,
        device: str = "",
        processes: Processes = ALONE,
        progress: Progress = SILENT,
    ) -> None:
        """Load the base.

        Raises:
            InputError: the device has not the precision that is asked for, or a step has fewer samples than there are
                processes.
            BaseError: the base cannot be trained, or not at this resolution.
        """
        self.began = time.perf_counter()
        self.inputs, self.processes, self.progress = inputs, processes, progress
        self.config = inputs[0].config
        if (samples := self.config.step_samples) < processes.count:
            raise InputError(
                f"a step of {samples} samples cannot be shared by {processes.count} processes; give more --batch or "
                "--accumulation, or start fewer"
            )
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
        if processes.lockstep:
            check_sharded(self.config, len(inputs))
        apart = self.family.model if processes.lockstep else ""
        self._placement = Placement(self.pipe, self.accelerator.device, apart)
        self._closing.callback(self._placement.settle, ())
        self._targets = self.config.targets_of(self.family)
        self.resolution = resolution_of(self.family, self.pipe, self.config)
        self._lean = self._placement.moves and is_large(getattr(self.pipe, self.family.model))
        self._at_once = self.config.batch if self._lean else PICTURES_AT_ONCE
        self.validations = [Validation(each.config, each.subjects, at_once=self._at_once) for each in inputs]
        own = inputs if processes.first else []
        self._trackers = [Trackers(each.config, each.outputs.name, each.outputs.unfinished) for each in own]
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
        self.fingerprint = self.processes.from_first(lambda: pipeline_fingerprint(pipe))
        maps = None
        if config.subjects and config.unmix_weight > 0:
            maps = AttentionMaps(getattr(pipe, family.model), family.cross_attention, config.unmix_layers)
            self._closing.callback(maps.close)
        sharded = self.processes.lockstep
        if sharded:
            self._attach_and_shard(words)
        with self.adapter.disabled() if sharded else contextlib.nullcontext(), self._placement.in_turns():
            # The class pictures are drawn by the frozen base: where it can, before anything is attached.
            how: dict[str, Any] = {"processes": self.processes, "at_once": self._at_once, "progress": self.progress}
            prior = partial(prior_pictures, pipe, **how)
            concepts, prompts = [], []
            for each in self.inputs:
                given = each.config, each.subjects, each.class_pictures, self.resolution, self.fingerprint
                objectives = build_objectives(pipe, *given, draw_prior=prior, progress=self.progress)
                prompts += [prompt for objective in objectives for prompt in objective.every_prompt()]
                concepts.append(Concept(each.name, objectives, each.config.seed))
            encode = partial(family.encode, pipe)
            conditions = Conditions(encode, prompts, keep=config.cache_prompts, trained=trained)
        self._pieces = _LoopPieces(concepts, conditions, ndims, maps, words)
        encoding = [*([] if config.cache_latents else ["vae"]), *(() if conditions.kept else family.text_encoders)]
        self._placement.settle([family.model, *encoding])
        sources = [objective.source for each in concepts for objective in each.objectives]
        with self.accelerator.autocast():
            if (sharded and config.gradient_checkpointing is None) or checkpoints(
                config, pipe, family, conditions, sources
            ):
                getattr(pipe, family.model).enable_gradient_checkpointing()
        if not sharded:
            form = choose_form(
                check_directions(config.directions),
                check_outer(config.outer),
                self._attach,
                lambda adapter: self._make_loop(adapter, adapter.by_key),
                vectors=config.lr_1d > 0,
            )
            self.adapter = self._attach(replace(form, words=words.ids))
            self._closing.callback(self.adapter.detach)
        self.parameters = ConceptParameters(self.adapter, len(concepts), words, lean=self._lean)
        for number, each in enumerate(self.inputs):
            if each.init is not None:
                self.parameters.start_from(each.init, number)
        self.loop = self._make_loop(self.adapter, self.parameters.parameters, self.parameters.rows)

    def _attach_and_shard(self, words: ConceptWords) -> None:
        """Attach while the weights are whole, in main memory, and take the denoiser apart then."""
        config, device = self.config, self.accelerator.device
        directions, outer = check_directions(config.directions).number, check_outer(config.outer).each
        self.adapter = self._attach(Form(directions, outer, words.ids, vectors=config.lr_1d > 0))
        self._closing.callback(self.adapter.detach)
        shard(getattr(self.pipe, self.family.model), self.adapter, device)

    def _attach(self, form: Form) -> Adapter:
        bound = partial(bind_by_shares, processes=self.processes, progress=self.progress)
        return Adapter(self.pipe, self._targets, bound, form, self.config.low_memory)

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
            processes=self.processes,
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
                drawn = range(len(self.inputs) if self.processes.draws else 0)
                before = [self._draw(number, "drawing before") for number in drawn]
        states = [each.saved for each in self.inputs if each.saved is not None]
        if states:
            restore_state(loop, states, base=self.fingerprint)
        resumed_at = loop.step
        if self.config.tune:
            with working(self.progress, "measuring plans", 1):
                self.processes.first_then_others(lambda: tune(self.adapter, loop.dry_run))
        started = time.perf_counter()
        given = self.inputs, self._trackers, self._files, self._validate, self.processes, self.progress
        Steps(loop, self.config, *given).take()
        cost = {"resumed_at": resumed_at, "train_seconds": time.perf_counter() - started}
        cost |= {"processes": self.processes.count, "reduced_bytes": self.processes.reduced}
        for each in self._trackers:
            each.close()  # their files move with the folder
        with loop.result.in_place():
            losses = Losses(losses_before, loop.measure(), class_before, self._measure_class())
            after, judged = self._judge(losses, before) if self.processes.draws else ([], [])
            summaries = self.processes.from_first(
                lambda: self._write(losses, before, after, judged, force=force, **cost)
            )
        return [replace(each, total_seconds=time.perf_counter() - self.began) for each in summaries]

    def _measure_class(self) -> list[float] | None:
        """The losses on class pictures; None where a concept has none."""
        return self.loop.measure(1) if all(len(each.objectives) > 1 for each in self.loop.concepts) else None

    def _judge(self, losses: Losses, before: Drawings) -> tuple[Drawings, list[tuple[Verdict, ...]]]:
        """Validation pictures of what was learnt, and what is to be said of each concept."""
        after, judged = [], []
        for number, (each, validation) in enumerate(zip(self.inputs, self.validations, strict=True)):
            with self._placement.in_turns(), self.parameters.drawing(number):
                after.append(self._draw(number, "drawing after"))
                drawn = before[number], after[number]
                given = each, self.resolution, validation, drawn, *losses.of(number)
                judged.append(judge(self.pipe, *given, self.progress))
        return after, judged

    def _write(
        self,
        losses: Losses,
        before: Drawings,
        after: Drawings,
        judged: Sequence[Any],
        *,
        force: bool,
        **cost: Any,
    ) -> list[Summary]:
        """Write every concept's folder."""
        summaries = []
        with contextlib.ExitStack() as folders:
            for number, each in enumerate(self.inputs):
                earlier = each.saved.path.parent if each.saved is not None else None
                folder = folders.enter_context(each.outputs.finished(force=force, earlier=earlier))
                measured: dict[str, Any] = {"judged": judged[number], **cost}
                measured |= {"loss_before": losses.before[number], "loss_after": losses.after[number]}
                summaries.append(self._files.write_folder(number, folder, before[number], after[number], **measured))
        return summaries

    def close(self) -> None:
        """Give the model back, whatever happened."""
        self._closing.close()

    def _validate(self) -> None:
        """Draw every concept's validation pictures, and write them at once."""
        step = self.loop.step
        for number, validation in enumerate(self.validations):
            with self._placement.in_turns(), self.loop.result.in_place(), self.parameters.drawing(number):
                row = validation.row(validation.draw(self.pipe, "drawing"), f"After {step} steps")
            if self.processes.first:
                self._files.add_samples(number, row)
                self._trackers[number].show(row, step)

    def _draw(self, number: int, label: str) -> PicturesByPrompt:
        """A concept's validation pictures as the model draws them now."""
        name = self.inputs[number].name
        return self.validations[number].draw(self.pipe, f"{label}: {name}" if name else label, self.progress)
