"""What decompositions cost, against the cache's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.costs import decomposition_flops, stored_bytes


@pytest.mark.parametrize("shape", [(24, 40), (64, 24), (12, 6, 3, 3)])
@pytest.mark.parametrize("directions", [1, 3, 100])
def test_leading_directions_take_the_bytes_that_are_counted(
    shape: tuple[int, ...], directions: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    SpectrumCache(tmp_path).leading({"w": torch.randn(shape)}, directions)
    [file] = [file for file in tmp_path.rglob("*.safetensors") if file.parent.parent.name == "leading-v1"]
    assert stored_bytes(shape, directions) == pytest.approx(file.stat().st_size, abs=32)


@pytest.mark.parametrize("shape", [(24, 140), (64, 30, 3, 3)])
def test_whole_spectra_take_the_bytes_that_are_counted_but_for_their_tail(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    spectrum = SpectrumCache(tmp_path).spectrum(torch.randn(shape))
    [file] = tmp_path.rglob("*.safetensors")
    assert stored_bytes(shape, None) == pytest.approx(file.stat().st_size - spectrum.tail.nbytes, abs=32)


def test_no_directions_cost_nothing_and_few_less_than_all() -> None:
    assert stored_bytes((8, 8), 0) == decomposition_flops((8, 8), 0) == 0
    all_, few = (decomposition_flops((3072, 3072), k) for k in (None, 64))
    assert 10 < all_ / few < 30  # 17 times as quick was measured (docs/algebra.md)
    assert decomposition_flops((64, 64), 32) == decomposition_flops((64, 64), None)
