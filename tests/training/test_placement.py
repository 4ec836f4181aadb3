"""Where models are while a base trains on an accelerator, followed on one that is the CPU under another name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
from PIL import Image
from torch import nn
from trainings import flat
from trainings import quick_outputs as quick_outputs

from spectra.bases.pipeline import load_pipeline
from spectra.layers.low_rank_layer import LowRankLayer
from spectra.shift.shift_file import read_shift
from spectra.training.config import make_config
from spectra.training.run import memory, trainer
from spectra.training.run.accelerator import make_accelerator
from spectra.training.run.placement import Placement
from spectra.training.run.train import train
from spectra.training.run.validation import Validation

ACCELERATOR = torch.device("cpu", 0)
"""PyTorch takes it for the CPU, and it is another device than `cpu`, which is main memory."""


class Followed:
    """Which of a pipeline's models are on the accelerator, whenever one of them has computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[int, str] = {}
        self.there: set[str] = set()
        self.seen: list[tuple[str, frozenset[str]]] = []
        move = nn.Module.to

        def noted(module: nn.Module, *arguments: Any, **named: Any) -> nn.Module:
            name = self.names.get(id(module))
            device = next((each for each in arguments if isinstance(each, str | torch.device)), named.get("device"))
            if name is not None and device is not None:
                (self.there.add if torch.device(device) == ACCELERATOR else self.there.discard)(name)
            return move(module, *arguments, **named)

        def loaded(*arguments: Any, **named: Any) -> Any:
            pipe = load_pipeline(*arguments, **named)
            for name, model in pipe.components.items():
                if isinstance(model, nn.Module):
                    self.names[id(model)] = name
                    for computing in (model.encoder, model.decoder) if name == "vae" else (model,):
                        computing.register_forward_hook(lambda *_, name=name: self.note(name))
            return pipe

        def accelerator(*arguments: Any, **named: Any) -> Any:
            made = make_accelerator(*arguments, **named)
            made.state.device = ACCELERATOR
            return made

        monkeypatch.setattr(nn.Module, "to", noted)
        monkeypatch.setattr(Placement, "moves", True)
        monkeypatch.setattr(trainer, "load_pipeline", loaded)
        monkeypatch.setattr(trainer, "make_accelerator", accelerator)

    def note(self, name: str) -> None:
        if (name, frozenset(self.there)) not in self.seen[-1:]:
            self.seen.append((name, frozenset(self.there)))


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    with monkeypatch.context() as patches:
        yield Followed(patches)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (32, 32), "red").save(folder / "red.png")
    return folder


def learn(name: str, images: Path, out: Path, **settings: Any) -> tuple[Any, list[bytes]]:
    """What a short training of a family learns and draws."""
    base = out.parent / "base"
    if not base.exists():
        tiny_families.build(name).save_pretrained(base)
    given = {
        "base": str(base), "images": str(images), "prompt": "a un", "class_prompt": "a dog", "prior_weight": 0.0,
        "steps": 2, "resolution": 32, "validation_count": 1, "validation_steps": 1, "validation_every": 1,
        "text_encoder": False, "lr_outer": 0.1,
    }  # fmt: skip
    train(make_config(given | settings), out, device="cpu")
    shift = read_shift(out / f"{out.name}.safetensors")
    return flat(shift), [file.read_bytes() for file in sorted(out.rglob("*.png")) if file.name != "loss.png"]


def test_models_take_turns_on_an_accelerator(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = learn("flux-dev", images, tmp_path / "one" / "out")
    with monkeypatch.context() as patches:
        followed = Followed(patches)
        moved = learn("flux-dev", images, tmp_path / "other" / "out")
    assert (plain[0] == moved[0]).all()
    assert plain[1] == moved[1]
    assert all(there == {called} for called, there in followed.seen), followed.seen
    encoded = ["vae", "text_encoder", "text_encoder_2"]
    drawn = ["transformer", "text_encoder", "text_encoder_2", "transformer", "vae"]
    # losses and pictures of the base, a step with pictures after it, another, losses and pictures at the end
    assert [called for called, _ in followed.seen] == [*encoded, *4 * drawn]
    assert not followed.there


def test_a_large_base_draws_few_at_once_and_makes_no_second_copy_of_its_weights(
    images: Path, tmp_path: Path, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, at_once = [], []
    make, draw = LowRankLayer._changed_once, Validation.draw
    monkeypatch.setattr(LowRankLayer, "_changed_once", lambda *each: made.append(1) or make(*each))
    monkeypatch.setattr(Validation, "draw", lambda own, *rest: at_once.append(own.sampling.batch) or draw(own, *rest))
    _, quick = learn("sd", images, tmp_path / "quick" / "out")
    assert made
    assert at_once == [8] * 4
    made.clear()
    at_once.clear()
    monkeypatch.setattr(memory, "SMALL", 0)
    _, lean = learn("sd", images, tmp_path / "lean" / "out")
    assert not made
    assert at_once == [1] * 4
    grey = [np.asarray(Image.open(io.BytesIO(each)).convert("L"), dtype=float) for each in (quick[0], lean[0])]
    assert abs(grey[0] - grey[1]).max() <= 1


def test_what_a_step_needs_stays(images: Path, tmp_path: Path, followed: Followed) -> None:
    learn("sd", images, tmp_path / "out", text_encoder=True, cache_latents=False, validation_count=0)
    steps = [there for called, there in followed.seen if called == "unet"]
    assert steps
    assert all(there == {"unet", "text_encoder", "vae"} for there in steps)


def test_class_pictures_are_drawn_in_turns_by_the_base(images: Path, tmp_path: Path, followed: Followed) -> None:
    learn("sd", images, tmp_path / "out", prior_weight=1.0, prior_count=1, prior_steps=1, validation_count=0)
    before = followed.seen[: [called for called, _ in followed.seen].index("unet") + 1]
    assert [called for called, _ in before] == ["vae", "text_encoder", "unet"]
    assert all(there == {called} for called, there in followed.seen), followed.seen
