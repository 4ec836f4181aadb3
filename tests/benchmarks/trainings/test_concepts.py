"""`spectra bench concepts` on a tiny base in the embedded one's place."""

from __future__ import annotations

from pathlib import Path

from spectra.benchmarks.run import run
from spectra.benchmarks.trainings.concepts import CASE


def test_together_and_alone_come_to_the_same(embedded: Path, tmp_path: Path) -> None:
    record = run(CASE, out=tmp_path / "out", only=["2"], settings={"repetitions": 1, "preset": "svdiff"}).record
    assert record["failures"] == []
    (row,) = record["rows"]
    assert row["steps"] == 3
    assert 0.5 < row["flops_ratio"] < 1.5
    assert 0 < row["difference"] < 0.05
    assert 0 < row["together_error"] < 3 * row["alone_error"] + 0.01
    assert row["ratio"] > 0
