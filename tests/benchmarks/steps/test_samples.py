"""The cost of a shift for each sample: that what is timed is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectra.benchmarks import run
from spectra.benchmarks.steps import samples
from spectra.benchmarks.steps.models import denoiser
from spectra.spectrum.placeholders import Spectra


def test_each_sample_gets_its_own_shift_at_hardly_a_flop(tmp_path: Path) -> None:
    settings = {"model": "tiny", "batch": "3", "repetitions": "1", "directions": "0", "outer": "0"}
    record = run.run(samples.CASE, out=tmp_path, settings=settings, only=["weights, training"]).record
    assert record["failures"] == []
    (row,) = record["rows"]
    assert 1 <= row["flops_ratio"] <= 1.1
    assert row["difference"] < 1e-5
    assert record["flops_ratio"] == {"weights, training": row["flops_ratio"]}
    few = run.run(samples.CASE, out=tmp_path, settings=settings | {"directions": "2", "outer": "1"}).record
    assert few["failures"] == []
    assert few["summary"]["difference"] < 1e-5 < 0.01 < min(row["flops_ratio"] for row in few["rows"])


@pytest.mark.parametrize("form", [{"directions": 0, "outer": 0}, {"directions": 2, "outer": 1}])
def test_the_shifts_differ_from_each_other_and_from_the_base(form: dict[str, int]) -> None:
    model, _ = denoiser("tiny", batch=3, device="cpu")
    model.inputs["sample"][:] = model.inputs["sample"][0]
    model.inputs["encoder_hidden_states"][:] = model.inputs["encoder_hidden_states"][0]
    shifts = samples.Shifts(model, Spectra(), 3, norms=False, seed=0, **form)
    base, each = samples.run(model, train=False), samples.run(shifts.each(train=False), train=False)
    single, take = shifts.one(train=False)
    take(1)
    one = samples.run(single, train=False)
    assert samples.difference(one[1:2], each[1:2]) < 1e-5
    assert all(samples.difference(a, b) > 0.01 for a, b in ((each[:1], base[:1]), (each[:1], each[1:2])))
    assert samples.difference(torch.cat([base[:2], base[:1] * 2]), base) == 1


@pytest.mark.parametrize("form", [{"directions": "0", "outer": "0"}, {"directions": "2", "outer": "1"}])
def test_without_values_flops_alone_are_counted(form: dict[str, str], tmp_path: Path) -> None:
    settings = {"model": "tiny", "batch": "3", "repetitions": "1", **form}
    real = run.run(samples.CASE, out=tmp_path, settings=settings, only=["weights, drawing"]).record
    counted = run.run(samples.CASE, out=tmp_path, settings=settings | {"device": "meta"}, only=["weights, drawing"])
    (row,) = counted.record["rows"]
    assert counted.record["failures"] == [] and "ratio" not in row
    assert row["flops_ratio"] == pytest.approx(real["rows"][0]["flops_ratio"], rel=0.02)
