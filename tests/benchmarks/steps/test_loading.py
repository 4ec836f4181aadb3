"""Loading is measured beside PEFT's on a small model, and the churn tells a leak from none."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectra.benchmarks.run import find, run


@pytest.mark.slow
def test_both_rows_are_measured(tmp_path: Path) -> None:
    settings = {"model": "embedded", "directions": 4, "repetitions": 1, "times": 20}
    outcome = run(find("loading"), out=tmp_path, settings=settings)
    assert outcome.failures == []
    load, churn = outcome.record["rows"]
    assert load["lora_s"] > 0 and load["swap_s"] > 0 and load["first_s"] > 0
    assert churn["values_differing"] == 0
