"""Extraction: what was baked comes back; of a LoRA and of a fine-tuned model the closest shift, and what it lacks."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import original_checkpoint as original
import plain_base
import pytest
import small_models
import tiny_base
import torch
from fp8_checkpoint import scaled_fp8
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.bases.weight_files import base_weights
from spectra.convert.baking import NamedShift, bake
from spectra.convert.extraction import extract
from spectra.convert.lora.reading import read_lora
from spectra.convert.lora.writing import write_lora
from spectra.errors import BaseError, FormatError, MismatchError
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.spectrum import matrix


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
    assert found.total.error < 2e-6
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
    assert found.total.error < 1e-5


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


@pytest.mark.parametrize("scaled", [False, True])
def test_a_fine_tune_in_fp8(scaled: bool, tmp_path: Path) -> None:
    """Of weights that rounding alone tells from the base's nothing is extracted; of the others what was trained."""
    pipe = tiny_base.build()
    before = {key: value.clone() for key, value in original.original_checkpoint(pipe).items()}
    save_file(before, tmp_path / "base.safetensors")
    torch.manual_seed(3)
    trained = ("mid_block.attentions.0.proj_in", "conv_in")
    with torch.no_grad():
        for name in trained:
            weight = pipe.unet.get_submodule(name).weight
            weight.add_(0.5 * weight.std() * torch.randn_like(weight))
    after = original.original_checkpoint(pipe)
    if scaled:
        file, meant = scaled_fp8(after, "model.diffusion_model.")
    else:
        file = {key: value.to(torch.float8_e4m3fn) if value.ndim > 1 else value for key, value in after.items()}
        meant = {key: value.float() for key, value in file.items()}
    save_file(file, tmp_path / "tuned.safetensors")
    found = extract(str(tmp_path / "base.safetensors"), str(tmp_path / "tuned.safetensors"), outer=99)
    assert set(found.shift) == {f"unet.{name}" for name in trained}
    assert found.total.error < 0.01
    keys = {
        "unet.conv_in": "input_blocks.0.0.weight",
        "unet.mid_block.attentions.0.proj_in": "middle_block.1.proj_in.weight",
    }
    for layer in found.layers:
        key = f"model.diffusion_model.{keys[layer.name]}"
        change = (meant[key].double() - before[key].double()).square().sum()
        assert layer.change == pytest.approx(float(change), rel=1e-5)


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
    errors = {layer.name: layer.error for layer in found.layers}
    assert errors["unet.conv_norm_out"] == 0
    assert 0.7 < errors["unet.conv_in"] < 1  # 16 of 576 directions of noise
    assert set(found.rest) == {"unet.mid_block.attentions.0.proj_in", "unet.conv_in"}
    assert found.shift.metadata.recipe == {"method": "extract", "from": "unet", "error": round(found.total.error, 6)}
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


def lora(base: Path, folder: Path, targets: Sequence[str] = ("to_q", "to_v"), **config: Any) -> Path:
    """A random LoRA of PEFT's own, saved by diffusers."""
    pipe = tiny_base.build()
    torch.manual_seed(5)
    pipe.unet.add_adapter(LoraConfig(target_modules=list(targets), init_lora_weights=False, **config))
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
    )
    return folder / "pytorch_lora_weights.safetensors"


def merged(path: Path) -> Any:
    """The tiny base with a LoRA folded in by diffusers."""
    pipe = tiny_base.build()
    pipe.load_lora_weights(str(path))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe


@pytest.mark.parametrize("targets", [["to_q", "to_v"], ["conv1", "conv_in", "proj_in"]], ids=["linear", "convolutions"])
def test_a_lora_comes_in_without_loss(base: Path, tmp_path: Path, targets: list[str]) -> None:
    """As outer terms, alpha / rank in them; no weight is decomposed for it."""
    path = lora(base, tmp_path / "lora", targets, r=3, lora_alpha=5)
    cache = SpectrumCache(tmp_path / "cache")
    found = extract(str(base), str(path), cache=cache)
    assert not cache.entries()
    weights = dict(base_weights(str(base), ["unet"]).items())
    assert {name for name in weights if name.endswith(tuple(targets))} == set(found.shift) == set(found.shift.outer)
    assert not any(delta.any() for delta in found.shift.values())
    file, adapter = read_lora(path, {name: tuple(weight.shape) for name, weight in weights.items()}), tiny_base.build()
    adapter.load_lora_weights(str(path), adapter_name="it")
    for name, terms in found.shift.outer.items():
        assert terms.rank == 3
        assert terms.kernel is None
        change = torch.from_numpy(terms.change())
        exact = adapter.unet.get_submodule(name.removeprefix("unet.")).get_delta_weight("it").detach().double()
        assert float((change - matrix(exact)).norm()) < 1e-6 * float(change.norm()), name
        assert float((change - file[name].double()).norm()) < 1e-6 * float(change.norm()), name
    assert found.total.error == 0
    assert found.total.change == pytest.approx(sum(t.dot(t) for t in found.shift.outer.values()))
    # Read from its file and baked, it is what diffusers merges.
    write_shift(found.shift, tmp_path / "x.safetensors")
    bake(str(base), read_shift(tmp_path / "x.safetensors"), tmp_path / "baked")
    expected = merged(path).unet
    for name, weight in base_weights(str(tmp_path / "baked"), ["unet"]).items():
        assert torch.allclose(weight, expected.get_parameter(f"{name.removeprefix('unet.')}.weight"), atol=1e-6), name


def test_from_shift_to_lora_and_back(base: Path, tmp_path: Path) -> None:
    weights = {n: w for n, w in base_weights(str(base), ["unet"]).items() if w.ndim > 1}
    mixed = plain_base.mixed_shift(weights, 2, 1)
    for layout in ("peft", "kohya"):
        write_lora(mixed, tmp_path / f"{layout}.safetensors", base=str(base), layout=layout)  # type: ignore[arg-type]
        found = extract(str(base), str(tmp_path / f"{layout}.safetensors")).shift
        assert {name: terms.rank for name, terms in found.outer.items()} == {
            n: min(3, *matrix(w).shape) for n, w in weights.items()
        }
        exact = plain_base.shifted(weights, mixed)
        for name, weight in plain_base.shifted(weights, found).items():
            change = exact[name] - weights[name].double()
            assert float((weight - exact[name]).norm()) < 1e-6 * float(change.norm()), name


def test_a_lora_in_another_form(base: Path, tmp_path: Path) -> None:
    """Directions alone are those of the merged model; with terms more is captured, and as it is told."""
    path = lora(base, tmp_path / "lora", r=2, lora_alpha=2)
    merged(path).unet.save_pretrained(tmp_path / "merged")
    diagonal = extract(str(base), str(path), outer=0)
    whole = extract(str(base), str(tmp_path / "merged"))
    assert apart(diagonal.shift, whole.shift) < 1e-4
    assert diagonal.total.error == pytest.approx(whole.total.error, rel=1e-3)
    assert not (diagonal.shift.outer or whole.shift.outer)
    errors = [diagonal.total.error]
    weights = {n: w for n, w in base_weights(str(base), ["unet"]).items() if n in diagonal.shift}
    exact = read_lora(path, {name: tuple(weight.shape) for name, weight in weights.items()})
    for directions, outer in ((4, 0), (0, 1), (4, 1), (0, 2)):
        found = extract(str(base), str(path), directions=directions, outer=outer)
        assert all(not delta[directions:].any() for delta in found.shift.values())
        assert {terms.rank for terms in found.shift.outer.values()} == ({outer} if outer else set())
        made = plain_base.shifted(weights, found.shift)
        missed = sum(float((matrix(made[n] - w.double()) - exact[n]).square().sum()) for n, w in weights.items())
        assert found.total.error == pytest.approx(math.sqrt(missed / found.total.change), abs=1e-6)
        errors.append(found.total.error)
    assert errors[1] > errors[0] > errors[2] > errors[3] > errors[4]
    assert errors[4] < 1e-5


def test_a_model_as_directions_and_terms(base: Path, tmp_path: Path) -> None:
    weights = dict(base_weights(str(base), ["unet"]).items())
    mixed = plain_base.mixed_shift(weights, 2, 1)
    bake(str(base), mixed, tmp_path / "model")
    found = extract(str(base), str(tmp_path / "model"), directions=2, outer=1)
    assert found.total.error < 0.03
    assert found.total.error < extract(str(base), str(tmp_path / "model")).total.error
    norms = [name for name, weight in weights.items() if weight.ndim == 1]
    assert max(np.abs(found.shift[name] - mixed[name]).max() for name in norms) < 1e-6
    assert not set(norms) & set(found.shift.outer)
    narrow = extract(str(base), str(tmp_path / "model"), directions=0, outer=1, separable=True)
    for name, terms in narrow.shift.outer.items():
        assert (terms.kernel is None) == (weights[name].ndim == 2 or weights[name].shape[2:].numel() == 1)
    assert narrow.shift.floats < found.shift.floats


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
    assert told["rest_file"]["error"] < 1e-3
    few = spectra_cli(*given, "--rest", tmp_path / "rest.safetensors", "--rank", 2, "--force")
    assert told["error"] > json.loads(few.out)["rest_file"]["error"] > 0.03
    spectra_cli(*given, "--rest", tmp_path / "rest.safetensors", "--rank", 64, "--force")
    bake(str(base), [NamedShift("x", read_shift(tmp_path / "x.safetensors"))], tmp_path / "baked")
    pipe = load_pipeline(str(tmp_path / "baked"))
    pipe.load_lora_weights(str(tmp_path / "rest.safetensors"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for name in chosen:
        expected = tuned.unet.get_parameter(f"{name}.weight")
        assert torch.allclose(pipe.unet.get_parameter(f"{name}.weight"), expected, atol=1e-5), name


def test_a_lora_of_alpha_zero_and_one_with_an_embedding(base: Path, tmp_path: Path, spectra_cli: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {
        f"{module}.lora_down.weight": torch.randn(4, 32, generator=generator),
        f"{module}.lora_up.weight": torch.randn(32, 4, generator=generator),
    }
    save_file(lora | {f"{module}.alpha": torch.tensor(0.0)}, tmp_path / "zero.safetensors")
    with pytest.raises(MismatchError, match=r"changes no weight \(a LoRA of alpha 0\?\); there is nothing to extract"):
        extract(str(base), str(tmp_path / "zero.safetensors"))
    bundled = {"bundle_emb.fox.clip_l": torch.ones(2, 24), "bundle_emb.fox.string_to_param.*": torch.ones(2, 24)}
    save_file(lora | bundled, tmp_path / "bundle.safetensors")
    save_file(lora, tmp_path / "plain.safetensors")
    found = extract(str(base), str(tmp_path / "bundle.safetensors"))
    (term,) = found.shift.outer.values()
    (plain,) = extract(str(base), str(tmp_path / "plain.safetensors")).shift.outer.values()
    assert np.array_equal(term.change(), plain.change())
    assert found.others == ("bundle_emb.fox",)
    ran = spectra_cli("extract", base, tmp_path / "bundle.safetensors", "-o", tmp_path / "x.safetensors")
    assert "held by no shift: bundle_emb.fox" in ran.err
    ran = spectra_cli("generate", "--base", base, "--shift", tmp_path / "plain.safetensors", "--prompt", "a sun")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "spectra extract makes a shift of a LoRA" in ran.err


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
    assert found["error"] < 1e-5
    assert len(found["layers"]) == len(shift)
    assert apart(read_shift(out), shift) < 1e-5
    again = spectra_cli("extract", base, tmp_path / "model", "-o", out)
    assert (again.code, again.err.count("\n")) == (1, 1)
    shown = spectra_cli("extract", base, tmp_path / "model", "-o", out, "--force")
    assert shown.code == 0
    assert "unet.mid_block" in shown.out
    assert max(map(len, shown.out.splitlines()[:-2])) <= 80
    assert shown.out.splitlines()[-1].startswith("next: spectra generate --base ")
    assert "conv_in.bias" in shown.err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_a_float16_file_the_shift_is_float16(
    base: Path, tmp_path: Path, spectra_cli: Any, dtype: torch.dtype
) -> None:
    """Bfloat16 has a wider range than float16, which float32 keeps."""
    path = lora(base, tmp_path / "lora", ["to_q"], r=2)
    save_file({key: value.to(dtype) for key, value in load_file(path).items()}, tmp_path / "half.safetensors")
    ran = spectra_cli("extract", base, tmp_path / "half.safetensors", "-o", tmp_path / "x.safetensors")
    assert ran.code == 0, ran.err
    assert read_shift(tmp_path / "x.safetensors").precision == ("float16" if dtype == torch.float16 else "float32")
