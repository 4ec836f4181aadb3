"""Bases for other tasks: the text-to-image base that they contain, or one line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_base as tiny
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline
from PIL import Image

from spectra.bases.pipeline import load_pipeline
from spectra.bases.text_to_image import plain_kind


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_a_base_for_another_task_serves_as_the_text_to_image_base_in_it(
    kind: str, tiny_base: Path, tmp_path: Path, spectra_cli: Any
) -> None:
    import diffusers

    pipe = tiny.build()
    getattr(diffusers, kind)(**pipe.components, requires_safety_checker=False).save_pretrained(tmp_path / "base")
    found = load_pipeline(str(tmp_path / "base"))
    assert type(found) is StableDiffusionPipeline
    assert found.config.requires_safety_checker is False
    asked = ["--prompt", "a sun", "--steps", 2, "-o"]
    for base, out in ((tmp_path / "base", "one"), (tiny_base, "other")):
        assert spectra_cli("generate", "--base", base, *asked, tmp_path / out).code == 0
    pictures = [np.array(Image.open(next((tmp_path / name).glob("0000*.png")))) for name in ("one", "other")]
    assert np.array_equal(*pictures)


def test_an_inpainting_or_editing_model_is_refused_in_one_line(tmp_path: Path, spectra_cli: Any) -> None:
    pipe, photos = tiny.build(), tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (32, 32)).save(photos / "a.png")
    for channels, kind in ((9, StableDiffusionInpaintPipeline), (8, StableDiffusionInstructPix2PixPipeline)):
        unet = type(pipe.unet).from_config(pipe.unet.config, in_channels=channels)
        parts = {**pipe.components, "unet": unet}
        folder = tmp_path / str(channels)
        kind(**parts, requires_safety_checker=False).save_pretrained(folder)
        for command in (
            ["generate", "--prompt", "a sun", "-o"],
            ["train", "--images", photos, "--prompt", "a v sun", "--prior-weight", 0, "-o"],
        ):
            ran = spectra_cli(command[0], "--base", folder, *command[1:], tmp_path / "out")
            assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
            assert f"its model takes {channels} channels where latents have 4" in ran.err


def test_editing_pipelines_have_the_names_of_what_they_contain() -> None:
    import diffusers

    for kind, plain in (
        ("StableDiffusionXLInpaintPipeline", "StableDiffusionXLPipeline"),
        ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3Pipeline"),
        ("FluxImg2ImgPipeline", "FluxPipeline"),
        ("QwenImageEditPlusPipeline", "QwenImagePipeline"),
        ("ZImageImg2ImgPipeline", "ZImagePipeline"),
    ):
        assert plain_kind(kind) is getattr(diffusers, plain)
        wanted = set(inspect.signature(getattr(diffusers, plain).__init__).parameters)
        assert wanted <= set(inspect.signature(getattr(diffusers, kind).__init__).parameters), kind
    for kind in ("StableDiffusionPipeline", "FluxKontextPipeline", "StableDiffusionXLPipeline"):
        assert plain_kind(kind) is getattr(diffusers, kind)
