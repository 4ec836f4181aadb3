"""`spectra bench packing`: files that are really that small, within their error, and a bound that is one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from spectra.benchmarks import run
from spectra.benchmarks.files import packing
from spectra.benchmarks.files.packing import CASE


def test_gaussian_shifts_meet_the_goals(tmp_path: Path) -> None:
    record = run.run(CASE, out=tmp_path, only=["gaussian 1 %", "gaussian 3 %"]).record
    assert record["failures"] == []
    summary = record["summary"]
    assert [goal.judge(summary)["met"] for goal in CASE.goals] == [True, True, True]
    for row in record["rows"]:
        assert row["floats"] == 322_856
        assert row["bound_bytes"] < row["packed_bytes"] < 0.25 * row["fp32_bytes"]


def test_the_bound_of_one_variance_is_shannons() -> None:
    part = {f"unet.a{i}": np.full(1000, 0.05, np.float32) for i in range(3)}
    assert packing._bound(part, 0.01) == pytest.approx(3000 * math.log2(100))


def test_a_weight_below_the_level_takes_no_bits() -> None:
    """Two weights: the small one is given up whole, and the other may err by what is left."""
    large, small = np.full(100, 1.0, np.float32), np.full(100, 0.01, np.float32)
    error = 0.05
    left = error**2 * (100 + 0.01) - 0.01
    assert packing._bound({"a.b": large, "a.c": small}, error) == pytest.approx(50 * math.log2(100 / left), rel=1e-5)
