"""A shift that cuts off much of a weight's spectrum is told wherever it is met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plain_base
import pytest

from spectra.analysis.clipping import clipping, cut_off
from spectra.convert.baking import bake
from spectra.errors import ClippingWarning
from spectra.shift.shift_file import write_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache


def test_the_share_is_of_the_sum() -> None:
    sigma = np.array([4.0, 3.0, 2.0, 1.0])
    assert cut_off(sigma, np.array([-5.0, 0, 0, 0])) == 0.4
    assert cut_off(sigma, np.array([0, 0, -2.0, -1.0])) == pytest.approx(0.3)
    assert cut_off(sigma, np.array([-3.9, 9, 9, 9])) == 0
    assert cut_off(sigma, np.array([-4.0])) == cut_off(sigma, np.array([-4.0, 0, 0, 0, -9, -9])) == 0.4
    assert cut_off(np.zeros(3), -np.ones(3)) == 0


def test_it_is_told_by_bake_and_verify_and_a_usual_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spectra_cli: Any
) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    weights = plain_base.tensors()
    base = plain_base.write(tmp_path, weights)
    usual, absurd = plain_base.random_shift(weights, size=0.05), plain_base.random_shift(weights, size=100.0)
    write_shift(usual, tmp_path / "usual.safetensors")
    write_shift(absurd, tmp_path / "absurd.safetensors")
    assert clipping(absurd) == {}  # no spectrum is known yet
    SpectrumCache(tmp_path / "cache").spectra(weights)
    found = clipping(absurd)
    assert set(found) <= {name for name, weight in weights.items() if weight.ndim > 1}
    assert len(found) >= 4
    assert clipping(usual) == {}
    bake(base, usual, tmp_path / "usual-out.safetensors")
    with pytest.warns(ClippingWarning, match=r"given: cuts off more than a third .* of \d weights .*lower --lr"):
        bake(base, absurd, tmp_path / "absurd-out.safetensors")
    ran = spectra_cli("verify", tmp_path / "usual.safetensors", tmp_path / "absurd.safetensors", "--base", base)
    assert ran.code == 0
    assert "warning: absurd.safetensors: cuts off" in ran.err
    assert ran.err.count("\n") == 1
