"""`spectra bench gradients`: what it measures is what it says, on matrices small enough for a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectra.benchmarks import run
from spectra.benchmarks.steps import gradients, matrices
from spectra.benchmarks.steps.gradients import CASE, DTYPES, PLANS


def test_real_matrices_are_the_packages_own_and_some_are_ill_conditioned() -> None:
    weights = matrices.real()
    assert len(weights) == 50
    assert weights["_fc"].shape == (1000, 1280)
    assert weights["blocks.0._project_conv"].shape == (16, 32, 1, 1)
    sigma = torch.linalg.svdvals(weights["_conv_stem"].double().flatten(1))
    assert sigma[0] / sigma[-1] > 1e6


@pytest.mark.parametrize("name", matrices.CONSTRUCTED)
def test_constructed_matrices_have_the_condition_they_are_made_for(name: str) -> None:
    weight = matrices.constructed(name, seed=3)
    assert weight.shape == matrices.CONSTRUCTED[name][:2]
    sigma = torch.linalg.svdvals(weight)
    assert float(sigma[0] / sigma[-1]) == pytest.approx(matrices.CONDITION, rel=1e-4)
    assert torch.equal(weight, matrices.constructed(name, seed=3))
    assert not torch.equal(weight, matrices.constructed(name, seed=4))


def test_layers_are_those_that_use_the_weight() -> None:
    depthwise = matrices.layer("blocks.3._depthwise_conv", torch.randn(6, 1, 5, 5))
    assert depthwise(torch.randn(2, 6, 8, 8)).shape == (2, 6, 8, 8)
    assert matrices.layer("_fc", torch.randn(3, 7)).weight.shape == (3, 7)  # type: ignore[union-attr]


def test_rows_and_goals(tmp_path: Path) -> None:
    names = ["_conv_stem", "blocks.0._depthwise_conv", "blocks.1._project_conv", "wide, cliff"]
    record = run.run(CASE, out=tmp_path, only=names).record
    assert record["failures"] == []
    assert [row["matrix"] for row in record["rows"]] == names
    for row in record["rows"]:
        for label, roundoff in zip(DTYPES, (6e-8, 4e-3, 5e-4), strict=True):
            errors = row[f"{label}_errors"]
            for state in ("zero", "moved"):
                # A few roundings, and not none: the precision is really the one that is named.
                assert all(roundoff / 30 < errors[state][name] < 100 * roundoff for name in ("paper", *PLANS))
            ratios = [max(e[plan] for plan in PLANS) / e["paper"] for e in errors.values()]
            assert row[f"{label}_ratio"] == pytest.approx(max(ratios), rel=1e-3)
            few = row[f"{label}_few_errors"]
            assert {"delta, zero", "a, zero", "delta, moved", "a, moved", "b, moved"} <= few.keys()
            assert all(roundoff / 100 < error < 100 * roundoff for pair in few.values() for error in pair)
            assert row[f"{label}_few_ratio"] == pytest.approx(max(a / b for a, b in few.values()), rel=1e-3)
    assert record["summary"]["bf16_worst"] == max(row["bf16_ratio"] for row in record["rows"])


def test_a_wrong_gradient_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectra.layers import shifted_layer as layers

    right = layers.singular_value_change
    monkeypatch.setattr(layers, "singular_value_change", lambda sigma, delta: right(sigma, delta) * 1.5)
    record = run.run(CASE, out=tmp_path, only=["blocks.1._project_conv"]).record
    assert record["rows"][0]["fp32_ratio"] > 1e3


def test_a_wrong_gradient_of_a_term_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectra.layers.frozen_operators import ConvOperator

    right = ConvOperator.right_gradient
    monkeypatch.setattr(ConvOperator, "right_gradient", lambda self, x, p: right(self, x, p) * 1.5)
    record = run.run(CASE, out=tmp_path, only=["blocks.1._project_conv"]).record
    assert record["rows"][0]["fp32_few_ratio"] > 1e3 > record["rows"][0]["fp32_ratio"]


def test_directions_that_float64_cannot_tell_apart_are_left_out() -> None:
    sigma = torch.tensor([3.0, 2.0, 2.0, 1.0, 1e-8, 1e-17, 0.0], dtype=torch.float64)
    assert gradients._determined(sigma).tolist() == [True, False, False, True, True, False, False]
