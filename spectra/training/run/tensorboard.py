"""TensorBoard's log of a training, by a package that is installed apart."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from spectra.errors import InputError


def check_tensorboard(folder: str) -> None:
    """Whether a log that is asked for can be written; an empty `folder` asks for none.

    Raises:
        InputError: the package tensorboard is not installed.
    """
    if folder and importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard")


class TensorBoard:
    """A log in a folder."""

    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder)

    def record(self, record: dict[str, float]) -> None:
        """Add a step's losses and seconds."""
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(record["step"]))

    def picture(self, name: str, picture: Any, step: int) -> None:
        """Add a sheet of validation pictures."""
        self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
