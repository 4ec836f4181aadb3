"""What a base predicts: as its file is marked, or as its user says; and schedules that go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import original_checkpoint as original
import pytest
import tiny_base as tiny
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import load_file

from spectra.bases.pipeline import find_base, load_pipeline
from spectra.bases.prediction import mark_prediction, marked_prediction, with_prediction
from spectra.errors import BaseError
from spectra.io.safetensors_header import read_header


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return original.original_checkpoint(tiny.build())


@pytest.mark.parametrize(
    ("marks", "metadata", "prediction_type", "expected"),
    [
        ((), {}, "auto", ("epsilon", False, "leading")),
        (("v_pred",), {}, "auto", ("v_prediction", False, "leading")),
        (("v_pred", "ztsnr"), {}, "auto", ("v_prediction", True, "trailing")),
        (("ztsnr",), {}, "auto", ("epsilon", False, "leading")),
        ((), {"modelspec.prediction_type": "v"}, "auto", ("v_prediction", False, "leading")),
        (("ztsnr",), {}, "v_prediction", ("v_prediction", True, "trailing")),
        (("v_pred", "ztsnr"), {}, "epsilon", ("epsilon", False, "leading")),
        ((), {}, "sample", ("sample", False, "leading")),
    ],
)
def test_marks_and_the_user_set_the_schedule(
    plain: dict[str, torch.Tensor],
    marks: tuple[str, ...],
    metadata: dict[str, str],
    prediction_type: str,
    expected: tuple[str, bool, str],
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    path = original.write(tmp_path, plain | {mark: torch.zeros(0) for mark in marks}, tiny_base, **metadata)
    config = load_pipeline(find_base(str(path), prediction_type=prediction_type)).scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr, config.timestep_spacing) == expected


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_a_scheduler_for_v_and_zero_signal(kind: Any) -> None:
    """It leads the v of known latents back to them, from pure noise on."""
    more = {"clip_sample": False} if kind is DDIMScheduler else {}
    given = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, **more)
    scheduler = with_prediction(given, "v_prediction", True)
    assert isinstance(scheduler, DDIMScheduler if kind is PNDMScheduler else kind)
    assert given.config.prediction_type == "epsilon"
    torch.manual_seed(0)
    clean, noise = 3 * torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    scheduler.set_timesteps(20)
    assert int(scheduler.timesteps[0]) == 999
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[int(timestep)].clamp(0, 1)
        seen = scheduler.scale_model_input(latents, timestep)
        noise_in_it = (seen - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        latents = scheduler.step(alpha.sqrt() * noise_in_it - (1 - alpha).sqrt() * clean, timestep, latents).prev_sample
    assert float((latents - clean).norm() / clean.norm()) < 0.05


def test_flow_matching_has_no_choice_of_prediction() -> None:
    with pytest.raises(BaseError, match="FlowMatchEulerDiscreteScheduler has no choice.*--prediction-type"):
        with_prediction(FlowMatchEulerDiscreteScheduler(), "v_prediction")


def test_what_is_said_of_a_copy(plain: dict[str, torch.Tensor], tiny_base: Path, tmp_path: Path) -> None:
    path = original.write(tmp_path, plain, tiny_base, made_by="someone")
    mark_prediction(path, "v_prediction")
    assert marked_prediction(path) == ("v_prediction", False)
    assert read_header(path).metadata == {"made_by": "someone", "modelspec.prediction_type": "v"}
    assert all(torch.equal(value, plain[key]) for key, value in load_file(path).items() if key != "v_pred")
    assert load_pipeline(str(path)).scheduler.config.prediction_type == "v_prediction"
    mark_prediction(path, "epsilon")
    assert marked_prediction(path) == ("epsilon", False)
    assert load_file(path).keys() == plain.keys()
    with pytest.raises(BaseError, match="no mark of a single file says so"):
        mark_prediction(path, "sample")
    folder = tmp_path / "model"
    mark_prediction(folder, "sample")
    assert DDIMScheduler.from_pretrained(folder / "scheduler").config.prediction_type == "sample"
    with pytest.raises(BaseError, match="scheduler_config.json: cannot be read"):
        mark_prediction(tmp_path, "epsilon")
