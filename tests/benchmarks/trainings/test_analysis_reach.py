"""What of a change singular directions and low ranks reach: on changes of which that is known."""

from __future__ import annotations

import pytest
import torch

from spectra.benchmarks.trainings.analysis_reach import shares


def made(seed: int) -> torch.Tensor:
    return torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


def test_a_change_along_singular_directions_is_reached_whole() -> None:
    weight = made(0)
    u, _, v = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    along = u @ torch.diag(torch.tensor([0.0, -0.1, 0.0, 0.2, 0.0, 0.0], dtype=torch.float64)) @ v
    found = shares({"a": weight}, {"a": along.float().view_as(weight)})
    assert found["spectral"] == pytest.approx(1, abs=1e-5)
    assert found["rank_1"] == pytest.approx(0.8, abs=1e-5)
    assert found["rank_4"] == found["rank_16"] == pytest.approx(1, abs=1e-5)
    assert found["random"] == pytest.approx(1 / 36, abs=1e-5)


def test_a_random_change_is_reached_by_chance_and_energies_add_up() -> None:
    weights = {str(n): made(n) for n in range(200)}
    changes = {str(n): 1e-3 * made(1000 + n) for n in range(200)}
    found = shares(weights, changes)
    assert found["spectral"] == pytest.approx(found["random"], rel=0.2)
    assert found["rank_1"] < found["rank_4"] < found["rank_16"] == pytest.approx(1)
    loud = shares({"a": weights["0"], "b": weights["1"]}, {"a": weights["0"] * 1e-3, "b": changes["1"] * 1e-4})
    assert loud["spectral"] > 0.99  # the weight itself lies along its own directions, and the other hardly counts
