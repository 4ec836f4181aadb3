"""Loading a base of each kind, and what is said of one that cannot be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from spectra.bases.pipeline import find_base, load_pipeline
from spectra.errors import BaseError


def test_a_folder_loads_frozen_and_in_float32(tiny_base: Path) -> None:
    pipe = load_pipeline(str(tiny_base))
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float32}
    assert not any(p.requires_grad for model in (pipe.unet, pipe.vae, pipe.text_encoder) for p in model.parameters())
    assert not pipe.unet.training
    assert load_pipeline(str(tiny_base), torch.float16).unet.dtype == torch.float16


def test_size_on_disk_counts_the_weights(tiny_base: Path) -> None:
    assert find_base(str(tiny_base)).bytes == sum(f.stat().st_size for f in tiny_base.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["./nowhere", "no/such/base", "/absent", "nowhere", ""])
def test_names_that_are_no_base(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spectra.bases.pipeline.embedded_path", lambda: tmp_path)
    with pytest.raises(BaseError, match="no base there|not a diffusers pipeline folder"):
        find_base(name)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(BaseError, match="a pickle can run code"):
        find_base(str(tmp_path / "model.ckpt"))


def test_a_damaged_folder_is_one_line(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_base, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseError, match="could not be loaded as a pipeline") as caught:
        load_pipeline(str(folder))
    assert "\n" not in str(caught.value)


def test_a_hub_id_without_a_network_is_one_line() -> None:
    """The tests run offline (tests/conftest.py)."""
    with pytest.raises(BaseError, match="owner/absent: could not be fetched from the hub") as caught:
        load_pipeline("owner/absent")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(BaseError, match="not a checkpoint of Stable Diffusion, SDXL, SD3, Flux"):
        load_pipeline(str(tmp_path / "x.safetensors"))
    (tmp_path / "y.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BaseError, match=r"y\.safetensors: cannot be read as safetensors"):
        load_pipeline(str(tmp_path / "y.safetensors"))
