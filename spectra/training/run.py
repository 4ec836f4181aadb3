"""A whole training, in order: check everything, load, cache, step, draw, write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from spectra.errors import BaseError
from spectra.families.denoise import DenoiseFamily, denoise_family, native_resolution
from spectra.generation import versions
from spectra.pipeline import load_pipeline
from spectra.progress import SILENT, Progress
from spectra.training.checks import Checked, check
from spectra.training.config import TrainConfig
from spectra.training.latents import PictureSource
from spectra.training.loop import Loop, make_accelerator
from spectra.training.objectives import Denoising, Objective, Schedule
from spectra.training.outputs import LOG, STATE
from spectra.training.pictures import fit
from spectra.training.prior import PriorKey, pipeline_fingerprint, prior_pictures, prior_prompts
from spectra.training.report import Board, Summary, draw_loss_curve, write_log
from spectra.training.state import restore, save_state
from spectra.training.validation import Drawn, Validation


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
    began = time.perf_counter()
    checked = check(config or TrainConfig(), out, resume=resume, force=force)
    if not resume:
        checked.outputs.clear_unfinished()
    accelerator = make_accelerator(checked.config, device)
    pipe = load_pipeline(checked.base, device=accelerator.device)
    if getattr(pipe, "safety_checker", None) is not None:
        # It would blacken class and validation pictures at random, and takes a gigabyte.
        pipe.register_modules(safety_checker=None)
    training = _Training(checked, pipe, denoise_family(pipe), accelerator, progress)
    try:
        return training.run(began, force=force)
    finally:
        training.close()


class _Training:
    """The parts of one training, in the order in which they are made."""

    def __init__(
        self, checked: Checked, pipe: Any, family: DenoiseFamily, accelerator: Any, progress: Progress
    ) -> None:
        self.checked, self.pipe, self.family = checked, pipe, family
        self.accelerator, self.progress = accelerator, progress
        self.config = checked.config
        self.outputs = checked.outputs
        self.adapter: Any = None
        self.resolution = _resolution(pipe, self.config)
        self.board = Board(self.config.tensorboard)

    def run(self, began: float, *, force: bool) -> Summary:
        config, saved = self.config, self.checked.saved
        from spectra.families import targets

        ranks = {target.name: target.weight.ndim for target in targets(self.pipe, config.all_targets)}
        names = {name.split(".")[0] for name in ranks}
        fingerprint = pipeline_fingerprint(self.pipe)
        # The class pictures are drawn before anything is attached: by the frozen base.
        objectives = self._objectives(fingerprint, cache_prompts=names.isdisjoint(self.family.text_encoders))
        from spectra.adapter import attach

        self.adapter = attach(self.pipe, config.all_targets, progress=self.progress)
        validation = Validation.of(config, self.resolution)
        loop = self._loop(objectives, ranks)
        self.adapter.eval()
        with self.adapter.disabled():
            loss_before = loop.measure()
            before = validation.draw(self.pipe, "drawing before", self.progress)
        if saved is not None:
            restore(loop, saved, base=fingerprint)
        resumed_at = loop.step
        started = time.perf_counter()
        self._steps(loop, validation, fingerprint)
        train_seconds = time.perf_counter() - started
        self.adapter.eval()
        loss_after = loop.measure()
        after = validation.draw(self.pipe, "drawing after", self.progress)
        with self.outputs.finished(force=force) as folder:
            written = self._write(folder, loop, validation, before, after)
        return self._summary(
            written,
            steps=loop.step,
            resumed_at=resumed_at,
            loss_before=loss_before,
            loss_after=loss_after,
            train_seconds=train_seconds,
            total_seconds=time.perf_counter() - began,
        )

    def _objectives(self, fingerprint: str, *, cache_prompts: bool) -> list[Objective]:
        config = self.config
        schedule = Schedule.of(self.pipe.scheduler, config.min_snr_gamma)

        def source(pictures: list[Image.Image], prompts: list[str]) -> PictureSource:
            return PictureSource(
                self.pipe,
                self.family,
                pictures,
                prompts,
                cache_latents=config.cache_latents,
                cache_prompts=config.cache_prompts and cache_prompts,
                progress=self.progress,
            )

        own = self.checked.subject.at(self.resolution)
        instance = source(own, [config.prompt] * len(own))
        objectives: list[Objective] = [Denoising("denoising", instance, schedule)]
        if config.prior_weight > 0:
            drawn = self._class_pictures(fingerprint)
            prior = source(drawn, prior_prompts(config.class_prompt, len(drawn), config.prior_unconditional))
            from_base = config.prior_target == "base"
            objectives.append(Denoising("prior", prior, schedule, config.prior_weight, from_base))
        return objectives

    def _class_pictures(self, fingerprint: str) -> list[Image.Image]:
        config = self.config
        if self.checked.class_pictures:
            return [fit(picture, self.resolution) for picture in self.checked.class_pictures]
        key = PriorKey(
            base=fingerprint,
            prompt=config.class_prompt,
            seed=config.seed,
            count=config.prior_count,
            size=self.resolution,
            steps=config.prior_steps,
            guidance=config.prior_guidance,
        )
        return prior_pictures(self.pipe, key, progress=self.progress)

    def _loop(self, objectives: list[Objective], ranks: Mapping[str, int]) -> Loop:
        if self.config.gradient_checkpointing:
            getattr(self.pipe, self.family.model).enable_gradient_checkpointing()
        return Loop(
            pipe=self.pipe,
            family=self.family,
            objectives=objectives,
            deltas=self.adapter.train(),
            ranks=ranks,
            config=self.config,
            accelerator=self.accelerator,
            frozen=self.adapter.disabled,
        )

    def _steps(self, loop: Loop, validation: Validation, fingerprint: str) -> None:
        config = self.config
        self.adapter.train()
        self.progress.start("training", config.steps)
        self.progress.advance(loop.step)
        try:
            while loop.step < config.steps:
                record = loop.advance()
                self.board.record(record)
                self.progress.advance(1, f"loss {record['loss']:.4f}")
                if config.save_every and (loop.step % config.save_every == 0 or loop.step == config.steps):
                    self.outputs.unfinished.mkdir(parents=True, exist_ok=True)
                    path = self.outputs.unfinished / STATE
                    save_state(loop, path, subject=self.checked.subject.digest, base=fingerprint)
                if config.validation_every and config.validation_count and loop.step % config.validation_every == 0:
                    self._look(loop.step, validation)
        finally:
            self.progress.finish()

    def _look(self, step: int, validation: Validation) -> None:
        """Pictures on the way, written at once."""
        self.adapter.eval()
        sheet = validation.sheet(validation.draw(self.pipe, "drawing"), f"After {step} steps")
        self.adapter.train()
        self.outputs.unfinished.mkdir(parents=True, exist_ok=True)
        sheet.save(self.outputs.unfinished / f"step-{step:06d}.png")
        self.board.picture("validation", sheet, step)

    def _write(
        self, folder: Path, loop: Loop, validation: Validation, before: Drawn, after: Drawn
    ) -> Mapping[str, Any]:
        from spectra.shift import write_shift

        config, outputs = self.config, self.outputs
        shift = self.adapter.shift(
            base=self.checked.base.name, settings=config.changed(), seed=config.seed, versions=versions()
        )
        size = write_shift(
            shift, folder / outputs.shift, dtype="float16" if config.file_dtype == "float16" else "float32"
        )
        (folder / outputs.config).write_text(config.to_toml(), encoding="utf-8")
        write_log(loop.history, folder / LOG)
        instance = self.checked.subject.at(self.resolution)
        validation.before_after(instance, before, after, loop.step).save(folder / "before-after.png")
        curve = draw_loss_curve(loop.history, folder / "loss.png")
        return {"tensors": len(shift), "floats": shift.floats, "bytes": size, "curve": curve}

    def _summary(self, written: Mapping[str, Any], **measured: Any) -> Summary:
        folder, config = self.outputs.folder, self.config
        return Summary(
            subject=self.checked.subject.name,
            prompt=config.prompt,
            class_prompt=config.class_prompt,
            base=self.checked.base.name,
            folder=str(folder),
            shift=str(folder / self.outputs.shift),
            sheet=str(folder / "before-after.png"),
            config=str(folder / self.outputs.config),
            loss_curve=str(folder / "loss.png") if written["curve"] else None,
            state=str(folder / "progress" / STATE) if config.save_every else None,
            tensors=written["tensors"],
            floats=written["floats"],
            bytes=written["bytes"],
            base_bytes=self.checked.base.bytes,
            notes=() if written["curve"] else ("no loss curve: matplotlib is not installed (pip install matplotlib)",),
            **measured,
        )

    def close(self) -> None:
        """Give the model back, whatever happened."""
        if self.adapter is not None:
            self.adapter.detach()
        self.board.close()


def _resolution(pipe: Any, config: TrainConfig) -> int:
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
