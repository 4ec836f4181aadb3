"""Noisy latents, what a model predicts from them, and the weights of timesteps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectra.errors import BaseError


@dataclass(frozen=True)
class NoiseSchedule:
    """A noise schedule: `alphas_cumprod [T]` (float64), what the model predicts, and the min-SNR clip (0: none)."""

    alphas_cumprod: Tensor
    prediction: str
    min_snr_gamma: float = 0.0

    @classmethod
    def of(cls, scheduler: Any, min_snr_gamma: float = 0.0) -> NoiseSchedule:
        """The schedule of a diffusers scheduler.

        Raises:
            BaseError: it predicts something that is not known here.
        """
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise BaseError(f"prediction type {prediction!r} is not known; expected epsilon, v_prediction or sample")
        return cls(scheduler.alphas_cumprod.to("cpu", torch.float64), prediction, min_snr_gamma)

    def _levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """`sqrt(a)` and `sqrt(1 - a)` of `timesteps [n]`, `[n, 1, 1, 1]` in the dtype and on the device of `like`."""
        alpha = self.alphas_cumprod[timesteps.cpu()].to(like.device).view(-1, 1, 1, 1)
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)

    def noisy_and_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """`z_t = sqrt(a) z + sqrt(1 - a) eps`, and what the model should predict from it."""
        signal, spread = self._levels(timesteps, latents)
        noisy = signal * latents + spread * noise
        if self.prediction == "epsilon":
            return noisy, noise
        if self.prediction == "sample":
            return noisy, latents
        return noisy, signal * noise - spread * latents

    def velocity(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """`v = sqrt(a) eps - sqrt(1 - a) z` as a prediction for `noisy [n, c, h, w]` implies it, of whatever kind."""
        signal, spread = self._levels(timesteps, noisy)
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
