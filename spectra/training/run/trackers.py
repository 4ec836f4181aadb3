"""What a training tells TensorBoard and Weights & Biases on its way, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spectra.errors import InputError
from spectra.training.config import TrainConfig

LOGS = "logs"
"""Folder of TensorBoard's files, beside what else is written on the way."""


def check_trackers(config: TrainConfig) -> None:
    """Check that everything that is to be told is installed.

    Raises:
        InputError: a package is not.
    """
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--report-to {name} needs the package {name}: pip install {name}")


class Trackers:
    """The trackers of one concept of a training; none where none is asked for.

    Args:
        config: the concept's settings, which are told first.
        name: of the run.
        folder: of the files that are written on the way.
    """

    def __init__(self, config: TrainConfig, name: str, folder: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self._open: list[Any] = []
        for kind in config.report_to:
            made = LOGGER_TYPE_TO_CLASS[kind]
            if made.requires_logging_directory:
                tracker = made(name, logging_dir=config.logging_dir or str(folder / LOGS))
            else:
                tracker = made("spectra", name=name)  # the project, and the run's name in it
            tracker.start()
            self._open.append(tracker)
            settings = {key: ", ".join(v) if isinstance(v, tuple) else v for key, v in vars(config).items()}
            tracker.store_init_configuration({key: "" if value is None else value for key, value in settings.items()})

    def log(self, record: Mapping[str, float]) -> None:
        """Tell the numbers of a step; `record` has its number as "step"."""
        values = {name: value for name, value in record.items() if name != "step"}
        for tracker in self._open:
            tracker.log(values, step=int(record["step"]))

    def show(self, picture: Image.Image, step: int) -> None:
        """Show the validation pictures of a step."""
        for tracker in self._open:
            more = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": np.asarray(picture)[None]}, step=step, **more)

    def close(self) -> None:
        """Finish the runs."""
        for tracker in self._open:
            tracker.finish()
        self._open = []
