"""What a training writes: states, shifts and pictures on its way, and each concept's folder at its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spectra.analysis.clipping import warn_of_clipping
from spectra.generation.contact_sheet import stacked
from spectra.io.atomic_writes import atomic_write
from spectra.plots import style
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import encode_shift, write_shift
from spectra.shift.trajectory import CHECKPOINTS, PROGRESS, checkpoint_name
from spectra.training.data.subjects import count_pictures, learnt_pictures, pair_prompts
from spectra.training.run.concept_parameters import ConceptParameters
from spectra.training.run.inputs import ValidatedInputs
from spectra.training.run.loop import Loop
from spectra.training.run.outputs import EARLIER_STATE, LAST_GOOD, LOG, LOSS_CURVE, SAMPLES, SHEET, STATE
from spectra.training.run.report import Summary, draw_loss_curve, write_log
from spectra.training.run.state import Origin, save_state
from spectra.training.run.validation import PicturesByPrompt, Validation
from spectra.version import versions

ROWS = "rows"
"""The text of a sheet of samples that says, of each row, after which step it was drawn and how high it is."""


def _rows_of(sheet: Path) -> list[tuple[int, Image.Image]]:
    """The rows of a sheet of samples, each with its step."""
    rows, top = [], 0
    with Image.open(sheet) as opened:
        whole = opened.convert("RGB")
        for step, height in json.loads(opened.info[ROWS]):
            rows.append((step, whole.crop((0, top, whole.width, top + height))))
            top += height
    return rows


class Files:
    """The files of all concepts of a training, as it stands when they are written."""

    def __init__(
        self,
        inputs: Sequence[ValidatedInputs],
        loop: Loop,
        parameters: ConceptParameters,
        validations: Sequence[Validation],
        *,
        resolution: int,
        base: str,
    ) -> None:
        """Of a training with this loop; `base` is the fingerprint of its base."""
        self._inputs, self._loop, self._parameters, self._validations = inputs, loop, parameters, validations
        self._resolution, self._base = resolution, base

    def save_states(self) -> None:
        """Save the state of each concept; all are written before the first takes the place of an older one.

        Until the last has, the older ones stay beside them: a training that is killed between goes on from these.
        """
        states = [each.outputs.unfinished / STATE for each in self._inputs]
        with contextlib.ExitStack() as files:
            for number, each in enumerate(self._inputs):
                each.outputs.unfinished.mkdir(parents=True, exist_ok=True)
                path = files.enter_context(atomic_write(each.outputs.unfinished / STATE, force=True))
                with self._loop.result.in_place():
                    shift = encode_shift(self._shift(number))
                save_state(self._loop, number, path, Origin(each.config, each.contents, self._base), shift)
            for state in states if len(states) > 1 else ():
                if state.is_file():
                    with atomic_write(state.with_name(EARLIER_STATE), force=True) as earlier:
                        earlier.write_bytes(state.read_bytes())
        for state in states:
            state.with_name(EARLIER_STATE).unlink(missing_ok=True)

    def keep_shifts(self) -> None:
        """Write the shift of each concept as it is after this step, in float16, among those of other steps."""
        with self._loop.result.in_place():
            for number, each in enumerate(self._inputs):
                folder = each.outputs.unfinished / CHECKPOINTS
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / checkpoint_name(self._loop.step)
                write_shift(self._shift(number), path, dtype="float16", force=True)

    def keep_last_good(self) -> str:
        """Write each concept's shift as it is, after a training has gone back to its last good step; says where."""
        if not self._loop.step:
            return ""
        kept = []
        for number, each in enumerate(self._inputs):
            path = each.outputs.unfinished / LAST_GOOD
            write_shift(self._shift(number), path, force=True)
            kept.append(str(path))
        return f"; the shift after {self._loop.step} steps is kept in {' and '.join(kept)}"

    def add_samples(self, number: int, row: Image.Image) -> None:
        """Add a row of validation pictures to a concept's sheet of them, in place of one of this step or a later one.

        A training that was killed between this and its next state draws the row again.
        """
        inputs = self._inputs[number]
        path = inputs.outputs.unfinished / SAMPLES
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path if path.is_file() or inputs.saved is None else inputs.saved.path.with_name(SAMPLES)
        rows = [each for each in _rows_of(before) if each[0] < self._loop.step] if before.is_file() else []
        rows.append((self._loop.step, row))
        told = PngInfo()
        told.add_text(ROWS, json.dumps([(step, each.height) for step, each in rows]))
        with atomic_write(path, force=True) as temporary:
            stacked([each for _, each in rows]).save(temporary, pnginfo=told)

    def write_folder(
        self, number: int, folder: Path, before: PicturesByPrompt, after: PicturesByPrompt, **measured: Any
    ) -> Summary:
        """Write a concept's files into `folder`, a temporary one; the summary has what was `measured`."""
        inputs, history = self._inputs[number], self._loop.concepts[number].history
        config, outputs = inputs.config, inputs.outputs
        shift = self._shift(number)
        warn_of_clipping(shift, outputs.name)
        shift_name, config_name = f"{outputs.name}.safetensors", f"{outputs.name}.toml"
        size = write_shift(shift, folder / shift_name, dtype="float16" if config.file_dtype == "float16" else "float32")
        (folder / config_name).write_text(config.to_toml(), encoding="utf-8")
        write_log(history, folder / LOG)
        step = self._loop.family.resolution_step(self._loop.pipe)
        fitted = learnt_pictures(config, inputs.subjects, self._resolution, step)
        self._validations[number].before_after(fitted, before, after, self._loop.step).save(folder / SHEET)
        style.write(lambda: draw_loss_curve(history), folder / LOSS_CURVE)
        return Summary(
            subject=" and ".join(subject.name for subject in inputs.subjects),
            prompt=(pair_prompts(config, inputs.subjects) or [inputs.subjects[0].prompt])[0],
            class_prompt=config.class_prompt,
            pictures=count_pictures(inputs.subjects, fitted),
            base=inputs.base.name,
            folder=str(outputs.folder),
            shift=str(outputs.folder / shift_name),
            sheet=str(outputs.folder / SHEET),
            config=str(outputs.folder / config_name),
            steps=self._loop.step,
            loss_curve=str(outputs.folder / LOSS_CURVE),
            state=str(outputs.folder / PROGRESS / STATE) if config.save_every else None,
            tensors=len(shift),
            floats=shift.floats,
            bytes=size,
            base_bytes=inputs.base.bytes,
            **measured,
        )

    def _shift(self, number: int) -> SpectralShift:
        """A concept's shift, with where it comes from."""
        inputs = self._inputs[number]
        return self._parameters.shift(
            number,
            base=inputs.base.name,
            settings=inputs.config.as_dict() | {"steps": self._loop.step},
            seed=inputs.config.seed,
            versions=versions(),
            parents=(inputs.init.metadata.content_hash,) if inputs.init is not None else (),
        )
