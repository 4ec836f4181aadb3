"""What benchmarks of trained shifts share: trainings that are kept, and pictures from fixed seeds."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench
from spectra.benchmarks.results import base_stamp

if TYPE_CHECKING:
    from PIL.Image import Image

    from spectra.training.config import TrainConfig

FIRST_SEED = 10_000
"""First seed of the pictures that are judged: far from the seeds of class pictures."""


def trained(configs: Sequence[TrainConfig], folder: Path) -> list[Path]:
    """The shifts of trainings of embedded subjects: those that the folder holds, the others trained now, together.

    What the folder holds is known by the settings, the subject's pictures and the embedded base, not by the program's
    version. The settings differ in subject and seed only (`spectra train --concepts`).
    """
    from spectra.io.atomic_writes import atomic_write
    from spectra.training.run.concepts import ConceptSpec
    from spectra.training.run.train import train_together

    paths = [folder / f"{config.subject}-{_key(config)}.safetensors" for config in configs]
    missing = [(config, path) for config, path in zip(configs, paths, strict=True) if not path.is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            wanted = [ConceptSpec(path.stem, config, Path(scratch) / path.stem) for config, path in missing]
            for summary, (_, path) in zip(train_together(wanted), missing, strict=True):
                with atomic_write(path, force=True) as temporary:
                    shutil.copyfile(summary.shift, temporary)
    return paths


def _key(config: TrainConfig) -> str:
    from spectra.bases.embedded.subjects import find_subject, instance_pictures

    pictures = (picture.tobytes() for picture in instance_pictures(find_subject(config.subject), seed=config.seed))
    return base_stamp(json.dumps(config.as_dict()).encode(), *pictures)


def draw(bench: Bench, pipe: Any, prompts: Sequence[str], count: int) -> list[Image]:
    """What the pipeline draws now, prompt by prompt, each from the first `count` seeds of the judged pictures.

    Steps and guidance are the case's settings.
    """
    from spectra.generation.drawing import draw as run
    from spectra.generation.drawing import requests_for
    from spectra.generation.settings import Sampling

    sampling = Sampling(bench.integer("drawing_steps"), float(bench.settings["guidance"]))
    return run(pipe, requests_for(prompts, range(FIRST_SEED, FIRST_SEED + count)), sampling)
