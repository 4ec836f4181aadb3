"""What a shift does to a weight, as a matrix and as factors: against the definition in float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plain_base
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spectra.convert.projection import AnySpectrum
from spectra.convert.weight_change import WeightShift, principal_factors, product_square, visit_parts
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.spectrum import Spectrum, matrix

SHAPES = plain_base.SHAPES | {"unet.token_embedding": (20, 8)}
WORDS = ["unet.token_embedding"]


def seen(
    base: Mapping[str, Tensor], shift: SpectralShift, cache: SpectrumCache
) -> dict[str, tuple[WeightShift, Tensor, AnySpectrum | None]]:
    parts = {name: WeightShift.of(shift, name) for name in shift}
    return visit_parts(base, parts, lambda *each: each, "", cache=cache)


@pytest.mark.parametrize("directions", [0, 3, 20])
@pytest.mark.parametrize("terms", [0, 2])
def test_change_and_factors_are_the_definition(directions: int, terms: int, tmp_path: Path) -> None:
    base = plain_base.tensors(SHAPES)
    shift = plain_base.mixed_shift(base, directions, terms, WORDS)
    wanted = plain_base.shifted(base, shift)
    for name, (part, weight, spectrum) in seen(base, shift, SpectrumCache(tmp_path)).items():
        assert torch.equal(weight, base[name])
        exact = wanted[name] - weight.double()
        size = max(float(exact.norm()), 1e-6)  # without any change, numpy's SVD leaves its own rounding
        assert float((part.change(weight, spectrum).reshape(weight.shape) - exact).norm()) < 1e-6 * size, name
        assert float((part.applied(weight, spectrum) - wanted[name]).norm()) < 2e-6 * float(wanted[name].norm())
        if weight.ndim == 1:
            continue
        up, down = part.factors(weight, spectrum)
        tokens = len(part.word.ids) if part.word else 0
        assert up.shape[1] == min(directions, len(part.delta)) + terms + tokens
        assert float((up @ down - matrix(exact)).norm()) < 1e-6 * size
        assert float(product_square(up, down)) == pytest.approx(float(exact.norm()) ** 2, rel=1e-6)


def test_no_more_of_a_spectrum_is_asked_for_than_is_needed(tmp_path: Path) -> None:
    base = {name: weight for name, weight in plain_base.tensors(SHAPES).items() if weight.ndim > 1}
    for directions, kind in ((0, type(None)), (3, PartialSpectrum), (20, Spectrum)):
        cache = SpectrumCache(tmp_path / str(directions))
        shift = plain_base.mixed_shift(base, directions, 1)
        assert {type(spectrum) for _, _, spectrum in seen(base, shift, cache).values()} == {kind}
        assert bool(list(cache.entries())) == (directions > 0)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    count=st.integers(0, 15),
    rank=st.integers(1, 15),
    size=st.sampled_from([1e-6, 1.0, 1e5]),
    seed=st.integers(0, 99),
)
def test_principal_factors_are_an_svd(rows: int, columns: int, count: int, rank: int, size: float, seed: int) -> None:
    """Also of factors whose terms cancel, of which nothing but noise may be left."""
    random = torch.Generator().manual_seed(seed)
    up = torch.randn(rows, count, generator=random, dtype=torch.float64)
    down = size * torch.randn(count, columns, generator=random, dtype=torch.float64)
    if count > rank:  # the last terms repeat the first, some with the opposite sign
        up[:, rank:] = up[:, : count - rank].repeat(1, 2)[:, : count - rank] if count <= 2 * rank else up[:, :1]
        up[:, rank:] *= -1
        down[rank:] = down[: count - rank] if count <= 2 * rank else down[:1]
    left, s, right = principal_factors(up, down)
    exact = up @ down
    assert float(((left * s) @ right - exact).norm()) <= 1e-12 * float(up.norm() * down.norm())
    for basis in (left.T, right):
        assert torch.allclose(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-10)
    kept = s[s > 0]
    true = torch.linalg.svdvals(exact)[: len(kept)]
    assert torch.allclose(kept, true, rtol=1e-9, atol=1e-12 * float(up.norm() * down.norm()))
    assert torch.equal(s, s.sort(descending=True).values)
    if count == 2 * rank:
        assert not len(kept)
