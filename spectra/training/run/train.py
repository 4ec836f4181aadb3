"""A whole training, of one concept or of several together: check everything, load, cache, step, draw, write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from spectra.adapters.adapter import attach
from spectra.adapters.tuning import tune
from spectra.bases.pipeline import load_pipeline
from spectra.errors import BaseError, InputError
from spectra.families import targets
from spectra.families.attention import AttentionMaps
from spectra.families.denoise import Condition, denoise_family, native_resolution
from spectra.io.atomic_writes import atomic_write
from spectra.plots import style
from spectra.progress import SILENT, Progress
from spectra.training.config import TrainConfig
from spectra.training.data.class_pictures import pipeline_fingerprint
from spectra.training.data.latents import Conditions
from spectra.training.data.subjects import pair_prompts, pictures_digest
from spectra.training.loss.build import build_objectives
from spectra.training.run.accelerator import make_accelerator
from spectra.training.run.concept_deltas import ConceptDeltas
from spectra.training.run.concepts import ConceptSpec, check_apart
from spectra.training.run.inputs import ValidatedInputs, validate_inputs
from spectra.training.run.loop import Concept, Loop
from spectra.training.run.outputs import LOG, STATE
from spectra.training.run.report import Summary, TensorBoard, draw_loss_curve, write_log
from spectra.training.run.state import restore_state, save_state
from spectra.training.run.validation import PicturesByPrompt, Validation
from spectra.version import versions


def train(
    config: TrainConfig | None = None,
    out: Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "",
    progress: Progress = SILENT,
) -> Summary:
    """Train a shift and write its folder: shift file, settings, sheet before and after, loss curve, log.

    Args:
        config: the settings; by default the embedded base learns an embedded subject.
        out: the output folder; `out/<subject>` by default.
        resume: continue the state that a training with this output folder saved.
        force: replace the output folder of an earlier training.
        device: "cpu" keeps a training off a GPU; by default accelerate chooses.
        progress: told of each part of the work.

    Raises:
        SpectraError: something given is wrong, the output cannot be written, or the loss became infinite. Nothing is
            left behind then, but the states that `save_every` asked for.
    """
    wanted = ConceptSpec("", config or TrainConfig(), out)
    return train_together([wanted], resume=resume, force=force, device=device, progress=progress)[0]


def train_together(
    wanted: Sequence[ConceptSpec],
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "",
    progress: Progress = SILENT,
) -> list[Summary]:
    """Train several concepts at once, in one pass over the base per step. Each gets what `train` would have given it.

    Args:
        wanted: the concepts, see `concepts.read_concepts`. Settings that are not a concept's own are the first's.
        resume, force, device, progress: as for `train`; they hold for all.

    Raises:
        SpectraError: as for `train`. No output folder appears before all are written.
    """
    began = time.perf_counter()
    checked = [validate_inputs(each.config, each.out, resume=resume, force=force) for each in wanted]
    check_apart(wanted, [each.outputs for each in checked])
    if not resume:
        for each in checked:
            each.outputs.clear_unfinished()
    training = Training([each.name for each in wanted], checked, device=device, progress=progress)
    try:
        return training.run(began, force=force)
    finally:
        training.close()


class Training:
    """The parts of one training, in the order in which they are made. Lists have an entry for each concept.

    Attributes:
        pipe, family, accelerator, adapter: the base, attached, and what moves it.
        stack, loop: its deltas, and their steps.
    """

    stack: ConceptDeltas
    loop: Loop

    def __init__(
        self, names: Sequence[str], checked: Sequence[ValidatedInputs], *, device: str = "", progress: Progress = SILENT
    ) -> None:
        self.names, self.checked, self.progress = names, checked, progress
        self.config = checked[0].config
        if self.config.low_memory and len(checked) > 1:
            raise InputError(f"low memory trains one concept at a time, got {len(checked)}; leave low_memory out")
        if self.config.tune and len(checked) > 1:
            raise InputError(f"tune measures one concept at a time, got {len(checked)}; leave tune out")
        self.accelerator = make_accelerator(self.config, device)
        self.pipe = load_pipeline(checked[0].base, device=self.accelerator.device)
        if getattr(self.pipe, "safety_checker", None) is not None:
            # It would blacken class and validation pictures at random, and takes a gigabyte.
            self.pipe.register_modules(safety_checker=None)
        self.family = denoise_family(self.pipe)
        self.resolution = resolution_of(self.pipe, self.config)
        self.boards = [TensorBoard(each.config.tensorboard) for each in checked]
        self.adapter: Any = None
        self.maps: AttentionMaps | None = None

    def prepare(self) -> None:
        """Draw class pictures, encode, attach: everything that comes before the first step."""
        config = self.config
        ranks = {target.name: target.weight.ndim for target in targets(self.pipe, config.all_targets)}
        trained = not {name.split(".")[0] for name in ranks}.isdisjoint(self.family.text_encoders)
        self.fingerprint = pipeline_fingerprint(self.pipe)
        if config.subjects and config.unmix_weight > 0:
            self.maps = AttentionMaps(
                getattr(self.pipe, self.family.model), self.family.cross_attention, config.unmix_layers
            )
        # The class pictures are drawn before anything is attached: by the frozen base.
        terms = [
            build_objectives(self.pipe, each, self.resolution, self.fingerprint, progress=self.progress)
            for each in self.checked
        ]
        concepts = [
            Concept(name, own, each.config.seed)
            for name, own, each in zip(self.names, terms, self.checked, strict=True)
        ]
        prompts = [prompt for own in terms for each in own for prompt in each.source.every_prompt()]
        conditions = self._conditions(prompts, trained)
        self.adapter = attach(self.pipe, config.all_targets, low_memory=config.low_memory, progress=self.progress)
        self.stack = ConceptDeltas(self.adapter, len(concepts))
        for number, each in enumerate(self.checked):
            if each.init is not None:
                self.stack.start(number, each.init)
        if config.gradient_checkpointing:
            getattr(self.pipe, self.family.model).enable_gradient_checkpointing()
        self.loop = Loop(
            pipe=self.pipe,
            family=self.family,
            concepts=concepts,
            conditions=conditions,
            deltas=self.stack.deltas,
            ranks=ranks,
            config=config,
            accelerator=self.accelerator,
            frozen=self.adapter.disabled,
            rows=self.stack.rows,
            maps=self.maps,
        )

    def run(self, began: float, *, force: bool) -> list[Summary]:
        """The whole training; `began` is when its clock started."""
        self.prepare()
        loop, stack = self.loop, self.stack
        validations = [Validation.of(each.config, each.subjects, self.resolution) for each in self.checked]
        with self.adapter.disabled():
            losses_before = loop.measure()
            before = [self._draw(number, "drawing before", each) for number, each in enumerate(validations)]
        saved = [each.saved for each in self.checked if each.saved is not None]
        if saved:
            restore_state(loop, saved, base=self.fingerprint)
        resumed_at = loop.step
        if self.config.tune:
            self._tune()
        started = time.perf_counter()
        self._steps(validations)
        train_seconds = time.perf_counter() - started
        losses_after = loop.measure()
        after = []
        for number, validation in enumerate(validations):
            with stack.alone(number):
                after.append(self._draw(number, "drawing after", validation))
        with contextlib.ExitStack() as folders:
            written = []
            for number, each in enumerate(self.checked):
                folder = folders.enter_context(each.outputs.finished(force=force))
                sheet = validations[number].before_after(
                    [picture for subject in each.subjects for picture in subject.at(self.resolution)],
                    before[number],
                    after[number],
                    loop.step,
                )
                written.append(self._write(folder, number, sheet))
        return [
            _summary(
                each,
                written[number],
                steps=loop.step,
                resumed_at=resumed_at,
                loss_before=losses_before[number],
                loss_after=losses_after[number],
                train_seconds=train_seconds,
                total_seconds=time.perf_counter() - began,
            )
            for number, each in enumerate(self.checked)
        ]

    def _conditions(self, prompts: list[str], trained: bool) -> Conditions:
        def encode(prompts: list[str]) -> Condition:
            return self.family.encode(self.pipe, prompts, self.resolution)

        return Conditions(encode, prompts, keep=self.config.cache_prompts, trained=trained)

    def _tune(self) -> None:
        """Let each layer take the plan that is fastest for the batches of this training."""
        self.progress.start("measuring plans", 1)
        try:
            tune(self.adapter, self.loop.dry_run)
        finally:
            self.progress.finish()

    def _steps(self, validations: Sequence[Validation]) -> None:
        config, loop = self.config, self.loop
        self.progress.start("training", config.steps)
        self.progress.advance(loop.step)
        try:
            while loop.step < config.steps:
                loss = loop.advance()
                for board, concept in zip(self.boards, loop.concepts, strict=True):
                    board.record(concept.history[-1])
                self.progress.advance(1, f"loss {loss:.4f}")
                if config.save_every and (loop.step % config.save_every == 0 or loop.step == config.steps):
                    self._save()
                if config.validation_every and config.validation_count and loop.step % config.validation_every == 0:
                    for number, validation in enumerate(validations):
                        with self.stack.alone(number):
                            self._look(loop.step, number, validation)
        finally:
            self.progress.finish()

    def _save(self) -> None:
        """The state of each concept; all are written before the first takes the place of an older one."""
        with contextlib.ExitStack() as files:
            for number, each in enumerate(self.checked):
                each.outputs.unfinished.mkdir(parents=True, exist_ok=True)
                path = files.enter_context(atomic_write(each.outputs.unfinished / STATE, force=True))
                pictures = pictures_digest(each.subjects)
                save_state(self.loop, number, path, config=each.config, subject=pictures, base=self.fingerprint)

    def _draw(self, number: int, label: str, validation: Validation) -> PicturesByPrompt:
        name = self.names[number]
        return validation.draw(self.pipe, f"{label}: {name}" if name else label, self.progress)

    def _look(self, step: int, number: int, validation: Validation) -> None:
        """Pictures on the way, written at once."""
        outputs = self.checked[number].outputs
        sheet = validation.sheet(validation.draw(self.pipe, "drawing"), f"After {step} steps")
        outputs.unfinished.mkdir(parents=True, exist_ok=True)
        sheet.save(outputs.unfinished / f"step-{step:06d}.png")
        self.boards[number].picture("validation", sheet, step)

    def _write(self, folder: Path, number: int, sheet: Image.Image) -> Mapping[str, Any]:
        from spectra.shift.shift_file import write_shift

        checked = self.checked[number]
        config, outputs = checked.config, checked.outputs
        history = self.loop.concepts[number].history
        shift = self.stack.shift(
            number,
            base=checked.base.name,
            settings=config.changed(),
            seed=config.seed,
            versions=versions(),
            parents=(checked.init.metadata.content_hash,) if checked.init is not None else (),
        )
        size = write_shift(
            shift, folder / outputs.shift, dtype="float16" if config.file_dtype == "float16" else "float32"
        )
        (folder / outputs.config).write_text(config.to_toml(), encoding="utf-8")
        write_log(history, folder / LOG)
        sheet.save(folder / "before-after.png")
        style.write(lambda: draw_loss_curve(history), folder / "loss.png")
        return {"tensors": len(shift), "floats": shift.floats, "bytes": size}

    def close(self) -> None:
        """Give the model back, whatever happened."""
        if self.adapter is not None:
            self.adapter.detach()
        if self.maps is not None:
            self.maps.close()
        for board in self.boards:
            board.close()


def _summary(checked: ValidatedInputs, written: Mapping[str, Any], **measured: Any) -> Summary:
    outputs, config = checked.outputs, checked.config
    folder = outputs.folder
    return Summary(
        subject=" and ".join(subject.name for subject in checked.subjects),
        prompt=(pair_prompts(config, checked.subjects) or [config.prompt])[0],
        class_prompt=config.class_prompt,
        base=checked.base.name,
        folder=str(folder),
        shift=str(folder / outputs.shift),
        sheet=str(folder / "before-after.png"),
        config=str(folder / outputs.config),
        loss_curve=str(folder / "loss.png"),
        state=str(folder / "progress" / STATE) if config.save_every else None,
        tensors=written["tensors"],
        floats=written["floats"],
        bytes=written["bytes"],
        base_bytes=checked.base.bytes,
        **measured,
    )


def resolution_of(pipe: Any, config: TrainConfig) -> int:
    """Pixels of the training pictures' side.

    Raises:
        BaseError: a resolution that the base's VAE and UNet cannot take.
    """
    if not config.resolution:
        return native_resolution(pipe)
    halvings = len(pipe.unet.config.down_block_types) - 1
    step = int(pipe.vae_scale_factor) * 2**halvings
    if config.resolution % step:
        raise BaseError(f"resolution: this base takes multiples of {step} pixels, got {config.resolution}")
    return config.resolution
