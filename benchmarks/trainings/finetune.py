"""One training of one method, with the loop, the samples and the settings of `spectra train`."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.trainings.tuners import Tuner, tuner

if TYPE_CHECKING:
    from spectra.training.config import TrainConfig


@dataclass(frozen=True)
class Finetuned:
    """A training's result.

    Attributes:
        pipe: draws with what was learnt, as its file holds it.
        bytes: of that file.
        cpu_seconds: of the process, over the steps.
        loss_before, loss_after: at fixed noise.
        moved: `||change|| / ||weight||` over all matrices of the UNet.
    """

    pipe: Any
    bytes: int
    cpu_seconds: float
    loss_before: float
    loss_after: float
    moved: float


def finetune(method: str, base: Any, config: TrainConfig) -> Finetuned:
    """Train the embedded base by a method of `tuners.METHODS`.

    Args:
        base: the embedded base, which stays as it is.
        config: of `spectra train`; `lr` is the method's own rate. Targets are the method's.

    Raises:
        SpectraError: the loss is not finite.
    """
    import torch

    torch.manual_seed(config.seed)  # PEFT draws its first factors from the global generator
    tuned = tuner(method, base)
    try:
        loop = loop_of(tuned, base, config)
        tuned.decay_to_origin(getattr(loop.optimizer, "optimizer", loop.optimizer))
        before = loop.measure()[0]
        began = time.process_time()
        while loop.step < config.steps:
            loop.advance()
        seconds = time.process_time() - began
        after = loop.measure()[0]
        size = tuned.store()
        tuned.finish()
        moved = _moved(tuned, base)
    except BaseException:
        if tuned.adapter is not None:
            tuned.adapter.detach()
        raise
    return Finetuned(tuned.pipe, size, seconds, before, after, moved)


def _moved(tuned: Tuner, base: Any) -> float:
    weights = {name: w for name, w in base.unet.state_dict().items() if w.ndim > 1}
    if tuned.adapter is not None:  # U and V are orthogonal: a delta's norm is its change's, where nothing is clipped
        shift = tuned.adapter.shift(base="embedded")
        of_unet = [name for name in shift if name.startswith("unet.") and shift.metadata.ndims[name] > 1]
        changed = sum(float((shift[name].astype(float) ** 2).sum()) for name in of_unet)
        changed += sum(shift.outer[name].dot(shift.outer[name]) for name in of_unet if name in shift.outer)
    else:  # what PEFT merged stands in its own layers
        after = {name.replace(".base_layer", ""): w for name, w in tuned.pipe.unet.state_dict().items()}
        changed = sum(float((after[name] - w).square().sum()) for name, w in weights.items())
    return float((changed / sum(float(w.square().sum()) for w in weights.values())) ** 0.5)


def loop_of(tuned: Tuner, base: Any, config: TrainConfig) -> Any:
    from spectra.families.known import family_of
    from spectra.training.data.class_pictures import pipeline_fingerprint
    from spectra.training.data.prompt_embeddings import Conditions
    from spectra.training.loss.objectives import build_objectives
    from spectra.training.run.accelerator import make_accelerator
    from spectra.training.run.batches import Concept
    from spectra.training.run.concepts import ConceptSpec
    from spectra.training.run.inputs import resolution_of, validate_inputs
    from spectra.training.run.loop import Loop

    with tempfile.TemporaryDirectory() as folder:
        checked = validate_inputs(ConceptSpec("", replace(config, validation_count=0), Path(folder) / "none"))
    config = checked.config
    family = family_of(base)
    resolution = resolution_of(family, base, config)
    terms = build_objectives(
        base, config, checked.subjects, checked.class_pictures, resolution, pipeline_fingerprint(base)
    )
    prompts = [prompt for term in terms for prompt in term.every_prompt()]
    conditions = Conditions(
        lambda asked: family.encode(tuned.pipe, asked), prompts, keep=config.cache_prompts, trained=True
    )
    return Loop(
        pipe=tuned.pipe,
        family=family,
        concepts=[Concept("", terms, config.seed)],
        conditions=conditions,
        parameters=tuned.parameters,
        rates=tuned.rates,
        config=config,
        accelerator=make_accelerator(config, "cpu"),
        frozen=tuned.frozen,
    )
