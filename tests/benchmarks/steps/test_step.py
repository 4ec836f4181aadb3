"""A training step of every method, timed on a small model: what is run, not how fast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectra import kernels
from spectra.benchmarks import run
from spectra.benchmarks.steps import step
from spectra.benchmarks.steps.methods import METHODS, prepare
from spectra.benchmarks.steps.models import denoiser
from spectra.errors import InputError
from spectra.spectrum.placeholders import Spectra

SETTINGS = {"model": "tiny", "resolution": "64", "batch": "1", "repetitions": "1"}


def test_all_methods_are_timed_in_one_run_and_ours_are_held_against_the_formulas(tmp_path: Path) -> None:
    record = run.run(step.CASE, out=tmp_path, settings=SETTINGS).record
    assert record["failures"] == []
    assert list(record["ratio"]) == list(METHODS)
    assert record["ratio"]["frozen"] == 1
    assert all(row["step_s"]["repetitions"] == 1 for row in record["rows"])
    assert {"shift_over_lora-4", "shift_over_lora-16", "paper_over_svdiff"} <= record["summary"].keys()
    assert 0 < record["summary"]["gradient_error"] < 1e-4
    assert [goal["figure"] for goal in record["goals"]] == ["gradient_error"]  # the others are Stable Diffusion 1.5's


def test_a_step_trains_and_leaves_the_weights_as_they_are() -> None:
    model, _ = denoiser("tiny", device="cpu")
    before = [p.clone() for p in model.module.parameters()]
    full, spectra = prepare("full", model), prepare("svdiff", model, Spectra())
    for method in (full, spectra):
        step.stepper(method)()
        assert all(p.grad is None for p in method.parameters.values())
    assert all(torch.equal(p, q) for p, q in zip(model.module.parameters(), before, strict=True))


def test_every_step_rebuilds_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    rebuild = kernels.rebuild
    monkeypatch.setattr(kernels, "rebuild", lambda *args, **kwargs: calls.append(None) or rebuild(*args, **kwargs))
    model, _ = denoiser("tiny", batch=64, device="cpu")
    once = step.stepper(prepare("svdiff", model, Spectra()))
    once()
    first = len(calls)
    assert first > 0
    once()
    assert len(calls) == 2 * first


def test_plans_can_be_measured_first() -> None:
    model, _ = denoiser("tiny", device="cpu")
    method = prepare("svdiff", model, Spectra())
    step.tune(method)
    assert method.adapter is not None
    assert all(layer.tuned for layer in method.adapter.layers())
    assert all(p.grad is None for p in method.parameters.values())


def test_a_method_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no method is called 'dora'; there are: frozen"):
        run.run(step.CASE, out=tmp_path, settings=SETTINGS | {"methods": "lora-4,dora"})
