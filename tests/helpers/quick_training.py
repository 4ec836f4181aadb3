"""Trainings without what most tests do not look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


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
