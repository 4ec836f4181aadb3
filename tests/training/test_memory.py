"""What a training keeps in memory: the precision of weights, encoders out of the way, counted checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny_families
import torch
from PIL import Image
from trainings import flat, read_training
from trainings import quick_outputs as quick_outputs

from spectra.bases.pipeline import find_base, load_pipeline
from spectra.training.config import TrainConfig, make_config, read_config
from spectra.training.run import memory
from spectra.training.run.memory import checkpoints, kept_bytes, load_dtype
from spectra.training.run.train import train


@pytest.fixture(scope="module")
def bfloat16_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-bf16"
    load_pipeline(str(tiny_base), torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (32, 32), "red").save(folder / "red.png")
    return folder


def learn(base: Path, images: Path, out: Path, **settings: Any) -> Any:
    given = {
        "base": str(base), "images": str(images), "prompt": "a un", "prior_weight": 0.0, "steps": 2,
        "validation_count": 1, "validation_steps": 1, "text_encoder": False, "lr_outer": 0.1,
    }  # fmt: skip
    train(make_config(given | settings), out, device="cpu")
    return read_training(out)


def test_the_bases_weights_are_loaded_as_they_are_stored(tiny_base: Path, bfloat16_base: Path) -> None:
    assert load_dtype("stored", find_base(str(tiny_base))) == torch.float32
    assert load_dtype("stored", find_base(str(bfloat16_base))) == torch.bfloat16
    assert load_dtype("stored", find_base("")) == torch.float32  # float16 files
    assert load_dtype("float32", find_base(str(bfloat16_base))) == torch.float32
    assert TrainConfig().precision == "stored"
    assert make_config({}).precision == "float32"  # the embedded base


def test_a_base_trains_and_draws_in_bfloat16(bfloat16_base: Path, images: Path, tmp_path: Path) -> None:
    shift, losses = learn(bfloat16_base, images, tmp_path / "lean")
    assert shift.metadata.base_dtype == "bfloat16"
    wide, wide_losses = learn(bfloat16_base, images, tmp_path / "wide", precision="float32")
    assert wide.metadata.base_dtype == "float32"
    for one, other in zip(losses, wide_losses, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
    assert all(torch.isfinite(torch.tensor(term.a)).all() for term in shift.outer.values())


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev"])
def test_other_families_train_and_draw_in_bfloat16(name: str, images: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_families.build(name).to(torch.bfloat16).save_pretrained(base)
    shift, losses = learn(base, images, tmp_path / "out", resolution=32)
    assert shift.metadata.base_dtype == "bfloat16"
    assert all(record["loss"] > 0 for record in losses)


def test_kept_bytes_are_those_that_autograd_keeps() -> None:
    model, _ = small_models.build("unet")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)

    def forward() -> torch.Tensor:
        answer: torch.Tensor = model(x, torch.tensor([3, 500]), torch.zeros(2, 5, 12)).sample
        return answer

    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        output = forward()
    weights = {each.untyped_storage()._cdata for each in model.parameters()}
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in kept}
    expected = sum(size for key, size in storages.items() if key not in weights)
    assert expected > 0
    assert kept_bytes(forward, list(model.parameters())) == expected
    assert output.requires_grad


@pytest.mark.filterwarnings("ignore:smaller than they are learnt")
def test_checkpointing_is_on_where_activations_outweigh_the_weights(
    tiny_base: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[bool] = []

    def noted(*arguments: Any) -> bool:
        decided.append(checkpoints(*arguments))
        return decided[-1]

    monkeypatch.setattr("spectra.training.run.trainer.checkpoints", noted)
    plain, _ = learn(tiny_base, images, tmp_path / "small", validation_count=0)
    monkeypatch.setattr(memory, "SMALL", 0)
    few, _ = learn(tiny_base, images, tmp_path / "few", validation_count=0)
    many, _ = learn(tiny_base, images, tmp_path / "many", validation_count=0, resolution=64, batch=16)
    learn(tiny_base, images, tmp_path / "off", validation_count=0, batch=16, gradient_checkpointing=False)
    assert decided == [False, False, True, False]
    assert (flat(plain) == flat(few)).all()
    assert len(many)


def test_an_undecided_setting_is_left_out_of_files(tmp_path: Path) -> None:
    config = TrainConfig(base="b", images="i", prompt="a [V] dog")
    assert config.gradient_checkpointing is None
    file = tmp_path / "settings.toml"
    file.write_text(config.to_toml())
    assert "gradient_checkpointing" not in file.read_text()
    assert read_config(file) == config
    file.write_text(make_config({"base": "b", "gradient_checkpointing": True}).to_toml())
    assert read_config(file).gradient_checkpointing is True
