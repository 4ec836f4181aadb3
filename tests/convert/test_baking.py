"""Baking: the files hold the weights that serving puts in force, and are the base's in everything else."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import original_checkpoint as original
import plain_base
import pytest
import small_models
import tiny_base
import torch
from fp8_checkpoint import scaled_fp8
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.bases.weight_files import base_weights
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.convert.baking import Baked, NamedShift, bake
from spectra.errors import BaseError, InputError, MismatchError, OutputError, RoundedCopyWarning
from spectra.families import targets
from spectra.io.tensor_files import read_rows, stored_tensors
from spectra.shift.metadata import ROUNDED
from spectra.shift.shift import SpectralShift, combine
from spectra.shift.shift_file import write_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

TARGETS = "unet,text-encoder"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    tiny_base.build().save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture(scope="module")
def shifts(base: Path) -> list[NamedShift]:
    """Two that overlap, the second so strong that directions clip."""
    pipe = load_pipeline(str(base))
    return [
        NamedShift("all", small_models.random_shift(pipe, TARGETS, 1), 0.7),
        NamedShift("strong", small_models.random_shift(pipe, "unet-ca", 2, 2.0), -1.2),
    ]


def served(models: Mapping[str, nn.Module], shifts: list[NamedShift]) -> dict[str, nn.Module]:
    """Copies of models, whose weights are what the shifts put in force there."""
    for each in shifts:
        spectra.load(models, each.shift, name=each.name)
    spectra.activate(models, {each.name: each.scale for each in shifts})
    states = {part: {key: value.clone() for key, value in model.state_dict().items()} for part, model in models.items()}
    for part, model in models.items():
        for path, module in model.named_modules():
            if isinstance(module, nn.Embedding):  # shifted as its rows are gathered
                states[part][f"{path}.weight"] = module(torch.arange(module.num_embeddings))
    spectra.unload(models)
    copies = {part: copy.deepcopy(model) for part, model in models.items()}
    for part, model in copies.items():
        model.load_state_dict(states[part])
    return copies


def state_of(models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{part}.{key}": value for part, model in models.items() for key, value in model.state_dict().items()}


def components(pipe: Any) -> dict[str, nn.Module]:
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "vae": pipe.vae}


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for float32's rounding: a served table is shifted row by row, a baked one whole."""
    return torch.allclose(found.float(), expected.float(), rtol=1e-6, atol=5e-7 * float(expected.abs().max()))


def bake_files(path: Path, shifts: list[NamedShift], out: Path, **options: Any) -> Baked:
    done = bake(str(path), shifts, out, **options)
    assert not list(out.parent.glob(".*tmp*"))
    return done


def test_a_folder_draws_as_served(base: Path, shifts: list[NamedShift], tmp_path: Path) -> None:
    done = bake_files(base, shifts, tmp_path / "out")
    assert (done.weights, done.dtypes, done.left_out) == (len(shifts[0].shift), ("float32",), ())
    assert done.rounding == 0
    pipe, baked = load_pipeline(str(base)), load_pipeline(str(tmp_path / "out"))
    expected, found = state_of(served(components(pipe), shifts)), state_of(components(baked))
    assert expected.keys() == found.keys()
    changed = {f"{name}.weight" for name in shifts[0].shift}
    for key, value in found.items():
        assert close(value, expected[key]) if key in changed else torch.equal(value, expected[key]), key

    def names(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*")}

    assert names(tmp_path / "out") == {*names(base), Path(".spectra.json")}
    for path in base.rglob("*.safetensors"):
        other = tmp_path / "out" / path.relative_to(base)
        with safe_open(path, "pt") as before, safe_open(other, "pt") as after:
            assert before.metadata() == after.metadata() == {"format": "pt"}
        assert list(stored_tensors(path)) == list(stored_tensors(other))


@pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 1e-5), (torch.bfloat16, 1e-4)])
def test_rounded_once_to_the_file_s_dtype(
    base: Path, shifts: list[NamedShift], tmp_path: Path, dtype: torch.dtype, least: float
) -> None:
    pipe = tiny_base.build()
    pipe.unet.to(dtype).save_pretrained(tmp_path / "base" / "unet")
    (tmp_path / "base" / "model_index.json").write_text("{}")
    pipe.unet.float()
    chosen = [NamedShift("x", small_models.random_shift({"unet": pipe.unet}, "unet", 3), 1.0)]
    done = bake_files(tmp_path / "base", chosen, tmp_path / "out")
    assert done.dtypes == (str(dtype).removeprefix("torch."),)
    assert least < done.rounding < 100 * least
    expected = state_of(served({"unet": pipe.unet}, chosen))
    for name, weight in base_weights(str(tmp_path / "out"), ["unet"]).items():
        exact = expected[f"{name}.weight"]
        assert weight.dtype == dtype
        # The nearest number of that type, but where float32's own rounding decides between two.
        apart = (weight.float() - exact).abs() / (exact.abs() * torch.finfo(dtype).eps).clamp_min(1e-7)
        assert apart.max() < 0.51, name


def test_a_rounded_copy_of_the_base_takes_the_original_s_singular_vectors(
    base: Path, shifts: list[NamedShift], tmp_path: Path
) -> None:
    pipe = load_pipeline(str(base)).to(dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    with pytest.warns(RoundedCopyWarning, match="with the original's singular vectors"):
        done = bake_files(tmp_path / "half", shifts[:1], tmp_path / "out")
    assert done.dtypes == ("float16",)
    original = load_pipeline(str(base))
    expected = state_of(served(components(original), shifts[:1]))
    found = state_of(components(load_pipeline(str(tmp_path / "out"))))
    for name in shifts[0].shift:
        key = f"{name}.weight"
        error = (found[key].float() - expected[key]).norm() / expected[key].norm()
        assert error < 2**-10, key
    with pytest.warns(RoundedCopyWarning, match="not in use"):
        bake_files(tmp_path / "half", shifts[:1], tmp_path / "else", cache=SpectrumCache(tmp_path / "cache"))


def test_a_variant_alone_is_baked(tmp_path: Path) -> None:
    pipe = tiny_base.build()
    folder = tmp_path / "base"
    pipe.save_pretrained(folder)
    pipe.unet.half().save_pretrained(folder / "unet", variant="fp16")
    (folder / "old.ckpt").write_text("weights")
    chosen = [NamedShift("x", small_models.random_shift({"unet": pipe.unet.float()}, "unet", 3))]
    done = bake_files(folder, chosen, tmp_path / "out", variant="fp16")
    assert done.left_out == ("old.ckpt", "unet/diffusion_pytorch_model.safetensors")
    assert (tmp_path / "out" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert not (tmp_path / "out" / "old.ckpt").exists()


def test_an_original_single_file(shifts: list[NamedShift], tmp_path: Path) -> None:
    pipe = tiny_base.build()
    save_file(original.original_checkpoint(pipe), tmp_path / "v1.safetensors", {"format": "pt"})
    bake_files(tmp_path / "v1.safetensors", shifts, tmp_path / "out.safetensors")
    for part, model in served(components(pipe), shifts).items():
        setattr(pipe, part, model)
    expected, found = original.original_checkpoint(pipe), load_file(tmp_path / "out.safetensors")
    assert list(stored_tensors(tmp_path / "out.safetensors")) == list(stored_tensors(tmp_path / "v1.safetensors"))
    assert all(close(found[key], expected[key]) for key in expected)


def test_moving_averages_in_a_file_get_the_same_change(
    shifts: list[NamedShift], tmp_path: Path, spectra_cli: Any
) -> None:
    pipe = tiny_base.build()
    before = original.original_checkpoint(pipe)
    generator = torch.Generator().manual_seed(5)
    averages = {}
    for key, value in original.original_unet(pipe.unet).items():
        noise = 0 if "middle_block" in key else 0.01 * torch.randn(value.shape, generator=generator)
        averages["model_ema." + key.removeprefix("model.").replace(".", "")] = value + noise
    before |= averages | {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    save_file(before, tmp_path / "v1.safetensors")
    done = bake_files(tmp_path / "v1.safetensors", shifts[:1], tmp_path / "out.safetensors")
    assert done.averages == sum(name.startswith("unet.") for name in shifts[0].shift)
    found = load_file(tmp_path / "out.safetensors")
    changed = 0
    for key in original.original_unet(pipe.unet):
        mean = "model_ema." + key.removeprefix("model.").replace(".", "")
        if "middle_block" in key:
            assert torch.equal(found[mean], found[key]), key
        change = found[key].double() - before[key].double()
        assert torch.allclose(found[mean].double() - before[mean].double(), change, atol=1e-6), key
        changed += bool(change.any())
    assert changed == done.averages
    assert float(found["model_ema.decay"]) == pytest.approx(0.999)
    write_shift(shifts[0].shift, tmp_path / "all.safetensors")
    ran = spectra_cli(
        "bake", tmp_path / "v1.safetensors", "--shift", tmp_path / "all.safetensors", "-o", tmp_path / "2.safetensors"
    )
    assert f"moving averages (model_ema) of {done.averages} of them" in ran.out


@pytest.mark.parametrize("form", ["tensor", "row"])
def test_fp8_with_scales_keeps_its_scales(form: str, tmp_path: Path) -> None:
    """Of joined, split and swapped weights too; what is stored is the nearest to the exact that the scale allows."""
    models = {"transformer": small_models.build("sd3")[0]}
    file, meant = scaled_fp8(original.original_sd3(models["transformer"]), original.DENOISER, form=form)
    save_file(file, tmp_path / "sd3.safetensors")
    weights = base_weights(str(tmp_path / "sd3.safetensors"))
    for target in targets(models, "transformer"):
        with torch.no_grad():
            target.weight.copy_(weights[target.name])
    restored = original.original_sd3(models["transformer"])
    assert all(torch.equal(restored[key], meant[key]) for key in restored)
    shift = small_models.random_shift(models, "transformer", 4)
    done = bake_files(tmp_path / "sd3.safetensors", [NamedShift("x", shift, 0.3)], tmp_path / "out.safetensors")
    assert done.dtypes == ("float32", "float8_e4m3fn")
    assert 0 < done.rounding < 1
    found = load_file(tmp_path / "out.safetensors")
    exact = original.original_sd3(served(models, [NamedShift("x", shift, 0.3)])["transformer"])
    assert found.keys() == file.keys()
    for key, value in file.items():
        module = key.removesuffix(".weight")
        if f"{module}.scale_weight" not in file or key == module:
            assert close(found[key], exact[key]) if key in exact else torch.equal(found[key].float(), value.float()), (
                key
            )
            continue
        scale = file[f"{module}.scale_weight"].reshape(-1, *[1] * (value.ndim - 1))
        wanted = (exact[key] / scale).clamp(-448, 448)
        step = 2.0 ** (wanted.abs().clamp_min(2**-6).log2().floor() - 3)
        assert float(((found[key].float() - wanted).abs() / step).max()) < 0.5 + 1e-4, key


def test_split_swapped_transposed_and_tied_weights(tmp_path: Path) -> None:
    models = {
        "transformer": small_models.build("sd3")[0],
        "text_encoder_2": small_models.text_encoder(16, True),
        "text_encoder_3": small_models.build("t5")[0],
    }

    def state(models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        t5 = models["text_encoder_3"].state_dict()
        return {
            **original.original_sd3(models["transformer"]),
            **original.open_clip(models["text_encoder_2"], "conditioner.embedders.1.model."),
            **{f"text_encoders.t5xxl.transformer.{key}": value.clone() for key, value in t5.items()},
        }

    before = state(models)
    save_file(before, tmp_path / "sd3.safetensors")
    shift = small_models.random_shift(models, "transformer,text_encoder_2.*,text_encoder_3.*", 4)
    bake_files(tmp_path / "sd3.safetensors", [NamedShift("x", shift)], tmp_path / "out.safetensors")
    expected = state(served(models, [NamedShift("x", shift)]))
    found = load_file(tmp_path / "out.safetensors")
    assert all(close(found[key], expected[key]) for key in expected)
    for key in (
        "model.diffusion_model.joint_blocks.1.context_block.attn.qkv.weight",
        "model.diffusion_model.joint_blocks.1.context_block.adaLN_modulation.1.weight",
        "conditioner.embedders.1.model.text_projection",
        "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight",
        "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight",
    ):
        assert not torch.equal(found[key], before[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_directions_terms_and_words_are_folded_in(dtype: torch.dtype, tmp_path: Path) -> None:
    """Of two shifts at their scales, by the definition in float64, rounded once."""
    shapes = plain_base.SHAPES | {"unet.token_embedding": (20, 8)}
    base = {name: weight.to(dtype) for name, weight in plain_base.tensors(shapes).items()}
    path = plain_base.write(tmp_path, base)
    shifts = [
        NamedShift("a", in_dtype(plain_base.mixed_shift(base, 3, 2, ["unet.token_embedding"]), dtype), 0.5),
        NamedShift("b", in_dtype(plain_base.mixed_shift(base, 2, 1, ["unet.token_embedding"], seed=2), dtype), -1.5),
    ]
    done = bake(path, shifts, tmp_path / "out.safetensors", cache=SpectrumCache(tmp_path / "cache"))
    assert done.weights == len(base)
    total = combine([(each.scale, each.shift) for each in shifts])
    made = base_weights(str(tmp_path / "out.safetensors"))
    step = torch.finfo(dtype).eps
    for name, exact in plain_base.shifted(base, total).items():
        stored = made["out" + name.removeprefix("unet")]
        assert stored.dtype == dtype
        assert float((stored.double() - exact).abs().max()) <= 0.51 * step * float(exact.abs().max()) + 1e-6, name


def in_dtype(shift: SpectralShift, dtype: torch.dtype) -> SpectralShift:
    """The shift as one of a base in that dtype."""
    metadata = replace(shift.metadata, base_dtype=str(dtype).removeprefix("torch."))
    return SpectralShift(dict(shift), metadata, outer=shift.outer, words=shift.words)


def test_a_rounded_copy_takes_the_original_s_leading_directions(tmp_path: Path) -> None:
    base = {name: each for name, each in plain_base.tensors().items() if each.ndim > 1}
    shift = plain_base.mixed_shift(base, 3, 1)
    copies = {name: weight.half() for name, weight in base.items()}
    prints = {name: Fingerprints.of(weight).rounded() for name, weight in base.items()}
    rounded = {dtype: {name: digits[dtype] for name, digits in prints.items()} for dtype in ROUNDED}
    shift = SpectralShift(dict(shift), replace(shift.metadata, rounded=rounded), outer=shift.outer)
    path, cache = plain_base.write(tmp_path, copies), SpectrumCache(tmp_path / "cache")
    with pytest.warns(RoundedCopyWarning, match="for 6 of its weights"):
        bake(path, shift, tmp_path / "unknown.safetensors", cache=cache)
    cache.leading(base, 3)
    with pytest.warns(RoundedCopyWarning, match="only the rounding of the weights themselves"):
        bake(path, shift, tmp_path / "known.safetensors", cache=cache)
    made = base_weights(str(tmp_path / "known.safetensors"))
    for name, exact in plain_base.shifted(base, shift).items():
        change = exact - base[name].double()
        found = made["known" + name.removeprefix("unet")].double() - copies[name].double()
        assert float((found - change).norm()) < 2e-3 * float(change.norm()), name
    terms = SpectralShift({name: 0 * delta for name, delta in shift.items()}, shift.metadata, outer=shift.outer)
    with pytest.warns(RoundedCopyWarning, match="only the rounding of the weights themselves"):
        bake(path, terms, tmp_path / "terms.safetensors", cache=SpectrumCache(tmp_path / "empty"))


def test_what_does_not_fit_leaves_nothing(base: Path, shifts: list[NamedShift], tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny_base.build(seed=1).save_pretrained(other)
    with pytest.raises(MismatchError, match=r"trained on another base: \d+ of its \d+ weights differ.*transplant"):
        bake(str(other), shifts, tmp_path / "out")
    with pytest.raises(MismatchError, match="takes 16 floats, the shift has 8"):
        odd = small_models.random_shift(small_models.build("unet")[0], "unet", 1)
        bake(str(base), [NamedShift("odd", odd)], tmp_path / "out")
    with pytest.raises(InputError, match="at least one shift"):
        bake(str(base), [], tmp_path / "out")
    for out in (base, base / "inside", base.parent):
        with pytest.raises(OutputError, match="the base is there"):
            bake(str(base), shifts, out, force=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="holds other files"):
        bake(str(base), shifts, tmp_path / "precious", force=True)
    with pytest.raises(BaseError, match="no component"):
        odd = small_models.random_shift(small_models.build("flux")[0], "transformer", 1)
        bake(str(base), [NamedShift("odd", odd)], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "precious"]
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["thesis.txt"]


def test_the_command(base: Path, shifts: list[NamedShift], tmp_path: Path, spectra_cli: Any) -> None:
    for each in shifts:
        write_shift(each.shift, tmp_path / f"{each.name}.safetensors")
    given = [f"--shift={tmp_path / 'all.safetensors'}:0.7", f"--shift={tmp_path / 'strong.safetensors'}:-1.2"]
    ran = spectra_cli("bake", base, *given, "-o", tmp_path / "out", "--json")
    assert ran.code == 0
    assert ran.err.startswith("warning: all.safetensors + strong.safetensors: cuts off")
    assert ran.err.count("\n") == 1
    found = json.loads(ran.out)
    assert [each["scale"] for each in found["shifts"]] == [0.7, -1.2]
    assert found["weights"] == len(shifts[0].shift)
    again = spectra_cli("bake", base, *given, "-o", tmp_path / "out")
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "--force" in again.err
    forced = spectra_cli("bake", base, *given, "-o", tmp_path / "out", "--force")
    assert forced.code == 0
    assert re.search(r"\d+ weights shifted; stored in float32", forced.out)
    weight = base_weights(str(tmp_path / "out"), ["unet"]).places["unet.conv_in"][0]
    assert not torch.equal(weight.read(), read_rows(base_weights(str(base), ["unet"]).places["unet.conv_in"][0].stored))
