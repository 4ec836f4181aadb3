"""What tests of trainings share: what a training leaves, one that is interrupted, and one without what few look at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift


def read_training(folder: Path) -> tuple[SpectralShift, list[dict[str, float]]]:
    """The shift in a training's folder and its losses, without their timings."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [{name: value for name, value in record.items() if name != "seconds"} for record in log]
    return read_shift(folder / f"{folder.name}.safetensors"), losses


def flat(shift: SpectralShift) -> np.ndarray[Any, Any]:
    """All deltas in one vector."""
    return np.concatenate([shift[name] for name in shift])


@contextmanager
def interrupted_after(steps: int) -> Iterator[None]:
    """A training within the block is interrupted after so many steps."""
    from spectra.training.run.loop import Loop

    advance = Loop.advance

    def interrupted(self: Loop) -> float:
        if self.step == steps:
            raise KeyboardInterrupt
        return advance(self)

    with mock.patch.object(Loop, "advance", interrupted), pytest.raises(KeyboardInterrupt):
        yield


@pytest.fixture
def whole_outputs() -> None:
    """Asked for by a test of which the trainings draw their loss curve, and measure their loss over all samples."""


@pytest.fixture(autouse=True)
def quick_outputs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss curve is an empty file, and the loss is measured over 8 samples, unless a test wants `whole_outputs`."""
    if "whole_outputs" in request.fixturenames:
        return

    def write(draw: Any, path: Path) -> None:
        path.touch()

    monkeypatch.setattr("spectra.plots.style.write", write)
    monkeypatch.setattr("spectra.training.run.loop.MEASURE_SAMPLES", 8)
