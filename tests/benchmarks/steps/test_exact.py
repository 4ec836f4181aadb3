"""`spectra bench exact`: nothing differs on a small model, and what does differ would be counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_models as models
import torch

import spectra
from spectra.benchmarks.steps.exact import STATES, Subject, compare


def small() -> Subject:
    model, call = models.build("unet")

    def outputs() -> list[torch.Tensor]:
        return [call().detach()]

    return Subject(model, {"unet": model}, "unet", outputs)


@pytest.mark.parametrize("form", [(None, 0), (2, 1)])
def test_nothing_differs_from_the_base(form: tuple[int | None, int], tmp_path: Path) -> None:
    found = compare(small(), tmp_path, 0, *form)
    assert {state: found[state] for state in STATES} == dict.fromkeys(STATES, 0)
    assert found["changed_by_shift"] > 0.9
    assert found["weights"] > 50
    assert found["floats"] > 500


def test_a_weight_that_is_not_given_back_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unload = spectra.unload
    subject = small()

    def careless(pipe: object, name: str | None = None) -> None:
        unload(pipe, name)
        with torch.no_grad():
            subject.parts["unet"].conv_in.weight[0, 0, 0, 0] += 1e-7  # type: ignore[operator, union-attr, index]

    monkeypatch.setattr(spectra, "unload", careless, raising=False)
    found = compare(subject, tmp_path, seed=0)
    assert found["unloaded"] >= 1
    assert found["detached"] == 0


def test_negative_zero_is_another_value() -> None:
    from spectra.benchmarks.steps.exact import _differing

    one, other = torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0])
    assert _differing([one], [other]) == 1
    assert _differing([one], [one.clone()]) == 0
