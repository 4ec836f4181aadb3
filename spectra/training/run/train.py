"""Train one concept, or several together: everything is checked, trained and written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectra.errors import Mistakes
from spectra.progress import SILENT, Progress
from spectra.settings import whole_or_made
from spectra.training.config import TrainConfig, make_config
from spectra.training.processes.together import together
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.inputs import ValidatedInputs, at_one_step, check_together, validate_inputs
from spectra.training.run.report import Summary
from spectra.training.run.trainer import Training


def train(
    config: TrainConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "",
    progress: Progress = SILENT,
    **given: Any,
) -> Summary:
    """Train a shift and write its folder: shift file, settings, sheet before and after, loss curve, log.

        spectra.train(base="./sd15", images="photos/rex", prompt="a photo of a sks dog", out="out/rex").shift

    Args:
        config: the settings, where they are not `given`; by default the embedded base learns an embedded subject.
        out: the output folder; `out/<subject>` by default.
        resume: continue the state that a training with this output folder saved.
        force: replace the output folder of an earlier training.
        device: "cpu" keeps a training off a GPU; by default accelerate chooses.
        given: settings by name (docs/settings.md), on top of the defaults for their base and preset.

    Returns:
        What was learnt, what it cost, and where the files are.

    Raises:
        SpectraError: something given is wrong, the output cannot be written, or the loss became infinite. Nothing is
            left behind then, but the states that `save_every` asked for.
    """
    config = whole_or_made(config, given, lambda **values: make_config(values, source="train"))
    concept = ConceptSpec("", config, None if out is None else Path(out))
    return train_together([concept], resume=resume, force=force, device=device, progress=progress)[0]


def train_together(
    concepts: Sequence[ConceptSpec],
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "",
    progress: Progress = SILENT,
) -> list[Summary]:
    """Train several concepts at once, in one pass over the base per step. Each gets what `train` would have given it.

    The other arguments hold for all. No output folder appears before all are written. In several processes of a
    launcher they share every step; the first alone shows progress and writes.

    Raises:
        SpectraError: as for `train`.
        SystemExit: in a process of several that does not tell what is wrong.
    """
    with together(device) as processes:
        told = progress if processes.first else SILENT
        inputs = processes.first_then_others(lambda: _checked(concepts, resume=resume, force=force))
        with contextlib.ExitStack() as held:
            if processes.first:
                for checked in inputs:
                    held.enter_context(checked.outputs.reserved())
                    if not resume:
                        checked.outputs.clear_unfinished()
            training = Training(inputs, device=device, processes=processes, progress=told)
            summaries = held.enter_context(contextlib.closing(training)).run(force=force)
            return [replace(each, base_options=inputs[0].base.options) for each in summaries]


def _checked(concepts: Sequence[ConceptSpec], *, resume: bool, force: bool) -> list[ValidatedInputs]:
    """What all concepts are given, with all mistakes told at once."""
    inputs, mistakes = [], Mistakes()
    for each in concepts:
        with mistakes.noted():
            inputs.append(validate_inputs(each, resume=resume, force=force))
    mistakes.tell()
    check_together(inputs)
    return at_one_step(inputs)
