"""A model that is quick to measure, under the name `tiny`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_denoiser

from spectra.benchmarks import models


@pytest.fixture(scope="package", autouse=True)
def tiny_model() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", (64, tiny_denoiser.build))  # type: ignore[arg-type]
        yield
