from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spectra.errors import BaseError
from spectra.families.attention import Word
from spectra.families.noise_schedule import DiffusionSchedule
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.loss.terms import ModelPrediction, NoisySamples


class FixedSource:
    """Five pictures whose latents are their number."""

    latent_shape = (2, 3, 3)

    def shape(self, entry: int) -> tuple[int, int, int]:
        return self.latent_shape

    def pick(self, remaining: list[int], generator: torch.Generator, beside: int | None = None) -> int:
        if not remaining:
            remaining[:] = torch.randperm(5, generator=generator).tolist()
        return remaining.pop()

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        return index.view(-1, 1, 1, 1) + 0.01 * noise

    def masks(self, index: Tensor) -> None:
        return None

    def prompts(self, index: Tensor) -> list[str]:
        return [f"picture {number}" for number in index.tolist()]

    def every_prompt(self) -> list[str]:
        return self.prompts(torch.arange(5))

    def words(self, index: Tensor) -> list[Word]:
        return []


def schedule(prediction: str = "epsilon", gamma: float = 0.0) -> DiffusionSchedule:
    return DiffusionSchedule(torch.linspace(0.99, 0.0, 100, dtype=torch.float64), prediction, gamma)


def test_targets_follow_the_scheduler_s_prediction_type() -> None:
    from diffusers import DDPMScheduler

    z, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    steps = torch.tensor([0, 500, 999])
    for kind in ("epsilon", "v_prediction", "sample"):
        scheduler = DDPMScheduler(prediction_type=kind)
        noisy, target = DiffusionSchedule.of(scheduler).noisy_and_target(z, noise, steps)
        expected = {"epsilon": noise, "sample": z, "v_prediction": scheduler.get_velocity(z, noise, steps)}[kind]
        torch.testing.assert_close(noisy, scheduler.add_noise(z, noise, steps))
        torch.testing.assert_close(target, expected)


def test_an_unknown_prediction_type_is_refused() -> None:
    from diffusers import DDPMScheduler

    with pytest.raises(BaseError, match="'flow' is not known"):
        DiffusionSchedule.of(DDPMScheduler(prediction_type="flow"))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_equal_the_clipped_loss_in_sample_space(kind: str) -> None:
    """The method weighs the error of z itself by min(snr, gamma); each kind's error is that error, rescaled."""
    steps = torch.arange(1, 99)
    alpha = schedule().alphas_cumprod[steps]
    snr = alpha / (1 - alpha)
    # ||eps error||^2 = snr ||z error||^2, ||v error||^2 = (snr + 1) ||z error||^2
    rescale = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]
    weights = schedule(kind, 5.0).weights(steps).double()
    torch.testing.assert_close(weights * rescale, snr.clamp_max(5.0), rtol=1e-6, atol=1e-8)


def test_weights_are_finite_without_any_signal_and_one_without_a_clip() -> None:
    last = torch.tensor([99])
    assert schedule("epsilon", 5.0).weights(last).tolist() == [1.0]
    assert schedule("v_prediction", 5.0).weights(last).tolist() == [0.0]
    assert schedule("epsilon", 0.0).weights(last).tolist() == [1.0]


def test_a_draw_is_the_same_however_it_is_cut() -> None:
    (whole,) = DenoisingObjective("d", FixedSource(), schedule()).draw(8, 8, torch.Generator().manual_seed(3))
    for size in (1, 2, 3):
        pieces = DenoisingObjective("d", FixedSource(), schedule()).draw(8, size, torch.Generator().manual_seed(3))
        assert [len(piece.index) for piece in pieces] == [size] * (8 // size) + [8 % size] * (8 % size > 0)
        for name in ("index", "posterior", "noise", "timesteps"):
            assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name))


def test_an_offset_moves_each_channel_of_the_noise_as_a_whole() -> None:
    """The same draw with and without it differs by one number for each sample and channel, of the offset's spread."""
    draws = {}
    for offset in (0.0, 0.5):
        objective = DenoisingObjective("d", FixedSource(), schedule(), noise_offset=offset)
        draws[offset] = [objective.draw(1, 1, torch.Generator().manual_seed(n))[0] for n in range(500)]
    offsets = torch.cat([b.noise - a.noise for a, b in zip(draws[0.0], draws[0.5], strict=True)])
    torch.testing.assert_close(offsets, offsets[..., :1, :1].expand_as(offsets))
    assert float(offsets[..., 0, 0].std()) == pytest.approx(0.5, abs=0.05)
    assert float(offsets[..., 0, 0].mean()) == pytest.approx(0, abs=0.05)


def test_times_are_drawn_as_asked_for() -> None:
    def drawn(how: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.stack([schedule().sampled(how).draw(generator) for _ in range(3000)])

    assert torch.equal(drawn("auto"), drawn("uniform"))
    assert torch.bincount(drawn("uniform"), minlength=100).min() > 0
    middle = drawn("sigmoid")
    logits = ((middle + 0.5) / 100).logit()
    assert float(logits.mean()) == pytest.approx(0, abs=0.06)
    assert float(logits.std()) == pytest.approx(1, abs=0.06)
    with pytest.raises(BaseError, match='"shift" is for flow matching'):
        schedule().sampled("shift")


def test_the_times_of_a_step_are_spread_where_they_are_stratified() -> None:
    times = schedule()
    generator = torch.Generator().manual_seed(0)
    plain, even = (DenoisingObjective("d", FixedSource(), times, stratified=spread) for spread in (False, True))
    steps = torch.stack([torch.cat([each.timesteps for each in even.draw(4, 2, generator)]) for _ in range(2000)])
    ends = times.at(torch.tensor([0.25, 0.5, 0.75]))
    parts = torch.bucketize(steps.sort(1).values, ends, right=True)
    assert parts.tolist() == [[0, 1, 2, 3]] * 2000
    assert len({tuple(step) for step in torch.bucketize(steps, ends, right=True).tolist()}) == 24, "in any order"
    alike = torch.cat([plain.draw(4, 4, generator)[0].timesteps for _ in range(2000)]).double()
    assert float(steps.double().mean()) == pytest.approx(float(alike.mean()), abs=1)
    assert float(steps.double().std()) == pytest.approx(float(alike.std()), abs=1)


def test_every_picture_comes_once_in_a_round() -> None:
    objective = DenoisingObjective("d", FixedSource(), schedule())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([objective.draw(2, 2, generator)[0].index for _ in range(5)])
    assert sorted(drawn[:5].tolist()) == sorted(drawn[5:].tolist()) == list(range(5))
    assert drawn[:5].tolist() != drawn[5:].tolist()


def test_the_term_is_the_weighted_mean_square() -> None:
    objective = DenoisingObjective("d", FixedSource(), schedule())
    target = torch.zeros(2, 2, 3, 3)
    samples = NoisySamples(target, torch.zeros(2), ["", ""], target, torch.tensor([1.0, 3.0]))
    prediction = torch.stack([torch.full((2, 3, 3), 2.0), torch.full((2, 3, 3), 1.0)])
    assert float(objective.loss(ModelPrediction(prediction), samples)) == pytest.approx((1 * 4 + 3 * 1) / 2)
