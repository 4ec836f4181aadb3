"""Keeping what an edit does not ask to change: a mask of it, and the unedited picture put back there.

1.  *Where* (after DiffEdit, arXiv:2210.11427): at every step of the picture's own way from its noise, the model
    predicts with the caption and with the edit. Where the two agree, the edit says nothing about the picture. DiffEdit
    takes random noise; the picture's own needs no seed, and is where the edit starts from too.
2.  *Edges*: a cell of the latents is 4 or 8 pixels wide. The guided filter (He, Sun and Tang, Guided Image Filtering,
    2010) draws their mask to the edges of the picture.
3.  *Putting back*, in pixels: what a VAE decodes in one place depends on all places (its norms take the whole picture's
    mean), so that latents that were put back would come out in other colours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spectra.editing.inversion import ddim_steps, predict
from spectra.families.family import Condition, Family
from spectra.families.noise_schedule import DiffusionSchedule
from spectra.training.data.pictures import to_tensor

LEAST_CHANGE = 1e-3
"""A smaller mean difference in velocity is as good as none; a ground that changes its colour has about 1."""

SOFTNESS = 1 / 3
"""Changes this much below and above the asked share, relative to it, are kept by halves before edges are sought."""

PASSES = 5
"""How often the guided filter is applied: each time moves the mask's edge further to the picture's."""

STEEPEN = 0.2
"""After a pass, a mask this near to 0 or 1 becomes 0 or 1."""

FLATNESS = 1e-3
"""The guided filter's epsilon: variance of colours (0 to 1) below which a patch has no edge."""


@torch.no_grad()
def measure_change(
    pipe: Any, family: Family, noise: Tensor, caption: Condition, edits: Condition, steps: int
) -> Tensor:
    """How much each edit asks to change in each place: `[n, 1, h, w]`, 1 where it changes most.

    The norm over channels of the difference in velocity `v`, which every kind of prediction implies, summed over the
    steps. Less than 1 everywhere, and 0 but for rounding, where an edit asks for just what the caption does.

    Args:
        noise: the picture's own, `[1, c, h, w]`: inverted with the caption, in as many `steps`.
        caption: one row.
        edits: `n` rows.
    """
    schedule, both = DiffusionSchedule.of(pipe.scheduler), Condition.joined([caption, edits])
    rows = len(both.embeds)
    y, summed = noise, torch.zeros_like(noise)
    for timestep, a, b in ddim_steps(pipe.scheduler, steps):
        same = y.repeat(rows, 1, 1, 1)
        prediction = predict(pipe, family, same, timestep, both)
        velocity = schedule.velocity(same, prediction, torch.full((rows,), timestep, device=y.device))
        summed = summed + (velocity[1:] - velocity[:1])
        y = a * y + b * prediction[:1]
    change: Tensor = summed.float().norm(dim=1, keepdim=True) / steps
    largest = change.amax((1, 2, 3), keepdim=True).clamp(min=LEAST_CHANGE)
    return change / largest


def find_mask(change: Tensor, keep: float, picture: Image.Image) -> Tensor:
    """The mask of what is edited in a picture of `H x W` pixels, `[n, 1, H, W]` from 0 (kept) to 1.

    Places whose `change [n, 1, h, w]`, see `measure_change`, is less than `keep`, which is above 0, are kept.
    """
    size = (picture.height, picture.width)
    cell = max(1, picture.width // change.shape[-1])
    mask = ((change.cpu().float() / keep - 1) / (2 * SOFTNESS) + 0.5).clamp(0, 1)
    mask = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)
    guide = _pixels(picture)
    guided = _guided_filter(guide, cell)
    for _ in range(PASSES):
        mask = ((guided(mask) - STEEPEN) / (1 - 2 * STEEPEN)).clamp(0, 1)
    return _guided_filter(guide, max(1, cell // 4))(mask).clamp(0, 1)  # as soft as the picture's edges are


def put_back(drawn: Image.Image, unedited: Image.Image, mask: Tensor, cell: int) -> Image.Image:
    """`drawn` where `mask [1, 1, H, W]` is 1, `unedited` where it is 0, and on edges as if the edit lay behind.

    A pixel on an edge shows a share `mask` of what lies behind, old or new: `mask * (new - old)` is to be added to it.
    On edges `new - old` is not known, and half a cell around what is kept the edit has drawn its own version of that.
    There the difference is spread from places that are edited as a whole. `cell` is a latent's width in pixels.
    """
    old = _pixels(unedited)
    difference = _pixels(drawn) - old
    reach = cell // 2
    sure = (-F.max_pool2d(-mask, 2 * reach + 1, 1, reach)) ** 8  # of the least mask around
    weight = sure + 1e-6
    spread = _blur(weight * difference, 0.75 * cell) / _blur(weight, 0.75 * cell)
    new = old + mask * (sure * difference + (1 - sure) * spread)
    values = (new[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(values)


def _guided_filter(guide: Tensor, radius: int) -> Callable[[Tensor], Tensor]:
    """A filter of masks `[n, 1, H, W]`: in every window, the best linear function of the colours of `guide`."""
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
    """A picture's colours, `[1, 3, H, W]` from 0 to 1."""
    return (to_tensor([picture.convert("RGB")]) + 1) / 2
