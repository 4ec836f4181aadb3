"""Singular values found by what a shift file knows of its base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spectra.errors import CacheWarning
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.singular_values import read_sigmas
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.fingerprint import fingerprint


def test_known_weights_are_found_and_others_passed_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = {"unet.a": torch.randn(4, 6), "unet.b": torch.randn(3, 3), "unet.norm": torch.randn(5)}
    cache = SpectrumCache(tmp_path)
    cache.spectrum(weights["unet.a"])
    digits = {name: fingerprint(weight)[:8] for name, weight in weights.items()}
    metadata = ShiftMetadata("tiny", digits, ndims={name: w.ndim for name, w in weights.items()})
    found = read_sigmas(metadata, cache=cache)
    assert list(found) == ["unet.a"]
    np.testing.assert_allclose(found["unet.a"], torch.linalg.svdvals(weights["unet.a"].double()), rtol=1e-12)
    assert read_sigmas(metadata, ["unet.b"], cache=cache) == {}


def test_a_damaged_entry_is_passed_over(tmp_path: Path) -> None:
    weight = torch.randn(4, 6)
    cache = SpectrumCache(tmp_path)
    cache.spectrum(weight)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.warns(CacheWarning, match="damaged"):
        assert read_sigmas(ShiftMetadata("tiny", {"unet.a": fingerprint(weight)[:8]}), cache=cache) == {}
