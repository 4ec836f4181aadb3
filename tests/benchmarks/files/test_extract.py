"""The case of baking and extracting, on a small UNet: two real processes, and what they are measured by."""

from __future__ import annotations

import pytest
import small_models

from spectra.benchmarks.case import Bench
from spectra.benchmarks.files import extract


@pytest.mark.slow
def test_a_known_shift_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "_unet", lambda: small_models.build("unet")[0])
    bench = Bench(settings={"seed": 0})
    rows = [extract.CASE.measure(bench, item) for item in extract.CASE.items(bench)]
    summary = extract.CASE.summarise(bench, rows)
    assert summary["error"] < 1e-5
    assert summary["captured_error"] < 1e-5
    assert 0.05 < summary["bake_peak_gb"] < 1
    assert 0.05 < summary["extract_peak_gb"] < 1
