"""DDIM walked both ways: from a picture's latents to the noise they would be drawn from, and back.

A step of DDIM without noise (arXiv:2010.02502, equation 12) leads from `y` at the level of a timestep to `x` at the
level below it. Whatever the model predicts, it is linear in `y` and in the prediction `p(y)`:

    x = a y + b p(y)

so that the way up is the fixed point of `y = (x - b p(y)) / a`. Plain DDIM inversion evaluates `p` once, at `x`; here
that is only the first guess, and the steps agree with each other in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spectra.families.family import Condition, Family
from spectra.families.noise_schedule import DiffusionSchedule, latents_and_noise
from spectra.progress import SILENT, Progress, working

EVALUATIONS = 6
"""Most calls of the model in one step of an inversion."""

TOLERANCE = 1e-3
"""A step has converged when a call moves the latents by less than this, relative to their norm."""


def ddim_scheduler(scheduler: Any) -> Any:
    """DDIM on the noise schedule of a base's scheduler, ending at the schedule's first level and clipping nothing.

    Raises:
        BaseError: a kind of prediction that is not known here.
    """
    from diffusers import DDIMScheduler

    made = DDIMScheduler.from_config(
        scheduler.config, clip_sample=False, thresholding=False, set_alpha_to_one=False, rescale_betas_zero_snr=False
    )
    made.alphas_cumprod = scheduler.alphas_cumprod.clone()  # as it is, zero terminal signal included
    made.final_alpha_cumprod = made.alphas_cumprod[0]
    DiffusionSchedule.of(made)  # refuses a kind of prediction that is not known
    return made


@torch.no_grad()
def invert(
    pipe: Any, family: Family, latents: Tensor, condition: Condition, steps: int, progress: Progress = SILENT
) -> Tensor:
    """The noise `[n, c, h, w]` from which DDIM draws `latents [n, c, h, w]` at guidance 1, in as many `steps`.

    `pipe` has a `ddim_scheduler`, and `condition` a row for each sample.
    """
    x = latents
    with working(progress, "inverting", steps):
        for timestep, a, b in reversed(list(ddim_steps(pipe.scheduler, steps))):
            y, last = x, torch.full((len(x),), float("inf"), device=x.device)
            converged = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            for _ in range(EVALUATIONS):
                moved = (x - b * predict(pipe, family, y, timestep, condition)) / a
                change = (moved - y).flatten(1).norm(dim=1)
                # A converged sample stays, however often its neighbours are evaluated; so does one that runs away.
                converged |= change > last
                y, last = torch.where(converged.view(-1, 1, 1, 1), y, moved), change
                converged |= change <= TOLERANCE * y.flatten(1).norm(dim=1)
                if converged.all():
                    break
            x = y
            progress.advance()
    return x


@torch.no_grad()
def ddim_sample(pipe: Any, family: Family, noise: Tensor, condition: Condition, steps: int) -> Tensor:
    """The latents that DDIM draws from `noise [n, c, h, w]` at guidance 1: the way back of `invert`."""
    y = noise
    for timestep, a, b in ddim_steps(pipe.scheduler, steps):
        y = a * y + b * predict(pipe, family, y, timestep, condition)
    return y


def slerp(amount: float, one: Tensor, other: Tensor) -> Tensor:
    """Spherical interpolation of each sample `[n, c, h, w]`: 0 is `one`, 1 is `other`, and norms stay in between.

    Samples that point the same way, or opposite ways, have no one arc between them and are mixed linearly.
    """
    a, b = one.flatten(1).double(), other.flatten(1).double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    angle = torch.acos(cosine.clamp(-1, 1))
    arc = angle.sin() > 1e-6
    first = torch.where(arc, torch.sin((1 - amount) * angle) / angle.sin(), 1 - amount)
    second = torch.where(arc, torch.sin(amount * angle) / angle.sin(), amount)
    return (first[:, None] * a + second[:, None] * b).view_as(one).to(one.dtype)


def predict(pipe: Any, family: Family, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
    """The model's prediction for `latents [n, c, h, w]`, all at one timestep."""
    timesteps = torch.full((len(latents),), timestep, device=latents.device)
    return family.predict(pipe, latents, timesteps, condition)


def ddim_steps(scheduler: Any, steps: int) -> Iterator[tuple[int, float, float]]:
    """Yield timestep, `a` and `b` of every step, from noise to picture, just as the scheduler takes them."""
    scheduler.set_timesteps(steps)
    levels, kind = scheduler.alphas_cumprod.double(), scheduler.config.prediction_type
    apart = len(levels) // steps
    for timestep in scheduler.timesteps.tolist():
        here, there = levels[timestep], levels[max(0, timestep - apart)]
        signal, spread = here.sqrt(), (1 - here).sqrt()
        a, b = (  # x = sqrt(there) z + sqrt(1 - there) eps is linear: its values at (y, p) = (1, 0) and (0, 1)
            there.sqrt() * latents + (1 - there).sqrt() * noise
            for latents, noise in (latents_and_noise(kind, y, 1 - y, signal, spread) for y in (1.0, 0.0))
        )
        yield timestep, float(a), float(b)
