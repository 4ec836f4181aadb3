"""The guidance that pictures are drawn with where none is given: the pipeline's own, none for a distilled model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_families
import tiny_flux2
import torch
from PIL import Image

from spectra.bases.prediction import with_prediction
from spectra.generation.drawing import Request, draw, guidance_of
from spectra.generation.settings import Sampling
from spectra.training.config import defaults
from spectra.training.data.pictures import Picture
from spectra.training.data.subjects import Subject
from spectra.training.loss import objectives

OWN = {
    "sd": 7.5, "sdxl": 5.0, "sd3": 7.0, "flux-dev": 3.5, "flux-schnell": 0.0, "flux2-dev": 4.0, "flux2-klein": 4.0,
    "qwen-image": 4.0, "z-image": 0.0, "chroma": 5.0,
}  # fmt: skip
"""As the signatures of diffusers' pipelines have it; the tiny Z-Image has Turbo's noise schedule."""


@pytest.mark.parametrize("name", OWN)
def test_a_familys_default_is_its_pipelines(name: str) -> None:
    pipe = tiny_families.build(name)
    assert guidance_of(pipe, None) == OWN[name]
    assert guidance_of(pipe, 2.0) == 2.0


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("qwen-image", "z-image")])
def test_pictures_are_those_of_the_pipeline_told_nothing(name: str) -> None:
    pipe = tiny_families.build(name)
    (drawn,) = draw(pipe, [Request("a sun", 3)], Sampling(2, width=32, height=32))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        (own,) = pipe(prompt=["a sun"], num_inference_steps=2, width=32, height=32, generator=[generator]).images
    assert drawn == own.convert("RGB")


def test_what_is_distilled_tells_itself_by_its_files() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    assert guidance_of(tiny_flux2.build_klein(distilled=True), None) == 1.0
    pipe = tiny_families.build("z-image")
    pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0))
    assert guidance_of(pipe, None) == 5.0


def test_class_pictures_are_drawn_and_kept_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[Any] = []

    def drawn(pipe: Any, key: Any, **_: Any) -> list[Image.Image]:
        keys.append(key)
        return [Image.new("RGB", (32, 32))]

    monkeypatch.setattr(objectives, "prior_pictures", drawn)
    pipe, picture = tiny_families.build("z-image"), Image.new("RGB", (32, 32))
    subject = Subject("sun", (Picture.checked(picture),), ("a vz sun",), "a vz sun", "a sun")
    for given in (None, 3.0):
        config = replace(defaults("tiny"), prior_weight=1.0, prior_guidance=given)
        objectives.build_objectives(pipe, config, [subject], [], 32, "0123")
    assert [key.guidance for key in keys] == [0.0, 3.0]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_guidance_is_rescaled_where_the_noisiest_step_is_noise_alone(name: str) -> None:
    pipe = tiny_families.build(name)
    plain = draw(pipe, [Request("a sun", 3)], Sampling(2, width=32, height=32, guidance=7.5))
    pipe.register_modules(scheduler=with_prediction(pipe.scheduler, "v_prediction", zero_snr=True))
    drawn = [draw(pipe, [Request("a sun", 3)], Sampling(2, width=32, height=32, guidance=g)) for g in (7.5, 1.0)]
    for pictures, guidance, rescale in zip(drawn, (7.5, 1.0), (0.7, 0.0), strict=True):
        generator = torch.Generator().manual_seed(3)
        size = {"num_inference_steps": 2, "width": 32, "height": 32}
        with torch.no_grad():
            own = pipe(
                prompt=["a sun"], guidance_scale=guidance, guidance_rescale=rescale, generator=[generator], **size
            )
        assert pictures == [own.images[0].convert("RGB")]
    assert plain != drawn[0]
