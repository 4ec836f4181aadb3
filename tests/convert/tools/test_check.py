"""What is told of each tool is what it does: diffusers and PEFT run, the others follow their rules on real modules."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import plain_base
import pytest
import small_models
import tiny_base
import tiny_families
import tiny_sdxl
import tools_by_rule
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectra.bases.pipeline import load_pipeline
from spectra.convert.extraction import extract
from spectra.convert.full_difference import write_difference
from spectra.convert.lora.peft_folder import write_peft_folder
from spectra.convert.lora.writing import write_lora
from spectra.convert.tools.check import TOOLS, Checked, Tool, check_export
from spectra.errors import FormatError
from spectra.families import targets
from spectra.naming.target_subsets import weight_name
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import write_shift
from spectra.spectrum.spectrum import matrix

Cli = Callable[..., Any]


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tiny pipelines with two residual blocks to a level, as the published ones have and A1111 expects."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    pipe = tiny_base.build() if request.param == "sd" else tiny_sdxl.build()
    config = dict(pipe.unet.config) | {"layers_per_block": 2}
    if request.param == "sd":
        config |= {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
        config |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    pipe.unet = UNet2DConditionModel.from_config(config)
    folder = tmp_path_factory.mktemp(request.param)
    pipe.save_pretrained(folder)
    return str(folder)


def weights(pipe: Any) -> dict[str, Tensor]:
    return {each.name: each.weight.detach().double().clone() for each in targets(pipe, "unet,text-encoder")}


def shift_of(base: str, *, words: bool = True) -> SpectralShift:
    own = weights(load_pipeline(base))
    tables = [name for name in own if words and name.endswith("token_embedding")]
    return plain_base.mixed_shift({name: weight.float() for name, weight in own.items()}, 2, 1, tables)


def written(shift: SpectralShift, base: str, layout: str, folder: Path) -> Path:
    file = folder / f"{layout}.safetensors"
    if layout == "difference":
        write_difference(shift, file, base=base)
    else:
        write_lora(shift, file, base=base, layout=layout)  # type: ignore[arg-type]
    return file


def changes(base: str, shift: SpectralShift) -> dict[str, Tensor]:
    own = weights(load_pipeline(base))
    there = plain_base.shifted({name: weight.float() for name, weight in own.items()}, shift)
    return {name: there[name] - weight for name, weight in own.items()}


def error(exact: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    total = sum(float(each.square().sum()) for each in exact.values())
    off = sum(
        float((matrix_or_vector(found[name].double()) - matrix_or_vector(each)).square().sum())
        if name in found
        else float(each.square().sum())
        for name, each in exact.items()
    )
    return math.sqrt(off / total)


def matrix_or_vector(each: Tensor) -> Tensor:
    return each if each.ndim == 1 else matrix(each)


def one(path: Path, tool: Tool, base: str, shift: SpectralShift | None = None) -> Checked:
    (found,) = check_export(path, [tool], base=base, shift=shift)
    return found


@pytest.mark.parametrize("layout", ["peft", "kohya", "difference"])
def test_tools_that_go_by_rules(base: str, layout: str, tmp_path: Path) -> None:
    shift = shift_of(base)
    file = written(shift, base, layout, tmp_path)
    tensors, pipe, exact = load_file(file), load_pipeline(base), changes(base, shift)
    for tool in tools_by_rule.TOOLS:
        expected = tools_by_rule.TOOLS[tool](tensors, pipe)
        found = one(file, tool, base, shift)  # type: ignore[arg-type]
        assert found.weights == len(expected), tool
        assert not found.wrong, tool
        assert found.error == pytest.approx(error(exact, expected), rel=1e-4, abs=1e-6), tool
        assert found.loaded + sum(each.keys for each in found.ignored) == found.keys == len(tensors), tool
        lost = sum(each.error**2 for each in found.ignored)
        assert found.error == pytest.approx(math.sqrt(lost), abs=1e-5), tool
    told = {tool: one(file, tool, base, shift) for tool in ("lycoris", "comfyui", "a1111")}  # type: ignore[arg-type]
    if layout == "difference":
        assert told["comfyui"].error < 1e-6  # norms and the special word's table included
        assert told["a1111"].weights == len(exact) - len([n for n in exact if n.endswith(A1111_HAS_NOT)])
        assert told["lycoris"].weights == len(exact) - len([n for n in exact if n.endswith("_embedding")])
    if layout == "kohya":
        inside = {name for name in exact if exact[name].ndim > 1 and not name.endswith(A1111_HAS_NOT)}
        assert {each.weights for each in told.values()} == {len(inside)}


A1111_HAS_NOT = ("_embedding", "text_projection")
"""Tables, and what is a bare parameter of OpenCLIP's."""


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_diffusers(base: str, layout: str, tmp_path: Path) -> None:
    shift = shift_of(base)
    file = written(shift, base, layout, tmp_path)
    pipe = load_pipeline(base)
    before, exact = weights(pipe), changes(base, shift)
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=[part for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)])
    pipe.unload_lora_weights()
    after = weights(pipe)
    changed = {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}
    found = one(file, "diffusers", base, shift)
    assert found.weights == len(changed)
    assert (found.loaded, found.wrong) == (len(load_file(file)), ())
    assert found.error == pytest.approx(error(exact, changed), rel=1e-4)
    assert one(file, "diffusers", base).error < 1e-6  # of what the file means nothing is lost
    assert "folder with adapter_config.json" in one(file, "peft", base).refusal


@pytest.mark.parametrize(
    ("name", "layout"),
    [("sd3", "peft"), ("flux-dev", "peft"), ("flux2-klein", "kohya"), ("qwen-image", "kohya"), ("z-image", "kohya")],
)
def test_diffusers_on_transformers(name: str, layout: str, tmp_path: Path) -> None:
    """What it passes over of kohya's layout is told too."""
    pipe = tiny_families.build(name)
    pipe.save_pretrained(tmp_path / "base")
    own = {each.name: each.weight.detach().clone() for each in targets(pipe, "transformer")}
    shift = plain_base.mixed_shift(own, 2, 1)
    there = plain_base.shifted(own, shift)
    exact = {key: there[key] - weight.double() for key, weight in own.items()}
    file = written(shift, str(tmp_path / "base"), layout, tmp_path)
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
    after = {each.name: each.weight.detach() for each in targets(pipe, "transformer")}
    changed = {key: after[key].double() - own[key].double() for key in own if not torch.equal(after[key], own[key])}
    found = one(file, "diffusers", str(tmp_path / "base"), shift)
    assert found.weights == len(changed)
    assert found.error == pytest.approx(error(exact, changed), rel=1e-4)
    assert (found.loaded < found.keys) == (name in ("flux2-klein", "z-image"))


def test_peft(base: str, tmp_path: Path) -> None:
    shift = shift_of(base)
    done = write_peft_folder(shift, tmp_path / "peft", base=base)
    pipe, exact = load_pipeline(base), changes(base, shift)
    before, changed = weights(pipe), {}
    for component, model in tools_by_rule.parts(pipe):
        wrapped = peft.PeftModel.from_pretrained(model, str(tmp_path / "peft" / component))
        parameters = wrapped.merge_and_unload().named_parameters()
        after = {weight_name(component, path.removesuffix(".weight")): each for path, each in parameters}
        for name, weight in before.items():
            if name.startswith(f"{component}."):
                delta = after[name].detach().double() - weight
                changed |= {name: delta} if delta.any() else {}
    assert set(changed) == set(done.ranks)
    found = one(tmp_path / "peft", "peft", base, shift)
    assert found.weights == len(changed)
    assert found.loaded == found.keys == 2 * len(changed)
    assert found.error == pytest.approx(error(exact, changed), rel=1e-4)
    for component, _ in tools_by_rule.parts(pipe):  # and back: a folder's name tells which of two encoders it is for
        back = extract(base, str(tmp_path / "peft" / component)).shift
        assert set(back) == {name for name in changed if name.startswith(f"{component}.")}


@pytest.mark.parametrize("layout", ["kohya", "difference"])
def test_files_say_which_base_they_are_for(base: str, layout: str, tmp_path: Path) -> None:
    """A1111 shows a file that does not say that it is for SDXL with Stable Diffusion 1 alone."""
    with safe_open(written(shift_of(base), base, layout, tmp_path), "pt") as file:
        told = file.metadata()
    version = "sdxl_base_v1-0" if Path(base, "text_encoder_2").exists() else "sd_v1"
    assert told["ss_base_model_version"] == version
    assert told.get("ss_v2") == (None if version.startswith("sdxl_") else "False")


def test_what_kohyas_scripts_pass_over_is_told_when_it_is_written(base: str, tmp_path: Path) -> None:
    shift, exact = shift_of(base), changes(base, shift_of(base))
    done = write_lora(shift, tmp_path / "k.safetensors", base=base, layout="kohya")
    (unread,) = done.unread
    outside = ("conv_in", "conv_out", "linear_1", "linear_2")
    names = [name for name in done.ranks if name.endswith(outside)]
    assert unread.weights == len(names)
    total = sum(float(each.square().sum()) for each in exact.values())
    lost = sum(float(exact[name].square().sum()) for name in names)
    assert unread.error == pytest.approx(math.sqrt(lost / total), rel=1e-4)
    found = one(tmp_path / "k.safetensors", "kohya", base, shift)
    assert max(each.error for each in found.ignored if each.keys) == pytest.approx(unread.error, rel=1e-4)
    assert not write_lora(shift, tmp_path / "p.safetensors", base=base).unread


def test_some_matrices_of_a_text_encoders_attention(base: str, tmp_path: Path) -> None:
    """The others stand in kohya's layout as pairs of nothing, without which diffusers and A1111 would pass over it."""
    pipe = load_pipeline(base)
    own = {name: weight.float() for name, weight in weights(pipe).items() if name.endswith(("attn.q_proj", "to_q"))}
    shift = plain_base.mixed_shift(own, 2, 1)
    done = write_lora(shift, tmp_path / "k.safetensors", base=base, layout="kohya")
    assert set(done.ranks) == set(own)
    for each in check_export(tmp_path / "k.safetensors", ["diffusers", "a1111", "kohya"], base=base, shift=shift):
        assert (each.loaded, each.wrong) == (each.keys, ()), each.tool
        assert each.error < 1e-6, each.tool
    pipe.load_lora_weights(tmp_path / "k.safetensors")
    parts = [part for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)]
    layers = [m for part in parts for m in getattr(pipe, part).modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    moved = [each for each in layers if each.get_delta_weight(each.active_adapters[0]).any()]
    assert len(moved) == len(own)


def test_what_stops_a_tool_or_is_read_wrongly(tmp_path: Path) -> None:
    tiny_base.build().save_pretrained(tmp_path / "base")
    base, generator = str(tmp_path / "base"), torch.Generator().manual_seed(0)
    table = torch.randn(64, 24, generator=generator)
    norm = torch.randn(16, generator=generator)
    q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {
        f"{q}.lora_down.weight": torch.randn(4, 32, generator=generator),
        f"{q}.lora_up.weight": torch.randn(32, 4, generator=generator),
    }
    files = {
        "table": {"lora_te_text_model_embeddings_token_embedding.diff": table},
        "norm": {"lora_unet_down_blocks_0_resnets_0_norm1.w_norm": norm},
        "alpha": lora,
        "zero": lora | {f"{q}.alpha": torch.tensor(0.0)},
    }
    for name, tensors in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    told = {name: check_export(tmp_path / f"{name}.safetensors", base=base) for name in files}
    found = {name: {each.tool: each for each in some} for name, some in told.items()}
    assert "cannot make an adapter" in found["table"]["lycoris"].refusal
    assert found["table"]["lycoris"].error == 1
    assert (found["table"]["a1111"].refusal, found["table"]["a1111"].weights) == ("", 0)
    assert "knows the module and no such change" in found["norm"]["a1111"].refusal
    assert not found["norm"]["comfyui"].refusal
    assert found["norm"]["comfyui"].error == 0
    assert "no LoRA without an alpha" in found["alpha"]["lycoris"].refusal
    assert found["alpha"]["kohya"].error == 0
    assert found["zero"]["kohya"].wrong  # an alpha of zero is the rank there, and nothing elsewhere
    assert found["zero"]["comfyui"].wrong == ()
    with pytest.raises(FormatError, match=r"no adapter_model.safetensors"):
        check_export(tmp_path, base=base)


def test_the_last_modulation_of_sd3_in_comfyui(tmp_path: Path) -> None:
    """By diffusers' names it takes scale and shift the wrong way round; kohya's layout has them as it does."""
    model, _ = small_models.build("sd3")
    own = {each.name: each.weight.detach() for each in targets(model, "transformer")}
    file = tmp_path / "transformer.safetensors"
    save_file({f"{n.removeprefix('transformer.')}.weight": w.contiguous() for n, w in own.items()}, file)
    shift = plain_base.mixed_shift(own, 2, 1)
    name = "transformer.transformer_blocks.1.norm1_context.linear"
    for layout in ("peft", "kohya"):
        lora = written(shift, str(file), layout, tmp_path)
        found = one(lora, "comfyui", str(file))
        assert found.wrong == ((name,) if layout == "peft" else ())
        assert (found.error > 0.01) == (layout == "peft")


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_transformers_by_kohyas_names(kind: str, tmp_path: Path) -> None:
    model, _ = small_models.build(kind)
    own = {each.name: each.weight.detach() for each in targets(model, "transformer")}
    file = tmp_path / "transformer.safetensors"
    save_file({f"{n.removeprefix('transformer.')}.weight": w.contiguous() for n, w in own.items()}, file)
    shift = plain_base.mixed_shift(own, 2, 1)
    lora, difference = (written(shift, str(file), layout, tmp_path) for layout in ("kohya", "difference"))
    matrices = [name for name, weight in own.items() if weight.ndim > 1]
    last = [name for name in matrices if name.endswith((".norm_out.linear", "transformer.proj_out"))]
    told = {each.tool: each for each in check_export(lora, base=str(file), shift=shift)}
    assert told["comfyui"].weights == told["lycoris"].weights == len(matrices)
    assert told["kohya"].weights == len(matrices) - (len(last) if kind == "flux" else 0)
    assert not told["comfyui"].wrong + told["kohya"].wrong + told["lycoris"].wrong
    assert "not flux" in told["a1111"].refusal or kind == "sd3"
    (whole,) = check_export(difference, ["comfyui"], base=str(file), shift=shift)
    assert (whole.weights, whole.loaded) == (len(own), whole.keys)
    assert whole.error < 1e-6


def test_the_command(base: str, tmp_path: Path, spectra_cli: Cli) -> None:
    shift = shift_of(base, words=False)
    write_shift(shift, tmp_path / "s.safetensors")
    out = tmp_path / "k.safetensors"
    given = ["convert", tmp_path / "s.safetensors", "--base", base, "--to", "kohya", "-o", out]
    ran = spectra_cli(*given, "--check", "kohya", "--check", "comfyui")
    assert ran.code == 0, ran.err
    assert "outside what kohya's scripts have a LoRA for" in " ".join(ran.out.split())
    assert max(len(line) for line in ran.out.splitlines() if not line.startswith("next:")) <= 80
    ran = spectra_cli("convert", out, tmp_path / "s.safetensors", "--base", base, "--check", "all", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["check"]
    assert [each["tool"] for each in found] == list(TOOLS)
    shown = spectra_cli("convert", out, "--base", base, "--check", "comfyui")
    assert "against what the file means" in shown.out
    assert "0 %" in shown.out
    wrong = spectra_cli(*given, "--force", "--to", "embedding", "--check", "kohya")
    assert (wrong.code, "--check" in wrong.err) == (2, True)
    assert spectra_cli(*given[:-2]).code == 2
