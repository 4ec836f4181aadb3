"""Extraction: what was baked comes back; of a LoRA and of a fine-tuned model the closest shift, and what it lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import original_checkpoint as original
import pytest
import small_models
import tiny_base
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.bases.weight_files import base_weights
from spectra.convert.baking import NamedShift, bake
from spectra.convert.extraction import extract
from spectra.errors import BaseError, FormatError, MismatchError
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    tiny_base.build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shift(base: Path) -> SpectralShift:
    return small_models.mild_shift(tiny_base.build(), "unet,text-encoder", 1)


def apart(found: SpectralShift, expected: SpectralShift) -> float:
    """`||found - expected|| / ||expected||` over all weights."""
    assert found.keys() == expected.keys()
    squares = [
        (np.sum((found[k].astype(float) - expected[k]) ** 2), np.sum(expected[k].astype(float) ** 2)) for k in expected
    ]
    error, norm = np.sum(squares, axis=0)
    return float(np.sqrt(error / norm))


def test_what_was_baked_comes_back(base: Path, shift: SpectralShift, tmp_path: Path) -> None:
    spectra.bake(str(base), shift, str(tmp_path / "model"))
    found = spectra.extract(str(base), str(tmp_path / "model"))
    assert apart(found.shift, shift) < 1e-5
    assert found.total.energy > 1 - 1e-5
    assert (found.others, found.total.clipped) == ((), 0)
    assert found.shift.metadata.fingerprints == shift.metadata.fingerprints
    assert found.shift.metadata.ndims == shift.metadata.ndims
    assert found.shift.metadata.rounded == shift.metadata.rounded
    pipe = tiny_base.build()
    spectra.load(pipe, found.shift, name="x")  # its fingerprints are the base's


def test_what_was_clipped_comes_back_as_zero(base: Path, tmp_path: Path) -> None:
    strong = small_models.random_shift(tiny_base.build(), "unet-ca", 2, 1.0)
    bake(str(base), [NamedShift("x", strong)], tmp_path / "model")
    found = extract(str(base), str(tmp_path / "model"))
    again = tmp_path / "again"
    bake(str(base), [NamedShift("x", found.shift)], again)
    for name, weight in base_weights(str(again), ["unet"]).items():
        assert torch.allclose(weight, base_weights(str(tmp_path / "model"), ["unet"])[name], atol=2e-6), name
    assert found.total.energy > 1 - 1e-6


def test_from_shards_a_single_file_and_one_component(base: Path, shift: SpectralShift, tmp_path: Path) -> None:
    pipe = tiny_base.build()
    save_file(original.original_checkpoint(pipe), tmp_path / "v1.safetensors")
    bake(str(tmp_path / "v1.safetensors"), [NamedShift("x", shift)], tmp_path / "v1-x.safetensors")
    assert apart(extract(str(base), str(tmp_path / "v1-x.safetensors")).shift, shift) < 1e-5
    bake(str(base), [NamedShift("x", shift)], tmp_path / "model")
    unet = tmp_path / "model" / "unet"
    only = {name: delta for name, delta in shift.items() if name.startswith("unet.")}
    dotted_folder = shutil.copytree(unet, tmp_path / "unet-v1.5")
    dotted_file = shutil.copyfile(unet / "diffusion_pytorch_model.safetensors", tmp_path / "v1.5.safetensors")
    for model in (unet, unet / "diffusion_pytorch_model.safetensors", dotted_folder, dotted_file):
        found = extract(str(tmp_path / "v1.safetensors"), str(model)).shift
        assert found.keys() == only.keys()
        assert max(np.abs(found[name] - only[name]).max() for name in only) < 1e-6


def test_a_fine_tuned_model_and_what_no_shift_holds(base: Path, tmp_path: Path) -> None:
    pipe = tiny_base.build()
    torch.manual_seed(3)
    with torch.no_grad():
        pipe.unet.conv_in.bias.add_(1)
        for name in ("mid_block.attentions.0.proj_in.weight", "conv_norm_out.weight", "conv_in.weight"):
            parameter = pipe.unet.get_parameter(name)
            parameter.add_(0.1 * torch.randn_like(parameter))
    pipe.unet.save_pretrained(tmp_path / "unet")
    found = extract(str(base), str(tmp_path / "unet"), rank=2)
    assert set(found.shift) == {"unet.mid_block.attentions.0.proj_in", "unet.conv_norm_out", "unet.conv_in"}
    assert found.others == ("unet.conv_in.bias",)
    energies = {layer.name: layer.energy for layer in found.layers}
    assert energies["unet.conv_norm_out"] == 1
    assert 0 < energies["unet.conv_in"] < 0.5  # 16 of 576 directions of noise
    assert set(found.rest) == {"unet.mid_block.attentions.0.proj_in", "unet.conv_in"}
    assert found.shift.metadata.recipe == {"method": "extract", "from": "unet", "energy": round(found.total.energy, 6)}
    half = extract(str(base), str(tmp_path / "unet"), target="unet.conv_norm_out,unet.mid_block.*")
    assert "unet.conv_in" not in half.shift


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_lower_precision(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Rounding alone is no training: only what was shifted is extracted."""
    strong = small_models.mild_shift(tiny_base.build(), "unet-ca", 6)
    bake(str(base), [NamedShift("x", strong)], tmp_path / "model")
    unet = tiny_base.build().unet
    weights = base_weights(str(tmp_path / "model"), ["unet"])
    with torch.no_grad():
        for name, weight in weights.items():
            unet.get_parameter(name.removeprefix("unet.") + ".weight").copy_(weight)
    torch.nn.Module.to(unet, dtype).save_pretrained(tmp_path / "half")
    found = extract(str(base), str(tmp_path / "half"))
    assert found.shift.keys() == strong.keys()
    assert apart(found.shift, strong) < 20 * torch.finfo(dtype).eps


def lora(base: Path, folder: Path, **config: Any) -> Path:
    """A random LoRA of PEFT's own, saved by diffusers."""
    pipe = tiny_base.build()
    torch.manual_seed(5)
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False, **config))
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    return folder / "pytorch_lora_weights.safetensors"


def test_a_lora_is_what_its_merged_model_is(base: Path, tmp_path: Path) -> None:
    path = lora(base, tmp_path / "lora", r=2, lora_alpha=2)
    found = extract(str(base), str(path))
    merged = tiny_base.build()
    merged.load_lora_weights(str(path))
    merged.fuse_lora()
    merged.unload_lora_weights()
    merged.unet.save_pretrained(tmp_path / "merged")
    whole = extract(str(base), str(tmp_path / "merged"))
    assert apart(found.shift, whole.shift) < 1e-4
    assert found.total.energy == pytest.approx(whole.total.energy, rel=1e-3)
    assert 0 < found.total.energy < 1


def test_shift_and_rest_together_are_the_model(base: Path, tmp_path: Path, spectra_cli: Any) -> None:
    """diffusers loads the rest onto the baked shift: at full rank that is the fine-tuned model."""
    tuned = tiny_base.build()
    torch.manual_seed(4)
    chosen = ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "conv_in", "down_blocks.1.downsamplers.0.conv")
    chosen = tuple(name for name in chosen if f"{name}.weight" in tuned.unet.state_dict())
    with torch.no_grad():
        for name in chosen:
            weight = tuned.unet.get_parameter(f"{name}.weight")
            weight.add_(0.03 * torch.randn_like(weight))
    tuned.unet.save_pretrained(tmp_path / "tuned")
    given = ["extract", base, tmp_path / "tuned", "-o", tmp_path / "x.safetensors", "--json"]
    ran = spectra_cli(*given, "--rest", tmp_path / "rest.safetensors", "--rank", 64)
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["rest_file"]["energy"] == pytest.approx(1, abs=1e-6)
    few = spectra_cli(*given, "--rest", tmp_path / "rest.safetensors", "--rank", 2, "--force")
    assert told["energy"] < json.loads(few.out)["rest_file"]["energy"] < 0.999
    spectra_cli(*given, "--rest", tmp_path / "rest.safetensors", "--rank", 64, "--force")
    bake(str(base), [NamedShift("x", read_shift(tmp_path / "x.safetensors"))], tmp_path / "baked")
    pipe = load_pipeline(str(tmp_path / "baked"))
    pipe.load_lora_weights(str(tmp_path / "rest.safetensors"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for name in chosen:
        expected = tuned.unet.get_parameter(f"{name}.weight")
        assert torch.allclose(pipe.unet.get_parameter(f"{name}.weight"), expected, atol=1e-5), name


def test_what_cannot_be_extracted_is_said(base: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="DoRA"):
        extract(str(base), str(lora(base, tmp_path / "dora", r=2, use_dora=True)))
    with pytest.raises(MismatchError, match="nothing to extract"):
        extract(str(base), str(base))
    small_models.build("unet")[0].save_pretrained(tmp_path / "unet")
    with pytest.raises(MismatchError, match=r"another architecture.*--target"):
        extract(str(base), str(tmp_path / "unet"))
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "strange.safetensors")
    with pytest.raises(BaseError, match="nothing in it is called as in the base"):
        extract(str(base), str(tmp_path / "strange.safetensors"))
    with pytest.raises(BaseError, match="no base there"):
        extract(str(base), str(tmp_path / "nothing.safetensors"))


def test_the_command(base: Path, shift: SpectralShift, tmp_path: Path, spectra_cli: Any) -> None:
    bake(str(base), [NamedShift("x", shift)], tmp_path / "model")
    path = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"] += 1
    save_file(tensors, path)
    out = tmp_path / "x.safetensors"
    ran = spectra_cli("extract", base, tmp_path / "model", "-o", out, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert found["others"] == ["unet.conv_in.bias"]
    assert found["energy"] == pytest.approx(1, abs=1e-5)
    assert len(found["layers"]) == len(shift)
    assert apart(read_shift(out), shift) < 1e-5
    again = spectra_cli("extract", base, tmp_path / "model", "-o", out)
    assert (again.code, again.err.count("\n")) == (1, 1)
    shown = spectra_cli("extract", base, tmp_path / "model", "-o", out, "--force")
    assert shown.code == 0
    assert "unet.mid_block" in shown.out
    assert max(map(len, shown.out.splitlines()[:-1])) <= 80
    assert "conv_in.bias" in shown.err
