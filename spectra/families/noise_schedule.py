"""How noise is added to latents, what a model should answer, and how times are drawn and weighted in training.

`DiffusionSchedule` is the discrete one of DDPM, `FlowSchedule` the straight way of flow matching.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from spectra.errors import BaseError


class Schedule(Protocol):
    """A noise schedule: `noisy = signal * latents + spread * noise`. Times are in the scheduler's own unit."""

    def draw(self, generator: torch.Generator) -> Tensor:
        """The time of one training sample, a scalar."""

    def at(self, shares: Tensor) -> Tensor:
        """The times `[n]` below which these shares of all that is drawn lie, `[n]` from 0 to 1."""

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and spread of `timesteps [n]`: `[n, 1, 1, 1]` in the dtype and on the device of `like`."""

    def noisy_and_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents, and what the model should answer to them."""

    def weights(self, timesteps: Tensor) -> Tensor:
        """Each sample's weight in the loss, `[n]`."""

    def sampled(self, how: str) -> Schedule:
        """The same schedule, its times drawn otherwise.

        Args:
            how: "uniform", all times alike; "sigmoid", logit-normal: mostly middle ones; "shift", that moved towards
                noise as the scheduler moves the steps of a drawing; or "auto", as the kind of schedule is trained.

        Raises:
            BaseError: its times cannot be drawn so.
        """


@dataclass(frozen=True)
class DiffusionSchedule:
    """A discrete schedule: `alphas_cumprod [T]` (float64), what the model predicts, and the min-SNR clip (0: none).

    `sampling` says how times are drawn, see `Schedule.sampled`: "auto" is all times alike.
    """

    alphas_cumprod: Tensor
    prediction: str
    min_snr_gamma: float = 0.0
    sampling: str = "auto"

    @classmethod
    def of(cls, scheduler: Any, tokens: int = 1, min_snr_gamma: float = 0.0) -> DiffusionSchedule:
        """The schedule of a diffusers scheduler, the same for pictures of any size.

        Raises:
            BaseError: it has no such schedule, or predicts something that is not known here.
        """
        if not hasattr(scheduler, "alphas_cumprod"):
            raise BaseError(
                f"the base's scheduler {type(scheduler).__name__} has no noise schedule of the DDPM kind, which this "
                "kind of model is trained with; give the base its own scheduler"
            )
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise BaseError(f"prediction type {prediction!r} is not known; expected epsilon, v_prediction or sample")
        return cls(scheduler.alphas_cumprod.to("cpu", torch.float64), prediction, min_snr_gamma)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Any of the timesteps, as likely as another; or those in the middle more likely."""
        count = len(self.alphas_cumprod)
        if self.sampling == "sigmoid":
            return (torch.randn((), generator=generator).sigmoid() * count).long().clamp_max(count - 1)
        return torch.randint(count, (), generator=generator)

    def at(self, shares: Tensor) -> Tensor:
        """The timesteps of these shares of all draws."""
        count = len(self.alphas_cumprod)
        shares = _logit_normal(shares) if self.sampling == "sigmoid" else shares
        return (shares * count).long().clamp_max(count - 1)

    def sampled(self, how: str) -> DiffusionSchedule:
        """The same, its times drawn as `how` says; the steps of a drawing are not moved here."""
        if how == "shift":
            raise BaseError(
                'timestep sampling "shift" is for flow matching, and this base has a discrete noise schedule; use '
                "uniform or sigmoid"
            )
        return replace(self, sampling=how)

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """`sqrt(a)` and `sqrt(1 - a)` of `timesteps [n]`, `[n, 1, 1, 1]` in the dtype and on the device of `like`."""
        alpha = self.alphas_cumprod[timesteps.cpu()].to(like.device).view(-1, 1, 1, 1)
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)

    def noisy_and_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """`z_t = sqrt(a) z + sqrt(1 - a) eps`, and what the model should predict from it."""
        signal, spread = self.levels(timesteps, latents)
        noisy = signal * latents + spread * noise
        if self.prediction == "epsilon":
            return noisy, noise
        if self.prediction == "sample":
            return noisy, latents
        return noisy, signal * noise - spread * latents

    def velocity(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """`v = sqrt(a) eps - sqrt(1 - a) z` as a prediction for `noisy [n, c, h, w]` implies it, of whatever kind."""
        signal, spread = self.levels(timesteps, noisy)
        latents, noise = latents_and_noise(self.prediction, noisy, prediction, signal, spread)
        velocity: Tensor = signal * noise - spread * latents
        return velocity

    def weights(self, timesteps: Tensor) -> Tensor:
        """Min-SNR weights `[n]` (arXiv:2303.09556, equation 4, for each kind of prediction); ones without a clip."""
        if self.min_snr_gamma == 0:
            return torch.ones(timesteps.shape[0])
        alpha = self.alphas_cumprod[timesteps.cpu()]
        snr = alpha / (1 - alpha)
        clipped = snr.clamp_max(self.min_snr_gamma)
        if self.prediction == "sample":
            weights = clipped
        elif self.prediction == "v_prediction":
            weights = clipped / (snr + 1)
        else:
            weights = torch.where(snr > 0, clipped / snr.clamp_min(1e-30), 1.0)  # its limit where there is no signal
        return weights.to(torch.float32)


def latents_and_noise(kind: str, noisy: Any, prediction: Any, signal: Any, spread: Any) -> tuple[Any, Any]:
    """The `z` and `eps` of `noisy = signal z + spread eps` that a prediction of this kind implies."""
    if kind == "epsilon":
        return (noisy - spread * prediction) / signal, prediction
    if kind == "sample":
        return prediction, (noisy - signal * prediction) / spread
    return signal * noisy - spread * prediction, signal * prediction + spread * noisy


@dataclass(frozen=True)
class FlowSchedule:
    """The straight way from a picture to noise, `(1 - sigma) z + sigma eps`, with time `sigma * steps`.

    `sigma` is drawn logit-normal (arXiv:2403.03206, section 3.1), then moved towards noise as the scheduler moves the
    steps of a drawing: by `odds`, the factor of `sigma / (1 - sigma)`. Every sample weighs the same. That is how
    times are drawn for a `sampling` of "shift", or "auto", see `Schedule.sampled`.
    """

    odds: float = 1.0
    steps: int = 1000
    sampling: str = "auto"

    @classmethod
    def of(cls, scheduler: Any, tokens: int = 1, min_snr_gamma: float = 0.0) -> FlowSchedule:
        """The schedule of a diffusers scheduler for pictures of as many tokens; min-SNR weights are no matter here.

        Raises:
            BaseError: its models do not answer a flow.
        """
        config = scheduler.config
        if not (
            type(scheduler).__name__.startswith("FlowMatch")
            or config.get("use_flow_sigmas")
            or config.get("prediction_type") == "flow_prediction"
        ):
            raise BaseError(
                f"the base's scheduler {type(scheduler).__name__} is none of flow matching, which this kind of model "
                "is trained with; give the base its own scheduler"
            )
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        if config.get("use_dynamic_shifting"):
            mu = dynamic_shift(config, tokens)
            shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
        return cls(float(shift), int(config.num_train_timesteps))

    def draw(self, generator: torch.Generator) -> Tensor:
        """A time, in float32."""
        if self.sampling == "uniform":
            return self.steps * torch.rand((), generator=generator)
        return self._moved(torch.randn((), generator=generator).sigmoid())

    def at(self, shares: Tensor) -> Tensor:
        """The times of these shares of all draws, in float32."""
        return self.steps * shares if self.sampling == "uniform" else self._moved(_logit_normal(shares))

    def _moved(self, sigma: Tensor) -> Tensor:
        """The times of sigmas drawn logit-normal."""
        odds = 1.0 if self.sampling == "sigmoid" else self.odds
        return self.steps * odds * sigma / (1 + (odds - 1) * sigma)

    def sampled(self, how: str) -> FlowSchedule:
        """The same, its times drawn as `how` says."""
        return replace(self, sampling=how)

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """`1 - sigma` and `sigma` of `timesteps [n]`, `[n, 1, 1, 1]` in the dtype and on the device of `like`."""
        sigma = (timesteps.to(like.device, torch.float32) / self.steps).view(-1, 1, 1, 1)
        return (1 - sigma).to(like.dtype), sigma.to(like.dtype)

    def noisy_and_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """`(1 - sigma) z + sigma eps`, and `eps - z`."""
        signal, spread = self.levels(timesteps, latents)
        return signal * latents + spread * noise, noise - latents

    def weights(self, timesteps: Tensor) -> Tensor:
        """Ones."""
        return torch.ones(timesteps.shape[0])


def _logit_normal(shares: Tensor) -> Tensor:
    """The quantiles of the logistic function of a standard normal variable."""
    quantiles: Tensor = torch.special.ndtri(shares).sigmoid()
    return quantiles


def dynamic_shift(config: Any, tokens: int) -> float:
    """How far a scheduler moves the steps for a picture of as many tokens: a line through two points, in its terms."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - least) / (many - few)
    return float(least + slope * (tokens - few))
