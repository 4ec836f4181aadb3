"""DDIM both ways: the way back leads where it came from, and is the way that diffusers takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_base import build

from spectra.editing import inversion
from spectra.editing.inversion import ddim_sample, ddim_scheduler, invert, slerp
from spectra.errors import BaseError
from spectra.families.known import family_of
from spectra.generation.drawing import Request, draw
from spectra.generation.settings import Sampling
from spectra.training.data.pictures import to_tensor

KINDS = ("epsilon", "v_prediction", "sample")


def prepared(prediction: str) -> tuple[Any, Any, torch.Tensor]:
    """A pipe with a DDIM scheduler, its family, and latents of two pictures."""
    pipe = build(prediction=prediction)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.eval().requires_grad_(False)
    pipe.register_modules(scheduler=ddim_scheduler(pipe.scheduler))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe, family_of(pipe), latents


@pytest.mark.parametrize("prediction", KINDS)
def test_the_way_back_leads_to_the_picture(prediction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, family, latents = prepared(prediction)
    condition = family.encode(pipe, ["a disc", "a v"])

    def error(steps: int) -> float:
        noise = invert(pipe, family, latents, condition, steps)
        back = ddim_sample(pipe, family, noise, condition, steps)
        return float((back - latents).norm() / latents.norm())

    whole = error(20)
    assert whole < 0.01
    monkeypatch.setattr(inversion, "EVALUATIONS", 1)  # plain DDIM inversion
    assert error(20) > 3 * whole


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("steps", [7, 10])
def test_it_is_the_way_that_pictures_are_drawn(prediction: str, steps: int) -> None:
    pipe, family, noise = prepared(prediction)
    prompts = ["a disc", "a v"]
    back = ddim_sample(pipe, family, noise, family.encode(pipe, prompts), steps)
    drawn = draw(pipe, [Request(prompt, 0) for prompt in prompts], Sampling(steps, 1.0, 32, 32), start=noise)
    mine = np.stack([np.asarray(picture, int) for picture in family_of(pipe).decode_latents(pipe, back)])
    assert np.abs(mine - np.stack([np.asarray(picture, int) for picture in drawn])).max() <= 1


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    pipe, family, latents = prepared("epsilon")
    latents = latents * torch.tensor([0.1, 3.0]).view(2, 1, 1, 1)  # one settles sooner
    together = invert(pipe, family, latents, family.encode(pipe, ["a disc", "a v"]), 5)
    alone = invert(pipe, family, latents[:1], family.encode(pipe, ["a disc"]), 5)
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_a_schedule_that_ends_without_signal_can_be_inverted() -> None:
    from diffusers import DDIMScheduler

    pipe, family, latents = prepared("v_prediction")
    pipe.register_modules(
        scheduler=ddim_scheduler(DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True,
                                     timestep_spacing="trailing"))
    )  # fmt: skip
    assert pipe.scheduler.alphas_cumprod[-1] < 1e-6
    condition = family.encode(pipe, ["a disc", "a v"])
    noise = invert(pipe, family, latents, condition, 10)
    back = ddim_sample(pipe, family, noise, condition, 10)
    assert (back - latents).norm() / latents.norm() < 0.02


def test_an_unknown_prediction_is_refused() -> None:
    pipe = build()
    pipe.scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(BaseError, match="prediction type 'flow' is not known"):
        ddim_scheduler(pipe.scheduler)


def test_latents_come_back_as_a_picture_of_the_same_size() -> None:
    pipe = build()
    picture = Image.new("RGB", (32, 32), "teal")
    with torch.no_grad():
        latents, _ = family_of(pipe).encode_pictures(pipe, to_tensor([picture]))
    (seen,) = family_of(pipe).decode_latents(pipe, latents)
    assert (seen.mode, seen.size) == ("RGB", (32, 32))


@given(st.floats(0, 1), st.integers(0, 5))
def test_slerp(amount: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, 3, 2, 4, 4, generator=generator).unbind()
    mixed = slerp(amount, one, other)
    assert torch.equal(slerp(0, one, other), one)
    torch.testing.assert_close(slerp(1, one, other), other)
    lengths = torch.stack([each.flatten(1).norm(dim=1) for each in (one, other)])
    norm = mixed.flatten(1).norm(dim=1)
    # On the arc: noise stays as long as noise is, where a straight line would cut across.
    assert (norm > 0.9 * lengths.amin(0)).all()
    assert (norm < 1.1 * lengths.amax(0)).all()
    torch.testing.assert_close(slerp(amount, one, one), one)
