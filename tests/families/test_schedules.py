"""Times of flow matching: drawn as they are said to be, and moved as the scheduler moves them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from spectra.errors import BaseError
from spectra.families.noise_schedule import FlowSchedule, dynamic_shift

SCHEDULERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "SD3": {"shift": 3.0},
    "FLUX.1": {"shift": 3.0, "use_dynamic_shifting": True},
    "Qwen-Image": {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192},
    "linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
}


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_draws_are_logit_normal_and_moved_as_the_scheduler_moves_its_steps(name: str, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULERS[name])
    schedule = FlowSchedule.of(scheduler, tokens)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([schedule.draw(generator) for _ in range(2000)]).double()
    generator.manual_seed(0)
    plain = torch.stack([torch.randn((), generator=generator).sigmoid() for _ in range(2000)])
    config = scheduler.config
    mu = calculate_shift(
        tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )
    scheduler.set_timesteps(sigmas=plain.tolist(), mu=mu if config.use_dynamic_shifting else None)
    torch.testing.assert_close(drawn, scheduler.timesteps.double(), rtol=1e-5, atol=1e-4)
    logits = (drawn / 1000).logit()
    assert float(logits.mean()) == pytest.approx(math.log(schedule.odds), abs=0.1)
    assert float(logits.std()) == pytest.approx(1, abs=0.05)


def test_times_are_drawn_as_asked_for() -> None:
    def drawn(how: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        schedule = FlowSchedule(3.0).sampled(how)
        return torch.stack([schedule.draw(generator) for _ in range(3000)]) / 1000

    assert torch.equal(drawn("auto"), drawn("shift"))
    logits = {how: drawn(how).logit() for how in ("shift", "sigmoid")}
    torch.testing.assert_close(logits["shift"], logits["sigmoid"] + math.log(3), rtol=1e-3, atol=1e-3)
    assert float(logits["sigmoid"].mean()) == pytest.approx(0, abs=0.06)
    even = drawn("uniform")
    assert float(even.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(even.std()) == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize("how", ["shift", "sigmoid", "uniform"])
def test_a_share_of_all_times_lies_below_its_quantile(how: str) -> None:
    schedule, shares = FlowSchedule(3.0).sampled(how), torch.tensor([0.1, 0.5, 0.9])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([schedule.draw(generator) for _ in range(4000)])
    below = (drawn[:, None] < schedule.at(shares)).double().mean(0)
    torch.testing.assert_close(below, shares.double(), rtol=0, atol=0.02)


def test_the_shift_by_resolution_is_the_pipelines_own() -> None:
    config = FlowMatchEulerDiscreteScheduler().config
    for tokens in (16, 256, 1024, 4096, 16384):
        assert dynamic_shift(config, tokens) == pytest.approx(calculate_shift(tokens))


def test_samples_are_the_scheduler_s_own() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = FlowSchedule.of(scheduler)
    latents, noise = torch.randn(2, 3, 4, 4, 4)
    times = scheduler.timesteps[[5, 500, 999]]
    noisy, target = schedule.noisy_and_target(latents, noise, times)
    torch.testing.assert_close(noisy, scheduler.scale_noise(latents, times, noise))
    torch.testing.assert_close(target, noise - latents)
    assert schedule.weights(times).tolist() == [1, 1, 1]


def test_a_flow_scheduler_of_another_kind_is_known_and_others_are_refused() -> None:
    flow = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    assert FlowSchedule.of(flow) == FlowSchedule(3.0)
    with pytest.raises(BaseError, match="DDIMScheduler is none of flow matching"):
        FlowSchedule.of(DDIMScheduler())
