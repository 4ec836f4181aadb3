"""Encoding and drawing as they are planned, against what tiny pipelines hold while they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_families
import torch

from spectra.bases.pipeline import load_pipeline
from spectra.families.known import family_of
from spectra.generation.drawing import draw, requests_for
from spectra.generation.settings import Sampling
from spectra.planning.memory import CONTEXT, SPARE, Memory
from spectra.planning.passing_memory import PassingBytes
from spectra.planning.plan import Plan, plan
from spectra.planning.request import PlanRequest
from spectra.planning.saved_tensors import tensors_in
from spectra.training.config import make_config
from spectra.training.data.class_pictures import PICTURES_AT_ONCE
from spectra.training.data.latents import CHUNK

CLOSE = 0.05


def planned(folder: Path, **settings: Any) -> Plan:
    common = {"base": str(folder), "resolution": 32, "directions": "0", "outer": "1", "text_encoder": False}
    return plan(PlanRequest(make_config(common | settings)))


def weight_bytes(model: torch.nn.Module) -> int:
    return sum(each.nbytes for each in [*model.parameters(), *model.buffers()])


class Passing:
    """The most bytes that a call of a model held, its weights and what it was given apart."""

    def __init__(self, model: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 0
        call = getattr(model, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            given = tensors_in([arguments, named])
            with PassingBytes([*model.parameters(), *model.buffers(), *given]) as passing:
                made = call(*arguments, **named)
            self.most = max(self.most, passing.most)
            return made

        monkeypatch.setattr(model, name, counted)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux-dev", "flux2-klein", "qwen-image"])
def test_what_models_hold_in_their_turn_is_what_is_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_families.build(name).save_pretrained(tmp_path / "base")
    made = planned(tmp_path / "base")
    found = made.memory
    pipe = load_pipeline(str(tmp_path / "base"))
    family = family_of(pipe)
    pipe.vae.enable_slicing()
    with torch.no_grad(), PassingBytes([*pipe.vae.parameters(), *pipe.vae.buffers()]) as encoding:
        family.encode_pictures(pipe, torch.zeros(CHUNK, 3, 32, 32))
    assert found.encoding["vae"] == pytest.approx(weight_bytes(pipe.vae) + encoding.most, rel=CLOSE)
    denoiser = getattr(pipe, family.model)
    drawn, decoded = Passing(denoiser, "forward", monkeypatch), Passing(pipe.vae, "decode", monkeypatch)
    draw(pipe, requests_for(["a un"], range(PICTURES_AT_ONCE)), Sampling(1, 4.0, 32, 32, PICTURES_AT_ONCE))
    held = weight_bytes(denoiser) + drawn.most
    if made.assumed_tokens:  # of a longer prompt
        assert found.drawing[family.model] > held
    else:
        assert found.drawing[family.model] == pytest.approx(held, rel=CLOSE)
    assert found.drawing["vae"] == pytest.approx(weight_bytes(pipe.vae) + decoded.most, rel=CLOSE)
    for encoder in family.text_encoders:
        model = getattr(pipe, encoder)
        assert found.encoding[encoder] == found.drawing[encoder]
        assert found.encoding[encoder] == pytest.approx(weight_bytes(model), rel=CLOSE)
    components = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]
    assert found.base == pytest.approx(sum(map(weight_bytes, components)), rel=CLOSE)


def test_the_largest_phase_is_the_total() -> None:
    parts = dict.fromkeys(("spectra", "trained", "gradients", "optimizer", "activations", "checkpointed"), 0)
    memory = Memory({"unet": 5}, **parts, encoding={"a": 3, "b": 20}, drawing={"unet": 6, "b": 20}, standing=1)
    assert memory.phases(checkpointing=True) == {
        phase: size + CONTEXT + round(SPARE * size)
        for phase, size in (("encoding", 20), ("training", 5), ("drawing", 21))
    }
    assert memory.largest(checkpointing=True) == "drawing"
    assert memory.total(checkpointing=True) == CONTEXT + 22


def test_nothing_is_drawn_without_validation_and_class_pictures(tiny_base: Path) -> None:
    assert not planned(tiny_base, validation_count=0, prior_weight=0.0).memory.drawing
    assert planned(tiny_base, validation_count=0, prior_weight=1.0, class_prompt="a dog").memory.drawing
