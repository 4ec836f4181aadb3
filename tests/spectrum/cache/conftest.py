"""What the cache's tests share: an empty cache, and small weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.spectrum import Spectrum


@pytest.fixture
def cache(tmp_path: Path) -> SpectrumCache:
    return SpectrumCache(tmp_path / "cache")


@pytest.fixture
def no_decompose(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, computing a spectrum is an error: what is asked for must come from the files."""

    def forbid() -> None:
        def computed(*arguments: Any, **more: Any) -> Spectrum:
            raise AssertionError("computed again")

        monkeypatch.setattr("spectra.spectrum.decomposition.decompose", computed)

    return forbid


@pytest.fixture
def weight() -> Callable[..., Tensor]:
    """`weight(rows, columns, seed)`: the same random weight each time."""

    def make(rows: int = 12, columns: int = 20, seed: int = 0) -> Tensor:
        return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def weights(weight: Callable[..., Tensor]) -> Callable[[int], dict[str, Tensor]]:
    """`weights(n)`: layer0 ... layer<n-1>, the seed in the name."""
    return lambda count: {f"layer{seed}": weight(seed=seed) for seed in range(count)}


@pytest.fixture
def same() -> Callable[[Spectrum, Spectrum], bool]:
    """Whether two spectra agree in every bit."""

    def compare(one: Spectrum, two: Spectrum) -> bool:
        tensors = all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("basis", "sigma", "tail"))
        return tensors and (one.side, one.shape) == (two.side, two.shape)

    return compare
