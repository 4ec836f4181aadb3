"""`spectra bench processes` for a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectra.benchmarks.run import run
from spectra.benchmarks.trainings.processes import CASE


@pytest.mark.slow
def test_two_processes_share_a_step(tmp_path: Path) -> None:
    record = run(CASE, out=tmp_path / "out", settings={"repetitions": 1, "batch": 1}).record
    assert record["failures"] == []
    (row,) = record["rows"]
    assert 0.5 < row["ratio"] < 2
    assert row["bytes"] > 0
