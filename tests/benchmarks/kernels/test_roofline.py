"""The projection of a step: what each operation is charged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectra.benchmarks import run
from spectra.benchmarks.kernels import roofline
from spectra.benchmarks.kernels.uses import Problem
from spectra.benchmarks.steps.methods import prepare
from spectra.benchmarks.steps.models import denoiser
from spectra.kernels import torch_operators


def tally() -> roofline.Tally:
    return roofline.Tally(flops=1e12, bandwidth=1e9)


def test_a_product_is_charged_its_flops_and_each_of_its_matrices_once() -> None:
    found = tally()
    a, b = (torch.empty(*shape, device="meta", dtype=torch.bfloat16) for shape in ((6, 4), (4, 8)))
    with found.listen():
        (a @ b).view(-1)[:0].detach()
    assert (found.flops, found.bytes) == (2 * 6 * 4 * 8, 2 * (24 + 32 + 48))
    assert sum(found.seconds.values()) == pytest.approx(found.bytes / 1e9)
    assert found.fused == sum(found.seconds.values())


def test_an_expanded_tensor_is_read_once_and_is_no_product() -> None:
    found = tally()
    with found.listen():
        torch.empty(1, device="meta").expand(1000) + 1
    assert (found.flops, found.bytes) == (0, 4 + 4000)
    assert found.fused == 0


def test_the_longer_of_arithmetic_and_traffic_counts_and_float32_is_slower() -> None:
    found = tally()
    found.charge("a", 10**12, 10, half=True)
    found.charge("b", 10**12, 10, half=False)
    found.charge("c", 1, 10**9, half=True)
    assert dict(found.seconds) == {"a": 1, "b": pytest.approx(12), "c": 1}


def test_kernels_are_charged_what_their_own_projection_is() -> None:
    p = Problem(n=96, r=64, h=48, m=128)
    a, basis = (torch.empty(*shape, device="meta", dtype=torch.bfloat16) for shape in ((1, p.n, p.r), (p.r, p.h)))
    vector = torch.empty(p.h, device="meta")
    found = tally()
    with found.listen():
        torch_operators.low_rank_apply(a, basis, basis, vector[None], None, None, None, True, True)
    assert found.flops == 4 * p.n * p.r * p.h
    assert found.bytes == 2 * (3 * p.n * p.r + p.n * p.h + 2 * p.r * p.h) + 4 * p.h


def test_spectra_runs_its_kernels_and_the_plain_row_does_not() -> None:
    model, _ = denoiser("tiny", batch=64, dtype=torch.bfloat16)
    rates = {"flops": 8e14, "bandwidth": 3e12}
    with_kernels = roofline.project(prepare("svdiff", model, device="cuda"), **rates, kernels=True)
    plain = roofline.project(prepare("svdiff", model, device="cuda"), **rates)
    assert {"low_rank_apply", "low_rank_apply_backward"} & with_kernels.seconds.keys()
    assert not {"low_rank_apply", "low_rank_apply_backward"} & plain.seconds.keys()
    assert with_kernels.bytes < plain.bytes
    assert with_kernels.flops == pytest.approx(plain.flops, rel=0.1)


def test_every_figure_is_called_a_projection(tmp_path: Path) -> None:
    record = run.run(roofline.CASE, out=tmp_path, settings={"model": "tiny"}, only=["frozen", "full"]).record
    assert record["failures"] == []
    assert all("projection" in name for name in record["summary"])
    assert record["projection_ms"]["full"] > record["projection_ms"]["frozen"] > 0
    assert record["rows"][1]["projection_longest_ms"]["AdamW"] > 0
