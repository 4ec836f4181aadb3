"""Keeping what an edit does not ask to change: where that is, and the unedited picture put back there.

1.  *Where* (after DiffEdit, arXiv:2210.11427): at every step of the picture's own way from its noise, the model is
    asked with the caption and with the edit. A place where the two answers agree is one that the edit says nothing
    about. DiffEdit asks at random noise; the picture's own needs no seed, and is where the edit starts from too.
2.  *Edges*: latents are coarse, a cell of them is 4 or 8 pixels wide. The guided filter (He, Sun and Tang, Guided Image
    Filtering, 2010) draws their mask to the edges of the picture.
3.  *Putting back*, in pixels: what a VAE decodes in one place depends on all places (its norms take the whole picture's
    mean), so that latents that were put back would come out in other colours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spectra.editing.inversion import predict, walk
from spectra.families.denoise import Condition, DenoiseFamily
from spectra.training.loss.noise_schedule import NoiseSchedule

LEAST = 1e-3
"""A mean difference in velocity, which is about 1 where a ground changes its colour, that is as good as none."""

SOFTNESS = 1 / 3
"""Changes this much below and above the asked share, relative to it, are kept by halves before edges are sought."""

PASSES = 5
"""Of the guided filter: each one moves the mask's edge further to the picture's."""

STEEPEN = 0.2
"""After a pass, what is this near to 0 or 1 becomes that."""

FLATNESS = 1e-3
"""The guided filter's epsilon: variance of colours (0 to 1) below which a patch has no edge."""


@torch.no_grad()
def measure_change(
    pipe: Any, family: DenoiseFamily, noise: Tensor, caption: Condition, edits: Condition, steps: int
) -> Tensor:
    """How much each edit asks to change in each place: `[n, 1, h, w]`, 1 in the place that changes most.

    It is the norm over channels of the difference in velocity `v`, which every kind of prediction implies, summed over
    the steps. Less than 1 everywhere, and 0 but for rounding, where an edit asks for just what the caption does.

    Args:
        pipe: the model, with a `ddim` scheduler.
        family: how it is called.
        noise: the picture's own, `[1, c, h, w]`: inverted with the caption.
        caption: one row.
        edits: `n` rows.
        steps: as many as the noise was inverted in.
    """
    schedule, both = NoiseSchedule.of(pipe.scheduler, 0), Condition.joined([caption, edits])
    rows = len(both.embeds)
    y, summed = noise, torch.zeros_like(noise)
    for timestep, a, b in walk(pipe.scheduler, steps):
        same = y.repeat(rows, 1, 1, 1)
        prediction = predict(pipe, family, same, timestep, both)
        velocity = schedule.velocity(same, prediction, torch.full((rows,), timestep, device=y.device))
        summed = summed + (velocity[1:] - velocity[:1])
        y = a * y + b * prediction[:1]
    change: Tensor = summed.float().norm(dim=1, keepdim=True) / steps
    largest = change.amax((1, 2, 3), keepdim=True).clamp(min=LEAST)
    return change / largest


def find_mask(change: Tensor, keep: float, picture: Image.Image) -> Tensor:
    """What is edited of a picture, `[n, 1, H, W]` from 0 (kept) to 1.

    Args:
        change: as `measure_change` returns it, `[n, 1, h, w]`.
        keep: above 0; places with less change than this are kept.
        picture: whose edges the mask is drawn to, `H` and `W` large.
    """
    guide = _pixels(picture)
    size = (picture.height, picture.width)
    cell = max(1, picture.width // change.shape[-1])
    mask = ((change.cpu().float() / keep - 1) / (2 * SOFTNESS) + 0.5).clamp(0, 1)
    mask = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)
    return _draw_to_edges(mask, guide, cell)


def put_back(drawn: Image.Image, unedited: Image.Image, mask: Tensor, cell: int) -> Image.Image:
    """`drawn` where the mask is 1, `unedited` where it is 0, and on edges as if the edit lay behind what is kept.

    A pixel on an edge shows a share `mask` of what lies behind, old or new: `mask * (new - old)` is to be added to it.
    Of edge pixels themselves `new - old` is not known, and half a cell around what is kept the edit has drawn its own
    version of that. There the difference is spread from places that are edited as a whole.

    Args:
        drawn: the edit, `H` by `W`.
        unedited: of the same size.
        mask: `[1, 1, H, W]`.
        cell: pixels that a place of the latents is wide.
    """
    old = _pixels(unedited)
    difference = _pixels(drawn) - old
    reach = cell // 2
    whole = -F.max_pool2d(-mask, 2 * reach + 1, 1, reach)  # the least around
    sure = whole**8
    weight = sure + 1e-6
    spread = _blur(weight * difference, 0.75 * cell) / _blur(weight, 0.75 * cell)
    new = old + mask * (sure * difference + (1 - sure) * spread)
    values = (new[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(values)


def _draw_to_edges(mask: Tensor, guide: Tensor, radius: int) -> Tensor:
    """`mask [n, 1, H, W]` moved to the edges of `guide [1, 3, H, W]`, which may be `radius` pixels away."""
    guided = _guided_filter(guide, radius)
    for _ in range(PASSES):
        mask = ((guided(mask) - STEEPEN) / (1 - 2 * STEEPEN)).clamp(0, 1)
    return _guided_filter(guide, max(1, radius // 4))(mask).clamp(0, 1)  # as soft as the picture's edges are


def _guided_filter(guide: Tensor, radius: int) -> Callable[[Tensor], Tensor]:
    """Makes of `[n, 1, H, W]` what, in every window, is the best linear function of the colours of `guide`."""
    mean = _box(guide, radius)
    pairs = _box(guide[:, :, None] * guide[:, None], radius) - mean[:, :, None] * mean[:, None]
    inverse = torch.linalg.inv(pairs.permute(0, 3, 4, 1, 2) + FLATNESS * torch.eye(3))  # [1, H, W, 3, 3]

    def guided(mask: Tensor) -> Tensor:
        average = _box(mask, radius)
        shared = (_box(guide * mask, radius) - mean * average).permute(0, 2, 3, 1)
        slope = (inverse @ shared[..., None])[..., 0].permute(0, 3, 1, 2)
        offset = average - (slope * mean).sum(1, keepdim=True)
        return (_box(slope, radius) * guide).sum(1, keepdim=True) + _box(offset, radius)

    return guided


def _box(x: Tensor, radius: int) -> Tensor:
    """Means over squares of `2 radius + 1` pixels of `[..., H, W]`; edges of the picture are repeated."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    side = 2 * radius + 1
    padded = F.pad(flat, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1).view_as(x)


def _blur(x: Tensor, width: float) -> Tensor:
    """Gaussian blur of `[1, c, H, W]`, `width` pixels of standard deviation."""
    reach = int(3 * width + 0.5)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * width**2))
    kernel = kernel / kernel.sum()
    flat = F.pad(x.transpose(0, 1), (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).transpose(0, 1)


def _pixels(picture: Image.Image) -> Tensor:
    """`[1, 3, H, W]` from 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255).permute(2, 0, 1)[None]
