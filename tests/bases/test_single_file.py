"""Checkpoints as they come: scaled fp8, marks of what is predicted, and what a file lacks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import original_checkpoint as original
import pytest
import small_models
import tiny_base as tiny
import tiny_sdxl
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
)
from fp8_checkpoint import scaled_fp8
from PIL import Image
from safetensors.torch import save_file

from spectra.bases.pipeline import find_base, load_pipeline
from spectra.bases.weight_files import base_weights
from spectra.errors import BaseError
from spectra.families import targets

CASES = Path(__file__).parents[3] / "shared" / "cases" / "checkpoints"


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return original.original_checkpoint(tiny.build())


@pytest.mark.parametrize(("scale", "form"), [("scale_weight", "tensor"), ("weight_scale", "row")])
def test_scaled_fp8_is_the_base_that_it_stands_for(
    plain: dict[str, torch.Tensor], scale: str, form: str, tiny_base: Path, tmp_path: Path, spectra_cli: Any
) -> None:
    file, meant = scaled_fp8(plain, original.DENOISER, scale, form)
    if scale == "scale_weight":
        file, meant = {k: v for k, v in file.items() if k in meant or "scale" in k}, meant
    path = original.write(tmp_path, file, tiny_base)
    (tmp_path / "meant").mkdir()
    same = original.write(tmp_path / "meant", meant, tiny_base)
    one, other = load_pipeline(str(path)), load_pipeline(str(same))
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), part
    weights = base_weights(str(path))
    assert all(torch.equal(weights[each.name], each.weight) for each in targets(one, "unet,text-encoder"))
    pictures = []
    for number, base in enumerate((path, same)):
        out = tmp_path / str(number)
        ran = spectra_cli("generate", "--base", base, "--prompt", "a sun", "--steps", 2, "-o", out)
        assert ran.code == 0, ran.err
        pictures.append(np.array(Image.open(next(out.glob("0000*.png")))))
    assert np.array_equal(*pictures)
    assert pictures[0].std() > 1


def test_a_scaled_text_encoder(plain: dict[str, torch.Tensor], tiny_base: Path, tmp_path: Path) -> None:
    file, meant = scaled_fp8(plain, "cond_stage_model.transformer.")
    pipe = load_pipeline(str(original.write(tmp_path, file, tiny_base)))
    key = "encoder.layers.1.mlp.fc1.weight"
    found = {name.removeprefix("text_model."): value for name, value in pipe.text_encoder.state_dict().items()}
    assert torch.equal(found[key], meant[f"cond_stage_model.transformer.text_model.{key}"])


def test_a_file_without_text_encoder_or_vae_says_which_folder_to_add(
    plain: dict[str, torch.Tensor], tiny_base: Path, tmp_path: Path, spectra_cli: Any
) -> None:
    only = {key: value for key, value in plain.items() if key.startswith(original.DENOISER)}
    path = original.write(tmp_path, only, tiny_base)
    asked = ["generate", "--base", path, "--prompt", "a sun", "--steps", 1, "-o", tmp_path / "out"]
    ran = spectra_cli(*asked)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert re.search(
        r"has no text_encoder and no vae, .*model has no weights of them: .*--components-from DIR", ran.err
    )
    shutil.rmtree(tmp_path / "model")
    ran = spectra_cli(*asked)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "--components-from DIR" in ran.err
    assert spectra_cli(*asked, "--components-from", tiny_base).code == 0
    pipe, base = load_pipeline(find_base(str(path), str(tiny_base))), load_pipeline(str(tiny_base))
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(pipe, part).state_dict(), getattr(base, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), part


def test_components_are_for_single_files_and_from_diffusers_folders(
    plain: dict[str, torch.Tensor], tiny_base: Path, tmp_path: Path
) -> None:
    path = original.write(tmp_path, plain, tiny_base)
    with pytest.raises(BaseError, match=r"expected a diffusers pipeline folder, which has a model_index.json"):
        find_base(str(path), str(tmp_path))
    with pytest.raises(BaseError, match="for a base that is a single file"):
        find_base(str(tiny_base), str(tiny_base))


def test_a_configuration_of_another_model_is_one_line(plain: dict[str, torch.Tensor], tmp_path: Path) -> None:
    pipe = tiny.build()
    pipe.save_pretrained(tmp_path / "wide")
    config = tmp_path / "wide" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 24', '"cross_attention_dim": 32'))
    path = original.write(tmp_path, plain, tmp_path / "wide")
    with pytest.raises(
        BaseError, match=r"unet.down_blocks.1.\S+ is \[.*24\], where .* expects \[.*32\].*--components-from"
    ):
        load_pipeline(str(path))


def test_sd3_in_a_single_file(tmp_path: Path) -> None:
    tiny_one, clip = tiny.build(), lambda: small_models.text_encoder(16, True)
    pipe = StableDiffusion3Pipeline(
        transformer=small_models.build("sd3")[0],
        vae=tiny_one.vae,
        text_encoder=clip(),
        text_encoder_2=clip(),
        text_encoder_3=small_models.build("t5")[0],
        tokenizer=tiny_one.tokenizer,
        tokenizer_2=tiny_one.tokenizer,
        tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.save_pretrained(tmp_path / "folder")
    state = original.original_sd3(pipe.transformer)
    state |= {
        f"text_encoders.t5xxl.transformer.{key}": value
        for key, value in pipe.text_encoder_3.state_dict().items()
        if key != "encoder.embed_tokens.weight"
    }
    file, _ = scaled_fp8(state, "text_encoders.t5xxl.transformer.")
    save_file(file, tmp_path / "sd3.safetensors")
    found = load_pipeline(find_base(str(tmp_path / "sd3.safetensors"), str(tmp_path / "folder")))
    assert type(found) is type(pipe)
    assert all(
        torch.equal(value, found.transformer.state_dict()[key]) for key, value in pipe.transformer.state_dict().items()
    )
    weights = base_weights(str(tmp_path / "sd3.safetensors"))
    assert all(
        torch.equal(weights[each.name], each.weight) for each in targets(found, "text_encoder_3.*,transformer.*")
    )


def test_sdxl_in_a_single_file(tmp_path: Path) -> None:
    pipe = tiny_sdxl.build()
    pipe.save_pretrained(tmp_path / "folder")
    state = (
        original.original_unet(pipe.unet)
        | original.clip(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        | original.open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    )
    save_file(state, tmp_path / "xl.safetensors")
    found = load_pipeline(find_base(str(tmp_path / "xl.safetensors"), str(tmp_path / "folder")))
    assert type(found) is type(pipe)
    assert found.tokenizer is not None
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = getattr(pipe, part).state_dict(), getattr(found, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part


@pytest.mark.skipif(not CASES.is_dir(), reason="the reported files are not here")
def test_the_reported_files(tmp_path: Path, spectra_cli: Any) -> None:
    folder = CASES / "fp8scaled-config"
    for name, options in (("fp8scaled", []), ("vpredkeys", [])):
        out = tmp_path / name
        ran = spectra_cli(
            "generate", "--base", CASES / f"{name}.safetensors", "--components-from", folder, "--prompt", "a sun",
            "--steps", 3, "-o", out, *options,
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert np.array(Image.open(next(out.glob("0000*.png")))).std() > 1
    location = find_base(str(CASES / "vpredkeys.safetensors"), str(folder))
    assert load_pipeline(location).scheduler.config.prediction_type == "v_prediction"
    plain, tuned = CASES / "extract_fp8" / "plain.safetensors", CASES / "extract_fp8" / "tuned2_fp8.safetensors"
    assert spectra_cli("extract", plain, tuned, "-o", tmp_path / "x.safetensors").code == 0
    ran = spectra_cli("extract", plain, CASES / "rankmismatch.safetensors", "-o", tmp_path / "y.safetensors")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "no common rank" in ran.err
