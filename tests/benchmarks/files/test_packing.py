"""`spectra bench packing`: files that are really that small, within their error, and a bound that is one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from shifts_with_terms import EMBEDDING, shift_with_terms

from spectra.benchmarks import run
from spectra.benchmarks.files import packing
from spectra.benchmarks.files.packing import CASE
from spectra.shift.shift_file import write_shift


def test_gaussian_shifts_meet_the_goals(tmp_path: Path) -> None:
    record = run.run(CASE, out=tmp_path, only=["gaussian 1 %", "gaussian 3 %"]).record
    assert record["failures"] == []
    summary = record["summary"]
    assert [goal.judge(summary)["met"] for goal in CASE.goals] == [True, True, True]
    for row in record["rows"]:
        assert row["floats"] == 322_856
        assert row["bound_bytes"] < row["packed_bytes"] < 0.25 * row["fp32_bytes"]


def test_the_bound_of_one_variance_is_shannons() -> None:
    energies = np.full(3, 1000 * 0.05**2)
    assert packing._bound(np.full(3, 1000.0), energies, energies.sum(), 0.01) == pytest.approx(3000 * math.log2(100))


def test_a_weight_below_the_level_takes_no_bits() -> None:
    """Two weights: the small one is given up whole, and the other may err by what is left."""
    energies, error = np.array([100.0, 0.01]), 0.05
    left = error**2 * (100 + 0.01) - 0.01
    assert packing._bound(np.full(2, 100.0), energies, energies.sum(), error) == pytest.approx(
        50 * math.log2(100 / left), rel=1e-5
    )


def test_terms_and_words_count_too(tmp_path: Path) -> None:
    plain = shift_with_terms()
    write_shift(plain, tmp_path / "a.safetensors")
    record = run.run(
        CASE, out=tmp_path, only=["trained 1 %"], settings={"shift": str(tmp_path / "a.safetensors")}
    ).record
    (row,) = record["rows"]
    assert 0.003 < row["error"] <= 0.01
    groups = packing._groups(plain)
    assert [int(lengths.sum()) for lengths, _, _ in groups] == [4 + 2 * (8 + 3 + 9) + 2 * (7 + 9), 5, 12]
    assert groups[2][2] == pytest.approx(plain.words[EMBEDDING].dot(plain.words[EMBEDDING]))
