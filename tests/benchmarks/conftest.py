"""What benchmarks measure in tests: a model under the name `tiny`, and the tiny base in the embedded one's place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_denoiser

from spectra.bases import pipeline
from spectra.benchmarks.steps import models
from spectra.training.run import loop


@pytest.fixture(scope="package", autouse=True)
def tiny_model() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", (64, tiny_denoiser.build))  # type: ignore[arg-type]
        yield


@pytest.fixture
def embedded(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the tiny base, which is taken for the embedded one; its losses are measured on a few samples."""
    monkeypatch.setattr(loop, "MEASURE_SAMPLES", 8)
    monkeypatch.setattr(pipeline, "embedded_path", lambda: tiny_base)
    return tiny_base
